"""Frames into model inputs: checking, and the square views of a frame that a detector looks at.

Coordinates are continuous pixels as in ``crops``.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge_hands.crops import halve_until
from edge_hands.errors import FrameError

MIN_SIDE, MAX_SIDE = 16, 16384
_FLOAT_SLACK = 1e-3


def check_frame(frame: np.ndarray) -> np.ndarray:
    """A frame as uint8 (H, W, 3) RGB; the frame itself if it is that already.

    Takes uint8 or float in [0, 1], of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) whose alpha is dropped,
    with sides of 16 to 16384 pixels. Anything else raises FrameError with what was found.
    """
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"A frame must be a numpy array (H, W, 3) of RGB, not a {type(frame).__name__}.")
    if frame.ndim not in (2, 3):
        raise FrameError(f"A frame must have the shape (H, W, 3) or (H, W); found {_found(frame)}.")
    if frame.ndim == 3 and frame.shape[2] not in (1, 3, 4):
        hint = "; it looks like channels first: use frame.transpose(1, 2, 0)" if frame.shape[0] in (1, 3, 4) else ""
        raise FrameError(f"A frame must have 1, 3 or 4 channels in its last axis; found {_found(frame)}{hint}.")
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in frame.shape[:2]):
        raise FrameError(f"A frame's sides must be {MIN_SIDE} to {MAX_SIDE} pixels; found {_found(frame)}.")
    if frame.dtype != np.uint8:
        frame = _to_bytes(frame)
    if frame.ndim == 2:
        frame = frame[:, :, None]
    if frame.shape[2] == 1:
        return np.repeat(frame, 3, axis=2)
    return np.ascontiguousarray(frame[:, :, :3])


def as_input(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> what a model's session takes: float32 (1, H, W, 3) in [0, 1]."""
    return (image.astype(np.float32) / 255.0)[None]


def _found(frame: np.ndarray) -> str:
    return f"{frame.dtype} {list(frame.shape)}"


def _to_bytes(frame: np.ndarray) -> np.ndarray:
    found = _found(frame)
    if not np.issubdtype(frame.dtype, np.floating):
        raise FrameError(f"A frame must be uint8, or float in [0, 1]; found {found}.")
    low, high = float(frame.min()), float(frame.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise FrameError(f"A float frame must be finite; found {found} with NaN or infinity in it.")
    if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
        raise FrameError(f"A float frame must lie in [0, 1]; found {found} from {low:g} to {high:g}.")
    return (np.clip(frame, 0, 1) * 255 + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class View:
    """A square window of a frame, in pixels: left, top, side. It may reach past the frame, where it is black.

    ``inner`` says for each edge (left, top, right, bottom) whether the frame goes on behind it.
    """

    left: float
    top: float
    side: float
    inner: tuple[bool, bool, bool, bool] = (False, False, False, False)

    def to_frame(self, uv: np.ndarray) -> np.ndarray:
        """Positions (..., 2) in [0, 1] of the view -> frame pixels."""
        return np.asarray(uv, float) * self.side + (self.left, self.top)

    def image(self, frame: np.ndarray, size: int) -> np.ndarray:
        """The view of ``frame`` (H, W, 3) as (size, size, 3), same dtype, area-averaged when it shrinks."""
        height, width = frame.shape[:2]
        x0, y0 = max(0, int(self.left)), max(0, int(self.top))
        x1, y1 = min(width, int(np.ceil(self.left + self.side))), min(height, int(np.ceil(self.top + self.side)))
        scale = size / self.side
        part, shrink = halve_until(frame[y0:y1, x0:x1], 1 / scale)
        shape = tuple(max(1, round(length * shrink * scale)) for length in part.shape[1::-1])
        part = cv2.resize(part, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        canvas = np.zeros((size, size, 3), frame.dtype)
        left, top = max(0, round((x0 - self.left) * scale)), max(0, round((y0 - self.top) * scale))
        part = part[: size - top, : size - left]
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
        return canvas


def whole(height: int, width: int, margin: float = 0.0) -> View:
    """The letterboxed frame, centred; ``margin`` adds black around it, in parts of its longer side."""
    side = max(height, width) * (1 + 2 * margin)
    return View((width - side) / 2, (height - side) / 2, side)


def tiles(height: int, width: int, count: int, overlap: float = 0.25) -> list[View]:
    """Overlapping square views, ``count`` of them along the longer side, as many as needed along the shorter one.

    A hand smaller than ``overlap`` of a tile lies whole in one of them.
    """
    long, short = max(height, width), min(height, width)
    # A tile no higher than a very narrow frame would make hundreds of tiles: it may reach past such a frame.
    side = min(long / (count - (count - 1) * overlap), max(short, long / (2 * count)))
    columns, rows = _starts(width, side, overlap), _starts(height, side, overlap)
    return [
        View(x, y, side, (x > 0.5, y > 0.5, x + side < width - 0.5, y + side < height - 0.5))
        for y in rows
        for x in columns
    ]


def _starts(length: float, side: float, overlap: float) -> list[float]:
    count = int(np.ceil((length - side * overlap) / (side * (1 - overlap)) - 1e-6))
    return [float(start) for start in np.linspace(0, max(0.0, length - side), max(1, count))]
