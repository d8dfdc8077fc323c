"""Detector data: frames letterboxed into a square, augmented, with the aligned crop of every hand as target."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge_hands.crops import aligned_crop
from edge_hands.hands import MIDDLE_MCP, WRIST
from edge_hands.quantization.data.augment import Augmentation, Photometric
from edge_hands.quantization.data.shards import MAX_HANDS, Pool

#: A hand counts when its crop's centre and this share of its joints are in view; one less in view is ignored.
_IN_VIEW = 0.4
#: A hand of which less of the joints can be seen, behind another hand or a thing, is ignored.
_VISIBLE = 0.15


@dataclass(frozen=True)
class FrameAugmentation(Augmentation):
    """As for crops; ``mirror`` is a flip that swaps sides, ``shift`` a share of the input's side."""

    rotation: float = np.deg2rad(25.0)
    scale: float = 0.55  # of the logarithm of the size
    shift: float = 0.15
    mirror: float = 0.5
    bars: float = 0.3  # probability of letterbox bars
    occlude: float = 0.15
    patch: float = 0.0  # a patch could bring a hand that no label names


class FrameBatches:
    """Batches of detector training from a pool of frames; ``config`` None letterboxes and does nothing else."""

    def __init__(self, pool: Pool, size: int, config: FrameAugmentation | None) -> None:
        self.pool, self.size = pool, size
        self.config = config or FrameAugmentation.none()
        self._photometric = Photometric(config, size) if config else None

    def __call__(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Batch of samples ``indices`` (B,): image (B, S, S, 3) uint8 and, for two hand slots and in [0, 1] of the
        input square, centers (B, 2, 2) and sides (B, 2) of the aligned crops, boxes (B, 2, 4) of the joints, points
        (B, 2, 2, 2) wrist and middle MCP, right (B, 2), valid (B, 2) and ignore (B, 2); float32.
        """
        count, labels = len(indices), self.pool.labels
        images = np.empty((count, self.size, self.size, 3), np.uint8)
        matrices, views, flips = np.empty((count, 2, 3)), np.empty((count, 4)), np.zeros(count, bool)
        for i, index in enumerate(indices):
            frame = self.pool.image(index)
            matrices[i], views[i], flips[i] = self._view(frame.shape[:2], rng)
            images[i] = self._warp(frame, matrices[i], replicate=rng.random() < 0.7)
        if self._photometric:
            self._photometric(images, rng)
        for image, view in zip(images, views):
            _black_outside(image, view)

        batch = {
            "centers": np.zeros((count, MAX_HANDS, 2), np.float32),
            "sides": np.zeros((count, MAX_HANDS), np.float32),
            "boxes": np.zeros((count, MAX_HANDS, 4), np.float32),
            "points": np.zeros((count, MAX_HANDS, 2, 2), np.float32),
            "right": np.zeros((count, MAX_HANDS), np.float32),
            "valid": np.zeros((count, MAX_HANDS), np.float32),
            "ignore": np.zeros((count, MAX_HANDS), np.float32),
        }
        for i, index in enumerate(indices):
            for hand in range(labels["count"][index]):
                uv = labels["uv"][index, hand] @ matrices[i, :, :2].T + matrices[i, :, 2]
                target = hand_target(uv, views[i], float(labels["visible"][index, hand].mean()))
                target["right"] = bool(labels["right"][index, hand]) != flips[i]
                for name, value in target.items():
                    batch[name][i, hand] = value
        return {"image": images, **batch}

    def _view(self, shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, bool]:
        """Affine map (2, 3) from frame pixels to the input square [0, 1], the lit part x0 y0 x1 y1, flipped or not."""
        c, (height, width) = self.config, shape
        angle, zoom = rng.uniform(-1, 1) * c.rotation, np.exp(rng.uniform(-1, 1) * c.scale)
        flip, shift = rng.random() < c.mirror, rng.uniform(-1, 1, 2) * c.shift
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if flip:
            turn[0] *= -1
        linear = turn * (zoom / max(height, width))
        matrix = np.hstack([linear, (0.5 + shift - linear @ (width / 2, height / 2))[:, None]])
        view = np.array([0.0, 0.0, 1.0, 1.0])
        if rng.random() < c.bars:
            bar, axis = rng.uniform(0, 0.23), rng.integers(2)
            view[axis], view[axis + 2] = bar, 1 - bar
        return matrix, view, flip

    def _warp(self, frame: np.ndarray, matrix: np.ndarray, replicate: bool) -> np.ndarray:
        m = matrix * self.size
        shrink = np.sqrt(abs(np.linalg.det(m[:, :2])))
        if shrink < 0.6:  # fine texture would alias
            frame = cv2.GaussianBlur(frame, (0, 0), 0.35 / shrink)
        m[:, 2] += m[:, :2] @ np.full(2, 0.5) - 0.5  # OpenCV counts from pixel centres
        border = cv2.BORDER_REPLICATE if replicate and self._photometric else cv2.BORDER_CONSTANT
        return cv2.warpAffine(frame, m, (self.size, self.size), flags=cv2.INTER_LINEAR, borderMode=border)


def hand_target(uv: np.ndarray, view: np.ndarray, visible: float = 1.0) -> dict[str, np.ndarray | float]:
    """Target of a hand with joints (21, 2) in [0, 1] of the input, of which ``view`` (4,) x0 y0 x1 y1 can be seen.

    ``visible`` is the share of its joints that nothing hides.
    """
    crop = aligned_crop(uv)
    seen = ((uv >= view[:2]) & (uv <= view[2:])).all(-1).mean()
    centered = bool((crop.center >= view[:2]).all() and (crop.center <= view[2:]).all())
    valid = centered and seen >= _IN_VIEW and visible >= _VISIBLE
    return {
        "centers": np.array(crop.center),
        "sides": crop.side,
        "boxes": np.clip(np.concatenate([uv.min(0), uv.max(0)]), 0, 1),
        "points": uv[[WRIST, MIDDLE_MCP]],
        "valid": float(valid),
        "ignore": float(not valid and seen > 0),
    }


def _black_outside(image: np.ndarray, view: np.ndarray) -> None:
    size = len(image)
    x0, y0, x1, y1 = np.rint(view * size).astype(int)
    image[:y0], image[y1:], image[:, :x0], image[:, x1:] = 0, 0, 0, 0
