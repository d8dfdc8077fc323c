"""What a camera does to the picture: blur, low resolution, noise, grey levels, vignetting, JPEG, wide-angle lenses."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class SensorConfig:
    """Probabilities of each effect."""

    defocus: float = 0.18
    motion: float = 0.15
    coarse: float = 0.18  # low resolution
    noise: float = 0.35
    grey: float = 0.20  # grey-level camera, as headsets have them
    vignette: float = 0.25
    jpeg: float = 0.20
    fisheye: float = 0.12

    @classmethod
    def none(cls) -> SensorConfig:
        return cls(**dict.fromkeys(cls.__dataclass_fields__, 0.0))


def expose(rng: np.random.Generator, image: np.ndarray, config: SensorConfig) -> np.ndarray:
    """``image`` (S, S, 3) uint8 as a camera would give it; geometry unchanged."""
    size = image.shape[0]
    kind = rng.random()
    if kind < config.defocus:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6))
    elif kind < config.defocus + config.motion:
        image = cv2.filter2D(image, -1, _motion(rng, size))
    if rng.random() < config.coarse:
        low = int(size * rng.uniform(0.3, 0.7))
        image = cv2.resize(cv2.resize(image, (low, low), interpolation=cv2.INTER_AREA), (size, size))
    if rng.random() < config.vignette:
        image = _vignette(rng, image)
    grey = rng.random() < config.grey
    if grey:
        weights = rng.dirichlet((3, 5, 2))  # infrared-sensitive sensors weigh red more
        tone = image.astype(np.float32) @ weights.astype(np.float32)
        tone = 255 * (tone / 255) ** np.exp(rng.normal(0, 0.3)) * rng.uniform(0.6, 1.25)
        image = np.repeat(tone.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if rng.random() < config.noise:
        shape = (size, size, 1) if grey else image.shape
        noise = rng.standard_normal(shape, np.float32) * np.float32(rng.uniform(1, 10))
        image = (image + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < config.jpeg:
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))])
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image)


def fisheye(
    rng: np.random.Generator, image: np.ndarray, points: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Barrel distortion about a random point; ``points`` (..., 2) pixels move with the picture, exactly."""
    size = image.shape[0]
    center = rng.uniform(0.1, 0.9, 2) * size
    k = rng.uniform(0.05, 0.35) / size**2
    axis = np.arange(size, dtype=np.float32) + 0.5
    x, y = np.meshgrid(axis - np.float32(center[0]), axis - np.float32(center[1]))
    zoom = 1 + np.float32(k) * (x * x + y * y)  # a pixel of the new picture shows one farther out
    warped = cv2.remap(
        image,
        x * zoom + np.float32(center[0] - 0.5),
        y * zoom + np.float32(center[1] - 0.5),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    moved = []
    for point in points:
        far = point - center
        radius = np.linalg.norm(far, axis=-1, keepdims=True)
        near = radius.copy()
        for _ in range(12):  # Newton: near (1 + k near^2) = radius
            near -= (near * (1 + k * near * near) - radius) / (1 + 3 * k * near * near)
        moved.append(center + far * near / np.maximum(radius, 1e-9))
    return warped, moved


def _vignette(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    size = image.shape[0]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    cx, cy = rng.normal(0, 0.35, 2).astype(np.float32)
    square = (axis[None] - cx) ** 2 + (axis[:, None] - cy) ** 2
    shade = 1 - np.float32(rng.uniform(0.05, 0.35)) * square
    return (image * shade.clip(0.15, 1)[..., None]).astype(np.uint8)


def _motion(rng: np.random.Generator, size: int) -> np.ndarray:
    length, turn = int(rng.integers(3, max(size // 14, 5))), rng.uniform(0, np.pi)
    kernel = np.zeros((length, length), np.float32)
    reach = np.array([np.cos(turn), np.sin(turn)]) * length / 2
    middle = np.full(2, length / 2 - 0.5)
    ends = (np.rint(middle + s * reach).astype(int).tolist() for s in (-1, 1))
    cv2.line(kernel, *ends, 1.0)
    return kernel / max(kernel.sum(), 1)
