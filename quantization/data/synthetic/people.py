"""Skin that is not a hand, drawn in two dimensions: faces on shoulders, arms, legs."""

from __future__ import annotations

import cv2
import numpy as np

from edge_hands.quantization.data.synthetic.skin import skin_color


def draw_limb(rng: np.random.Generator, image: np.ndarray) -> None:
    """A rounded stretch of skin, lit from one side, drawn into ``image`` in place: an arm, a leg, a neck."""
    size = image.shape[0]
    skin = np.clip(skin_color(rng), 0, 1) * rng.uniform(0.5, 1.05)
    turn, width = rng.uniform(0, np.pi), rng.uniform(0.08, 0.4) * size
    axis = np.arange(size, dtype=np.float32)
    x, y = axis[None] - rng.uniform(0.1, 0.9) * size, axis[:, None] - rng.uniform(0.1, 0.9) * size
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    half = width / 2 * (1 + rng.uniform(-0.3, 0.3) * along / size)
    q = across / np.maximum(half, 1)
    alpha = np.clip((1 - np.abs(q)) * half / 1.5, 0, 1)
    if rng.random() < 0.6:  # it ends somewhere
        alpha *= np.clip((along + rng.uniform(0, 0.3) * size) / 2, 0, 1)
    shade = 1 - rng.uniform(0.2, 0.7) * np.clip(q * rng.choice((-1, 1)) * 0.5 + 0.3 * q * q, 0, 1)
    color = skin * 255 * shade[..., None]
    image[:] = (image + (color - image) * alpha[..., None]).clip(0, 255)


def draw_person(rng: np.random.Generator, image: np.ndarray) -> None:
    """A close head with hair, eyes and mouth on shoulders, drawn into ``image`` in place: skin that is not a hand."""
    size = image.shape[0]
    center = rng.uniform(0.1, 0.9, 2) * size
    height = rng.uniform(0.3, 0.9) * size
    width = height * rng.uniform(0.68, 0.85)
    skin = np.clip(skin_color(rng), 0, 1) * rng.uniform(0.6, 1.05)
    layer = image.copy()

    def ellipse(at, axes, color, start=0, end=360):
        axes = tuple(max(int(a), 1) for a in axes)
        cv2.ellipse(
            layer, np.rint(center + at).astype(int).tolist(), axes, 0, start, end, _shade(color), -1, cv2.LINE_AA
        )

    cloth = skin if rng.random() < 0.25 else rng.uniform(0, 1, 3)
    ellipse((0, height * 3.3), (width * 2.4, height * 2.0), cloth)
    ellipse((0, height * 1.1), (width * 0.5, height * 0.6), skin * 0.85)
    hair = rng.uniform(0, 0.35) * np.array([1.0, 0.8, 0.6]) * rng.uniform(0.3, 2)
    ellipse((0, -height * 0.2), (width * rng.uniform(1.05, 1.5), height * rng.uniform(1.0, 1.4)), hair)
    ellipse((0, 0), (width, height), skin)
    ellipse((-width * 0.4, height * 0.1), (width * 0.7, height * 0.8), skin * rng.uniform(0.85, 1.1))
    for side in (-1, 1):
        ellipse((side * width * 0.4, -height * 0.15), (width * 0.16, height * 0.07), np.full(3, 0.95))
        ellipse((side * width * 0.4, -height * 0.15), (width * 0.07, height * 0.07), rng.uniform(0, 0.4, 3))
        ellipse((side * width * 0.4, -height * 0.32), (width * 0.22, height * 0.04), hair)
    ellipse((0, height * 0.15), (width * 0.1, height * 0.2), skin * 0.9)
    ellipse((0, height * 0.5), (width * 0.3, height * 0.09), skin * np.array([0.85, 0.55, 0.55]))
    image[:] = cv2.GaussianBlur(layer, (0, 0), max(height * 0.04, 0.4))


def _shade(color: np.ndarray) -> list[int]:
    return [int(c * 255) for c in np.clip(color, 0, 1)]
