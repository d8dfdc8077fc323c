"""Augmentation of crops, and the photometric part that frames share.

Everything random is drawn for a whole batch at once; images stay uint8 and pass only through OpenCV calls, which
release the interpreter lock, so that one loader thread feeds a training loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge_hands.quantization.data.shards import BASE_CROP, CROP_IMAGE, Pool

_NOISE_SD = 32.0  # of the noise bank, grey levels
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class Augmentation:
    """Ranges (plus or minus, uniform) and probabilities. ``Augmentation.none()`` leaves the base crop as it is."""

    rotation: float = np.deg2rad(13.0)  # radians
    scale: float = 0.10  # of the size
    shift: float = 0.10  # of the crop's side
    mirror: float = 0.06  # probability that a crop is mirrored wrongly
    gain: float = 0.30
    offset: float = 0.12  # of the full range
    channel: float = 0.10  # gain of one channel alone
    gamma: float = 0.35
    hue: float = 0.25  # radians about the grey axis
    saturation: float = 0.4
    grey: float = 0.10  # probability
    noise: float = 0.03  # standard deviation of the noise's own standard deviation, of the full range
    occlude: float = 0.25  # probability
    patch: float = 0.5  # share of the occluders that are patches of other images
    blur: float = 0.15  # probability
    coarse: float = 0.12  # probability of a low resolution

    @classmethod
    def none(cls) -> Augmentation:
        return cls(**dict.fromkeys(cls.__dataclass_fields__, 0.0))


class Photometric:
    """Colour, noise, blur, resolution and occluders for batches of uint8 images, in place of the originals."""

    def __init__(self, config: Augmentation, size: int) -> None:
        self.config = config
        bank = np.random.default_rng(0).normal(128.0, _NOISE_SD, (3, size + 64, size + 64, 3))
        self._bank = np.clip(bank, 0, 255).astype(np.uint8)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> None:
        """Change images (B, S, S, 3) uint8 in place."""
        c, (count, size) = self.config, images.shape[:2]
        tables, mixes = _tone_tables(c, rng, count), _colour_matrices(c, rng, count)
        sigma = np.abs(rng.normal(0, c.noise * 255, count)) if c.noise else np.zeros(count)
        occlude, blur, coarse = (rng.random((3, count)).T < (c.occlude, c.blur, c.coarse)).T
        for i, image in enumerate(images):
            if occlude[i]:
                _occlude(image, images[rng.integers(count)], c.patch, rng)
            if blur[i]:
                image = _blur(image, rng)
            if coarse[i]:
                side = int(size * rng.uniform(0.25, 0.7))
                small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
                image = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
            image = cv2.LUT(cv2.transform(image, mixes[i]), tables[i])
            if sigma[i] > 0.5:
                y, x = rng.integers(0, 64, 2)
                noise = self._bank[rng.integers(len(self._bank)), y : y + size, x : x + size]
                weight = sigma[i] / _NOISE_SD
                image = cv2.addWeighted(image, 1.0, noise, weight, -128.0 * weight)
            images[i] = image


class CropBatches:
    """Batches of landmark training from a pool of crops.

    ``config`` None gives the base crops untouched, as validation wants them.
    """

    def __init__(self, pool: Pool, size: int, config: Augmentation | None) -> None:
        self.pool, self.size = pool, size
        self.config = config or Augmentation.none()
        self._photometric = Photometric(config, size) if config else None

    def __call__(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Batch of samples ``indices`` (B,): arrays over the batch, float32 unless said.

        image (B, S, S, 3) uint8; uv (B, 21, 2) crop coordinates; xyz (B, 21, 3) metres from the wrist; z (B, 21) crop
        sides from the wrist; visible (B, 21); present (B,); handed (B,) 1 where the crop shows a right hand as it
        should, 0 where it is mirrored.
        """
        c, count, labels = self.config, len(indices), self.pool.labels
        angle = rng.uniform(-1, 1, count) * c.rotation
        scale = 1 + rng.uniform(-1, 1, count) * c.scale
        shift = rng.uniform(-1, 1, (count, 2)) * c.shift
        mirror = rng.random(count) < c.mirror
        border = rng.integers(0, 2, count)

        turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(count, 2, 2)
        turn[mirror, 0] *= -1
        linear = turn * (scale / BASE_CROP)[:, None, None]  # 160-image pixels -> crop coordinates
        offset = 0.5 + shift - linear @ np.full(2, CROP_IMAGE / 2)

        matrices = np.concatenate([linear, offset[..., None]], -1) * self.size
        matrices[..., 2] += matrices[..., :2] @ np.full(2, 0.5) - 0.5  # OpenCV counts from pixel centres
        images = np.empty((count, self.size, self.size, 3), np.uint8)
        for i, index in enumerate(indices):
            mode = cv2.BORDER_REPLICATE if border[i] else cv2.BORDER_REFLECT_101
            source = self.pool.image(index)
            cv2.warpAffine(source, matrices[i], (self.size, self.size), images[i], cv2.INTER_LINEAR, mode)
        if self._photometric:
            self._photometric(images, rng)

        present = labels["present"][indices]
        xyz = labels["xyz"][indices].copy()
        xyz[..., :2] = xyz[..., :2] @ turn.transpose(0, 2, 1)
        uv = labels["uv"][indices] @ linear.transpose(0, 2, 1) + offset[:, None]
        batch = {
            "uv": uv * present[:, None, None],
            "xyz": xyz,
            "z": labels["z"][indices] * scale[:, None],
            "visible": labels["visible"][indices],
            "present": present,
            "handed": present * ~mirror,
        }
        return {"image": images, **{name: array.astype(np.float32) for name, array in batch.items()}}


