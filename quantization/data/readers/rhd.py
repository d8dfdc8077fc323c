"""Rendered Handpose Dataset (Zimmermann and Brox 2017), RHD_published_v2: up to two hands, metres, camera space.

42 joints, left hand first; each wrist, then tip to palm.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_hands.quantization.data.readers.frame import Frame, check_split, hand
from edge_hands.quantization.data.readers.unpickle import load

SPLITS = ("training", "evaluation")
LAYOUT = "training/color/00000.png, training/anno_training.pickle, and the same of evaluation"
#: T order from a hand's own.
ORDER = (0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17)


def frames(root: Path, split: str) -> Iterator[Frame]:
    """``split``: training or evaluation. A hand takes part when a joint of it is seen; the other is out of view."""
    check_split(split, SPLITS)
    for number, label in sorted(load(root / split / f"anno_{split}.pickle").items()):
        K, xyz, seen = np.array(label["K"]), np.array(label["xyz"]), np.array(label["uv_vis"])[:, 2] > 0.5
        hands = []
        for side, first in (("left", 0), ("right", 21)):
            own = first + np.array(ORDER)
            if seen[own].any():
                hands.append(hand(side, xyz[own], K, visible=seen[own]))
        yield Frame(root / split / "color" / f"{number:05d}.png", K, tuple(hands))
