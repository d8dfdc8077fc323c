"""Hands drawn on a picture: bones in the colour of their finger, joints, box, and a label with side and score."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edge_hands.hand import Hand
from edge_hands.hands import BONES, WRIST
from edge_hands.images import check_frame

#: RGB of thumb, index, middle, ring, little: told apart also by most colour-blind eyes.
FINGER_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))
SIDE_COLORS = {"left": (255, 120, 80), "right": (80, 170, 255)}
_WRIST_COLOR = (240, 240, 240)
_SHIFT = 4  # OpenCV draws at a sixteenth of a pixel
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_hands(frame: np.ndarray, hands: Sequence[Hand]) -> np.ndarray:
    """A copy of ``frame`` (as ``HandTracker.track`` takes it) as uint8 RGB (H, W, 3), with ``hands`` on it.

    Line widths follow the picture's and each hand's size. Joints of low confidence are drawn fainter.
    """
    image = np.array(check_frame(frame))
    for hand in hands:
        draw_skeleton(image, hand.joints_uv, hand.confidence)
    for hand in hands:
        _draw_label(image, hand)
    return image


def draw_skeleton(image: np.ndarray, joints_uv: np.ndarray, confidence: np.ndarray) -> None:
    """Bones and joints (21, 2) in pixels drawn into ``image`` (H, W, 3) uint8 RGB in place; ``confidence`` (21,)."""
    width = _width(image, joints_uv)
    for parent, child in BONES:
        color = _faded(FINGER_COLORS[(child - 1) // 4], min(confidence[parent], confidence[child]))
        start, end = _point(joints_uv[parent]), _point(joints_uv[child])
        cv2.line(image, start, end, (20, 20, 20), max(1, round(width * 1.8)), cv2.LINE_AA, _SHIFT)
        cv2.line(image, start, end, color, max(1, round(width)), cv2.LINE_AA, _SHIFT)
    for joint, (uv, sure) in enumerate(zip(joints_uv, confidence, strict=True)):
        color = _WRIST_COLOR if joint == WRIST else FINGER_COLORS[(joint - 1) // 4]
        radius = width * (1.6 if joint == WRIST else 1.2) * 2**_SHIFT
        cv2.circle(image, _point(uv), round(radius * 1.35), (20, 20, 20), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(image, _point(uv), round(radius), _faded(color, sure), -1, cv2.LINE_AA, _SHIFT)


def _width(image: np.ndarray, joints_uv: np.ndarray) -> float:
    """Line width in pixels: 1/60 of the hand, but between 1/800 and 1/150 of the picture."""
    long = max(image.shape[:2])
    return float(np.clip(np.ptp(joints_uv, axis=0).max() / 60, max(1.0, long / 800), max(1.5, long / 150)))


def _draw_label(image: np.ndarray, hand: Hand) -> None:
    color, width = SIDE_COLORS[hand.handedness], max(1, round(_width(image, hand.joints_uv) * 0.7))
    low, high = hand.box[:2], hand.box[2:]
    margin = 0.06 * max(high - low)
    cv2.rectangle(image, _point(low - margin), _point(high + margin), color, width, cv2.LINE_AA, _SHIFT)
    text, scale = f"{hand.handedness} {hand.score:.2f}", max(0.35, max(image.shape[:2]) / 1800)
    thick = max(1, round(scale * 1.6))
    (w, h), base = cv2.getTextSize(text, _FONT, scale, thick)
    x = int(np.clip(low[0] - margin, 0, max(0, image.shape[1] - w - 4)))
    y = int(np.clip(low[1] - margin - base, h + base, max(h + base, image.shape[0] - base)))
    cv2.rectangle(image, (x, y - h - base), (x + w + 4, y + base), color, -1)
    cv2.putText(image, text, (x + 2, y), _FONT, scale, (16, 16, 16), thick, cv2.LINE_AA)


def _point(uv: np.ndarray) -> tuple[int, int]:
    """Continuous pixels -> OpenCV's fixed point; far outside, where its integers would overflow, to a border."""
    x, y = np.clip((np.asarray(uv, float) - 0.5) * 2**_SHIFT, -(2**20), 2**20)
    return round(float(x)), round(float(y))


def _faded(color: tuple[int, int, int], sure: float) -> tuple[int, ...]:
    strength = 0.45 + 0.55 * float(np.clip(sure, 0, 1))
    return tuple(round(part * strength) for part in color)
