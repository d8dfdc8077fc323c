"""DexYCB (Chao et al. 2021): one hand that grasps an object, eight cameras, metres, camera space, T order.

Splits are set-up and part, "s1/train": s0 all seen, s1 unseen subjects, s2 unseen cameras, s3 unseen objects; the parts
after the owners' toolkit (NVlabs/dex-ycb-toolkit), by the places of subjects, sequences and cameras in the order of
their names. Not tried on the data set itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from edge_hands.errors import DataError
from edge_hands.quantization.data.readers.frame import Frame, check_split, hand

LAYOUT = (
    "20200709-subject-01/20200709_141754/836212060125/color_000000.jpg and labels_000000.npz, .../meta.yml, "
    "calibration/intrinsics/836212060125_640x480.yml"
)
#: Whether subject, sequence of the subject and camera (places from 0) belong to a split.
PARTS: dict[str, Callable[[int, int, int], bool]] = {
    "s0/train": lambda subject, sequence, camera: sequence % 5 != 4,
    "s0/val": lambda subject, sequence, camera: sequence % 5 == 4 and subject < 2,
    "s0/test": lambda subject, sequence, camera: sequence % 5 == 4 and subject >= 2,
    "s1/train": lambda subject, sequence, camera: subject in (0, 1, 2, 3, 4, 5, 9),
    "s1/val": lambda subject, sequence, camera: subject == 6,
    "s1/test": lambda subject, sequence, camera: subject in (7, 8),
    "s2/train": lambda subject, sequence, camera: camera < 6,
    "s2/val": lambda subject, sequence, camera: camera == 6,
    "s2/test": lambda subject, sequence, camera: camera == 7,
    "s3/train": lambda subject, sequence, camera: sequence // 5 not in (3, 7, 11, 15, 19),
    "s3/val": lambda subject, sequence, camera: sequence // 5 in (3, 19),
    "s3/test": lambda subject, sequence, camera: sequence // 5 in (7, 11, 15),
}
SPLITS = tuple(PARTS)


def frames(root: Path, split: str) -> Iterator[Frame]:
    """``split``: s0/train to s3/test. A frame whose hand is out of view has no hands."""
    check_split(split, SPLITS)
    subjects = sorted(path for path in root.iterdir() if re.match(r"\d{8}-", path.name) and path.is_dir())
    cameras = sorted(path.name.split("_")[0] for path in (root / "calibration" / "intrinsics").glob("*_640x480.yml"))
    if not subjects or not cameras:
        raise DataError(f"{root} holds no subjects or no calibration; expected {LAYOUT}")
    matrices = [_intrinsics(root / "calibration" / "intrinsics" / f"{name}_640x480.yml") for name in cameras]
    for subject, folder in enumerate(subjects):
        for sequence, takes in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
            chosen = [camera for camera in range(len(cameras)) if PARTS[split](subject, sequence, camera)]
            side = _side(takes / "meta.yml") if chosen else ""
            for camera in chosen:
                for label in sorted((takes / cameras[camera]).glob("labels_*.npz")):
                    yield _frame(label, side, matrices[camera])


def _frame(label: Path, side: str, K: np.ndarray) -> Frame:
    try:
        with np.load(label, allow_pickle=False) as arrays:
            xyz = arrays["joint_3d"].reshape(21, 3)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{label} is damaged ({error}); fetch it again") from error
    absent = (xyz == -1).all()
    path = label.with_name(label.name.replace("labels_", "color_")).with_suffix(".jpg")
    return Frame(path, K, () if absent else (hand(side, xyz, K),))


def _intrinsics(path: Path) -> np.ndarray:
    """K of the color camera; the owners' YAML is flat, two spaces deep."""
    color = re.search(r"^color:\n((?:  .*\n?)+)", path.read_text(), re.MULTILINE)
    values = dict(re.findall(r"^  (\w+): *(\S+)$", color[1], re.MULTILINE)) if color else {}
    fx, fy, x, y = (float(values[name]) for name in ("fx", "fy", "ppx", "ppy"))
    return np.array([[fx, 0, x], [0, fy, y], [0, 0, 1]])


def _side(path: Path) -> str:
    """ "left" or "right", the first of mano_sides."""
    found = re.search(r"^mano_sides:\s*(?:\[|\n *- *)['\"]?(left|right)\b", path.read_text(), re.MULTILINE)
    if not found:
        raise DataError(f"{path} names no side of the hand in mano_sides; fetch it again")
    return found[1]
