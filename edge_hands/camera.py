"""A pinhole camera: intrinsics, projection, and placing a wrist-relative hand in front of it.

Camera axes are x right, y down, z forward, metres; pixels are continuous, the first pixel's centre at (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Intrinsics:
    """Focal lengths and principal point of an undistorted camera, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_fov(cls, width: int, height: int, horizontal_fov: float) -> Intrinsics:
        """Square pixels and a centred principal point for a picture of this size; the angle in radians."""
        focal = width / 2 / np.tan(horizontal_fov / 2)
        return cls(float(focal), float(focal), width / 2, height / 2)

    def project(self, xyz: np.ndarray) -> np.ndarray:
        """Camera axes (..., 3) in metres -> pixels (..., 2)."""
        xyz = np.asarray(xyz, float)
        return xyz[..., :2] / xyz[..., 2:] * (self.fx, self.fy) + (self.cx, self.cy)

    def rays(self, uv: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) -> x/z and y/z (..., 2)."""
        return (np.asarray(uv, float) - (self.cx, self.cy)) / (self.fx, self.fy)


def place(xyz: np.ndarray, uv: np.ndarray, camera: Intrinsics, weight: np.ndarray | None = None) -> np.ndarray:
    """The translation (3,) in metres that makes points ``xyz`` (J, 3) project onto ``uv`` (J, 2) best.

    From (x + tx) - (u - cx)/fx (z + tz) = 0 and its y twin for every joint: linear least squares, weighted by
    ``weight`` (J,). The result is as far away as the hand's assumed size makes it.
    """
    xyz, ray = np.asarray(xyz, float), camera.rays(uv)
    root = np.sqrt(np.ones(len(xyz)) if weight is None else np.asarray(weight, float) + 1e-3)
    rows, right = np.zeros((len(xyz), 2, 3)), ray * xyz[:, 2:] - xyz[:, :2]
    rows[:, 0, 0] = rows[:, 1, 1] = 1.0
    rows[:, :, 2] = -ray
    rows, right = rows * root[:, None, None], right * root[:, None]
    return np.linalg.lstsq(rows.reshape(-1, 3), right.reshape(-1), rcond=None)[0]
