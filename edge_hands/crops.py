"""Aligned crops: the one square that a landmark model sees of a hand.

Coordinates everywhere in the project are continuous pixels: (0, 0) is the outer corner of the first pixel,
whose centre is (0.5, 0.5). OpenCV puts that centre at (0, 0); ``warp`` converts.

A crop is turned so that wrist -> middle MCP points up and mirrored for a left hand, so a model need only
learn upright right hands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from edge_hands.hands import MIDDLE_MCP, WRIST

#: Side of the crop over the longer side of the joints' box, seen upright.
CROP_FACTOR = 1.45


@dataclass(frozen=True)
class Crop:
    """A square in a frame: centre and side in pixels, angle in radians, mirrored or not.

    ``angle`` is the direction of "up" in the frame, clockwise from the frame's own up (-y).
    """

    center: tuple[float, float]
    side: float
    angle: float = 0.0
    mirror: bool = False

    def matrix(self, size: float = 1.0) -> np.ndarray:
        """(2, 3) affine map from frame pixels to crop pixels of a ``size`` x ``size`` image (1 -> [0, 1])."""
        scale, (x, y) = size / self.side, self.center
        c, s, turned = math.cos(self.angle) * scale, math.sin(self.angle) * scale, -1.0 if self.mirror else 1.0
        across, down = (turned * c, turned * s), (-s, c)
        return np.array([[*row, size / 2 - row[0] * x - row[1] * y] for row in (across, down)])

    def to_crop(self, uv: np.ndarray, size: float = 1.0) -> np.ndarray:
        """Frame pixels (..., 2) -> crop coordinates (..., 2), [0, 1] inside the crop for ``size`` 1."""
        m = self.matrix(size)
        return uv @ m[:, :2].T + m[:, 2]

    def to_frame(self, uv: np.ndarray, size: float = 1.0) -> np.ndarray:
        """Inverse of ``to_crop``."""
        m = self.matrix(size)
        return (uv - m[:, 2]) @ m[:, :2] * (self.side / size) ** 2  # the inverse of a turn is its transpose

    def rotation(self) -> np.ndarray:
        """(3, 3) orthogonal map from frame camera axes to crop camera axes (x right, y down, z forward)."""
        m = np.eye(3)
        m[:2, :2] = self.matrix(1.0)[:, :2] * self.side
        return m

    def xyz_to_crop(self, xyz: np.ndarray) -> np.ndarray:
        """Camera axes (..., 3) -> crop axes."""
        return xyz @ self.rotation().T

    def xyz_to_frame(self, xyz: np.ndarray) -> np.ndarray:
        """Crop axes (..., 3) -> camera axes."""
        return xyz @ self.rotation()

    def warp(self, image: np.ndarray, size: int, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
        """The crop of ``image`` (H, W, C) as (size, size, C), same dtype; outside the frame is black.

        A crop much larger than ``size`` is area-averaged first, or fine texture would alias.
        """
        part, left, top = self._part(image, size)
        image, shrink = halve_until(part, self.side / size)
        m = self.matrix(size)
        m[:, 2] += m[:, :2] @ (left, top)
        m[:, :2] *= shrink
        m[:, 2] += m[:, :2] @ (0.5, 0.5) - 0.5  # pixel centres: OpenCV's (0, 0) is our (0.5, 0.5)
        rgb = image.dtype == np.uint8 and image.shape[2:] == (3,)
        if rgb:  # OpenCV warps four channels in less than half the time of three
            image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
        image = cv2.warpAffine(image, m, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
        return cv2.cvtColor(image, cv2.COLOR_RGBA2RGB) if rgb else image

    def _part(self, image: np.ndarray, size: int) -> tuple[np.ndarray, int, int]:
        """What of ``image`` ``warp`` reads, with its left and top: the whole, if it reads next to nothing.

        It begins and ends where the blocks that are averaged do, so that they are those of the whole image.
        """
        block = 2 ** max(0, math.frexp(self.side / size)[1] - 1)
        reach = self.side / 2 * (abs(math.cos(self.angle)) + abs(math.sin(self.angle)))
        (left, right), (top, bottom) = (
            (max(0, math.floor((c - reach) / block - 1) * block), max(0, math.floor((c + reach) / block + 3) * block))
            for c in self.center
        )
        part = image[top:bottom, left:right]
        return (part, left, top) if min(part.shape[:2]) >= 4 * block else (image, 0, 0)


def halve_until(image: np.ndarray, ratio: float) -> tuple[np.ndarray, int]:
    """``image`` (H, W, C) area-averaged by halves until less than twice too large by ``ratio``; by how much it shrank.

    A last odd row or column is dropped. Halving is many times faster than averaging by any other number.
    """
    shrink = 1
    while ratio / shrink >= 2 and min(image.shape[:2]) >= 4:
        h, w = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        image = cv2.resize(image[:h, :w], (w // 2, h // 2), interpolation=cv2.INTER_AREA)
        shrink *= 2
    return image, shrink


def up_angle(wrist: np.ndarray, middle_mcp: np.ndarray) -> float:
    """Angle of wrist -> middle MCP, clockwise from the frame's up, in radians."""
    dx, dy = np.asarray(middle_mcp, float) - np.asarray(wrist, float)
    return float(np.arctan2(dx, -dy))


def aligned_crop(joints_uv: np.ndarray, mirror: bool = False, factor: float = CROP_FACTOR) -> Crop:
    """The aligned crop of joints (21, 2) in frame pixels: upright box of the joints, squared, times ``factor``."""
    angle = up_angle(joints_uv[WRIST], joints_uv[MIDDLE_MCP])
    upright = Crop((0.0, 0.0), 1.0, angle)
    uv = upright.to_crop(joints_uv)
    low, high = uv.min(0), uv.max(0)
    center = upright.to_frame((low + high) / 2)
    return Crop((float(center[0]), float(center[1])), float((high - low).max()) * factor, angle, mirror)
