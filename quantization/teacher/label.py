"""From what the teacher found in several looks at a picture to labelled crops.

n pictures, V looks, J = 21 joints. Pixels are continuous; metres have the picture's axes (x right, y down, z forward).
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_hands.crops import Crop, aligned_crop
from edge_hands.errors import RuntimeUnavailable
from edge_hands.hands import NUM_JOINTS, REFERENCE_SKELETON_LENGTH, skeleton_length
from edge_hands.quantization.data.shards import BASE_CROP, CROP_IMAGE
from edge_hands.quantization.teacher.convention import lifted, pixels_per_metre

_SCRIPT = Path(__file__).with_name("mediapipe_hands.py")


@dataclass(frozen=True)
class Found:
    """One hand a picture: uv (n, J, 2) pixels, xyz (n, J, 3) metres, ``right`` (n,) share of the looks that say so.

    ``moved`` (n,) is how far the median joint strays from its place among the looks, over the longer side of the
    hand's box; infinite where a look found nothing.
    """

    uv: np.ndarray
    xyz: np.ndarray
    right: np.ndarray
    moved: np.ndarray

    @classmethod
    def agreed(cls, uv: np.ndarray, xyz: np.ndarray, right: np.ndarray) -> Found:
        """Medians of looks uv (n, V, J, 2), xyz (n, V, J, 3) and right (n, V), NaN where one found nothing."""
        lost = np.isnan(right).any(1)
        middle, side = np.median(uv, 1), box_side(np.median(uv, 1))
        stray = np.linalg.norm(uv - middle[:, None], axis=-1).max(1)
        moved = np.where(lost, np.inf, np.median(stray, -1) / side)
        return cls(middle, np.median(xyz, 1), right.mean(1), moved)

    def kept(self, spread: float) -> np.ndarray:
        """(n,) bool: found in every look, always on the same side, and straying by at most ``spread`` of the box."""
        return (self.moved <= spread) & np.isin(self.right, (0.0, 1.0))


def ask(python: str | Path, images: np.ndarray) -> Found:
    """The teacher's labels for images (n, H, W, 3) uint8 RGB, by the Python of its environment.

    Raises RuntimeUnavailable when that Python does not start or has no MediaPipe.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, images=images)
        try:
            subprocess.run([python, _SCRIPT, source, target], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeUnavailable(
                f"{python} could not run MediaPipe ({error}); give --python the interpreter of an environment made by "
                "`python -m venv DIR && DIR/bin/pip install mediapipe==0.10.21`"
            ) from error
        with np.load(target) as found:
            return Found.agreed(found["uv"], found["xyz"], found["right"])


def box_side(uv: np.ndarray) -> np.ndarray:
    """Longer side (n,) of the box around joints uv (n, J, 2), not turned."""
    return (uv.max(-2) - uv.min(-2)).max(-1)


def as_right(uv: np.ndarray, xyz: np.ndarray, right: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """uv (n, J, 2) and xyz (n, J, 3) with left hands mirrored in a picture ``width`` wide; twice changes nothing."""
    uv, xyz, left = uv.copy(), xyz.copy(), right < 0.5
    uv[left, :, 0] = width - uv[left, :, 0]
    xyz[left, :, 0] *= -1
    return uv, xyz


def crop_sample(image: np.ndarray, uv: np.ndarray, xyz: np.ndarray, right: bool) -> tuple[np.ndarray, dict]:
    """The 160 x 160 RGB crop around one hand and its label (``data/shards.py``); uv (J, 2), xyz (J, 3) of ``image``.

    Beyond the photograph its border goes on. A picture does not tell a hand's size, so metres are those of a skeleton
    of the reference length; x and y follow from uv, as they do where a model lifts its joints.
    """
    base = aligned_crop(uv, mirror=not right)
    crop = Crop(base.center, base.side * CROP_IMAGE / BASE_CROP, base.angle, base.mirror)
    uv, xyz = crop.to_crop(uv, CROP_IMAGE), crop.xyz_to_crop(xyz)
    scale = float(pixels_per_metre(uv[None], xyz[None])[0])
    xyz = lifted(uv[None], xyz[None])[0]
    size = REFERENCE_SKELETON_LENGTH / float(skeleton_length(xyz))
    label = {
        "kind": "crop",
        "present": 1,
        "side": "right" if right else "left",
        "uv": uv.round(3).tolist(),
        "xyz": (xyz * size).round(5).tolist(),
        "visible": [1] * NUM_JOINTS,
        "depth_scale": round(scale / size, 4),
    }
    return crop.warp(image, CROP_IMAGE, cv2.BORDER_REPLICATE), label
