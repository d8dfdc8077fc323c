"""FreiHAND v2 (Zimmermann et al. 2019): right hands only, T order, metres; four pictures for each training pose.

Picture i of ``training/rgb`` shows pose i mod n, with n poses: the same hands before other backgrounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_hands.errors import DataError
from edge_hands.quantization.data.readers.frame import Frame, check_split, hand, read_json

SPLITS = ("training", "evaluation")
LAYOUT = "training/rgb/00000000.jpg, training_K.json, training_xyz.json, and the same of evaluation"


def frames(root: Path, split: str) -> Iterator[Frame]:
    """``split``: training or evaluation."""
    check_split(split, SPLITS)
    cameras, joints = (read_json(root / f"{split}_{what}.json") for what in ("K", "xyz"))
    if len(cameras) != len(joints) or not joints:
        raise DataError(f"{root}: {len(cameras)} cameras for {len(joints)} hands; the files of {split} belong together")
    for path in sorted((root / split / "rgb").glob("*.jpg")):
        pose = int(path.stem) % len(joints)
        K = np.array(cameras[pose], float)
        yield Frame(path, K, (hand("right", np.array(joints[pose]), K),))