def _tone_tables(c: Augmentation, rng: np.random.Generator, count: int) -> np.ndarray:
    """(B, 1, 256, 3) tables of gamma, gain and offset per channel, uint8."""
    level = np.linspace(0, 1, 256)[None, :, None]
    gamma = np.exp(rng.uniform(-1, 1, (count, 1, 1)) * c.gamma)
    gain = np.exp(rng.uniform(-1, 1, (count, 1, 1)) * c.gain + rng.normal(0, 1, (count, 1, 3)) * c.channel)
    offset = rng.uniform(-1, 1, (count, 1, 1)) * c.offset
    tables = (level**gamma - 0.5) * gain + 0.5 + offset
    return (np.clip(tables, 0, 1) * 255 + 0.5).astype(np.uint8)[:, None]


def _colour_matrices(c: Augmentation, rng: np.random.Generator, count: int) -> np.ndarray:
    """(B, 3, 3) hue turn and saturation about the grey axis; grey frames have none."""
    hue = rng.uniform(-1, 1, count) * c.hue
    saturation = 1 + rng.uniform(-1, 1, count) * c.saturation
    saturation[rng.random(count) < c.grey] = 0.0
    middle = np.zeros((count, 3, 3))
    middle[:, 0, 0] = 1
    middle[:, 1, 1] = middle[:, 2, 2] = np.cos(hue) * saturation
    middle[:, 1, 2], middle[:, 2, 1] = -np.sin(hue) * saturation, np.sin(hue) * saturation
    return np.linalg.inv(_TO_YIQ) @ middle @ _TO_YIQ


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Defocus or motion of a few pixels."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (5, 5), rng.uniform(0.4, 1.3))
    kernel = np.zeros((7, 7), np.float32)
    angle, half = rng.uniform(0, np.pi), rng.uniform(1, 3.3)
    reach = np.array([np.cos(angle), np.sin(angle)]) * half
    cv2.line(kernel, tuple(np.rint(3 - reach).astype(int)), tuple(np.rint(3 + reach).astype(int)), 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def _occlude(image: np.ndarray, other: np.ndarray, patch: float, rng: np.random.Generator) -> None:
    """Cover a part of the image, in place: a patch of another image, a plain ellipse or a thick bar."""
    size = len(image)
    width, height = rng.integers(size // 16, size * 3 // 8, 2)
    x, y = rng.integers(0, size - width), rng.integers(0, size - height)
    colour = tuple(int(v) for v in rng.integers(0, 256, 3))
    if rng.random() < patch:
        v, u = rng.integers(0, size - height), rng.integers(0, size - width)
        image[y : y + height, x : x + width] = other[v : v + height, u : u + width]
    elif rng.random() < 0.6:
        center, axes = (int(x + width // 2), int(y + height // 2)), (int(width // 2), int(height // 2))
        cv2.ellipse(image, center, axes, rng.uniform(0, 180), 0, 360, colour, -1)
    else:
        ends = rng.integers(0, size, (2, 2))
        start, end = (tuple(map(int, point)) for point in ends)
        cv2.line(image, start, end, colour, int(rng.integers(2, size // 10 + 3)))
