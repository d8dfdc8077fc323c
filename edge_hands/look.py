"""One look of the landmark model at a hand, and which looks are at the same hand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edge_hands.crops import Crop, aligned_crop
from edge_hands.decode import iou

#: Two sets of joints nearer than this on average, in parts of the larger hand's box, are the same hand.
_SAME_HAND = 0.2
#: What a unit of the presence's log-odds says, beside one of the joints' and one of the detector's: a logistic
#: regression over looks in frames with and without hands gives 0.13 : 1 : 1.13 for the bundled models
#: (benchmarks/evidence.py), 0.2 to 0.3 : 1 : 1 to 1.2 for those before.
_PRESENCE_WEIGHT = 0.3


@dataclass(frozen=True, eq=False)
class Look:
    """One look of the landmark model: joints in frame pixels and camera axes; ``right`` is the person's hand's
    probability, ``fit`` the model's probability that ``crop`` was mirrored as it should be, ``detected`` the score of
    the detection that led here, 0.5 where none did."""

    crop: Crop
    uv: np.ndarray
    xyz: np.ndarray
    confidence: np.ndarray
    presence: float
    fit: float
    detected: float = 0.5

    @property
    def right(self) -> float:
        return 1.0 - self.fit if self.crop.mirror else self.fit

    @property
    def box(self) -> np.ndarray:
        return np.concatenate([self.uv.min(0), self.uv.max(0)])

    @property
    def size(self) -> float:
        return float(np.ptp(self.uv, axis=0).max())

    @property
    def odds(self) -> float:
        """How much the look says for a hand, by which looks at one place are compared: the mean log-odds of the joints
        and, as presence is nearly always sure of itself, less than a third of its own."""
        return _PRESENCE_WEIGHT * log_odds(self.presence) + float(np.mean([log_odds(p) for p in self.confidence]))

    @property
    def evidence(self) -> float:
        """What look and detection say together, by which a new hand is believed and hands are compared."""
        return self.odds + log_odds(self.detected)

    @property
    def next_crop(self) -> Crop:
        return aligned_crop(self.uv, self.crop.mirror)


def distinct(looks: Iterable[Look]) -> list[Look]:
    """Looks in their order without those at a hand that an earlier one has."""
    kept: list[Look] = []
    for look in looks:
        if not any(_same_hand(look, other) for other in kept):
            kept.append(look)
    return kept


def _same_hand(a: Look, b: Look) -> bool:
    apart = float(np.linalg.norm(a.uv - b.uv, axis=1).mean())
    same_side = a.crop.mirror == b.crop.mirror
    return apart < _SAME_HAND * max(a.size, b.size) or (same_side and iou(a.box, b.box) > 0.7)


def log_odds(probability: float) -> float:
    """Of a probability, cut at 0.01 % from 0 and 1."""
    safe = min(max(float(probability), 1e-4), 1.0 - 1e-4)
    return math.log(safe / (1.0 - safe))
