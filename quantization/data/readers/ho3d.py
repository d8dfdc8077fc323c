"""HO-3D v2 and v3 (Hampali et al. 2020, 2021): one right hand with an object, metres, OpenGL axes.

x right, y up, z backward, so camera space is X * (1, -1, -1). MANO's order: wrist, index, middle, little, ring, thumb,
three joints each, then the five tips from thumb to little finger. Evaluation has wrists only and yields no hands.
Layout after the owners' tools; not tried on the data set itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_hands.errors import DataError
from edge_hands.hands import NUM_JOINTS
from edge_hands.quantization.data.readers.frame import Frame, check_split, hand
from edge_hands.quantization.data.readers.unpickle import load

SPLITS = ("train", "evaluation")
LAYOUT = "train/ABF10/rgb/0000.png (or .jpg), train/ABF10/meta/0000.pkl, train.txt, and the same of evaluation"
#: T order from MANO's with tips.
ORDER = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)


def frames(root: Path, split: str) -> Iterator[Frame]:
    """``split``: train or evaluation. A frame without annotation has no hands."""
    check_split(split, SPLITS)
    try:
        names = (root / f"{split}.txt").read_text().split()
    except OSError as error:
        raise DataError(f"cannot read {root / split}.txt ({error.strerror}); expected {LAYOUT}") from error
    for name in names:
        sequence, _, number = name.partition("/")
        folder = root / split / sequence
        meta, hands = load(folder / "meta" / f"{number}.pkl"), ()
        joints, K = meta.get("handJoints3D"), meta.get("camMat")
        K = np.eye(3) if K is None else np.array(K, float)
        if joints is not None and np.shape(joints) == (NUM_JOINTS, 3):
            hands = (hand("right", (np.array(joints) * (1, -1, -1))[list(ORDER)], K),)
        jpeg = folder / "rgb" / f"{number}.jpg"
        yield Frame(jpeg if jpeg.exists() else jpeg.with_suffix(".png"), K, hands)
