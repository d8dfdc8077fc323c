"""What every reader yields, and what readers share. T order: wrist, then thumb to little finger, base to tip."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_hands.errors import DataError
from edge_hands.hands import NUM_JOINTS

#: InterHand2.6M and AssemblyHands: one hand tip -> base, thumb first, wrist last.
FROM_TIPS_WRIST_LAST = (20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16)


@dataclass(frozen=True)
class Hand:
    """``side`` "left" or "right" of the person; xyz (21, 3) metres in camera space (x right, y down, z forward), uv
    (21, 2) pixels, ``valid`` (21,) whether a joint is annotated and ``visible`` (21,) whether it is not hidden, as far
    as the data set says; T order."""

    side: str
    xyz: np.ndarray
    uv: np.ndarray
    valid: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class Frame:
    """A picture file, its camera ``K`` (3, 3) and the hands in it."""

    path: Path
    K: np.ndarray
    hands: tuple[Hand, ...]

    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB; grey cameras have three equal channels. Raises DataError when it cannot be read."""
        image = cv2.imread(str(self.path), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise DataError(f"{self.path} is missing or no picture; is the data set unpacked whole?")
        return image


def hand(
    side: str, xyz: np.ndarray, K: np.ndarray, valid: np.ndarray | None = None, visible: np.ndarray | None = None
) -> Hand:
    """A hand from its joints (21, 3) in metres and T order; uv is their projection. Joints at or behind the camera are
    not valid."""
    xyz = np.asarray(xyz, float)
    ahead = np.isfinite(xyz).all(-1) & (xyz[:, 2] > 1e-3)
    valid = ahead if valid is None else ahead & valid.astype(bool)
    uv = np.zeros((NUM_JOINTS, 2))
    seen = xyz[ahead] @ np.asarray(K, float).T
    uv[ahead] = seen[:, :2] / seen[:, 2:]
    return Hand(side, xyz, uv, valid, valid if visible is None else valid & visible.astype(bool))


def read_json(path: Path) -> Any:
    """Raises DataError when the file is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); is the data set unpacked whole?") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); fetch it again") from error


def check_split(split: str, known: tuple[str, ...]) -> None:
    """Raises DataError for a split that the data set has not."""
    if split not in known:
        raise DataError(f"there is no split {split!r}; expected one of {', '.join(known)}")
