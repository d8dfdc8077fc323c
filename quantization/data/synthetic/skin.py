"""What skin looks like beyond its tone: creases, palm lines, veins, nails and flushes as maps over the mesh's UVs.

Each atlas is drawn once from the rest geometry, so that lines lie where joints bend. Channels (H, W, 4) uint8:
crease depth, vein, nail, flush (blood near the surface). ``grain`` is a tileable noise for mottling and pores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

ATLAS_SIZE = 512
VARIANTS = 4
_FINGERS = (5, 10, 15, 20)
#: Palm lines in the wrist frame (x towards the little finger, z away from the fingers), metres.
_PALM_LINES = (
    ((-0.040, -0.078), (-0.022, -0.070), (-0.010, -0.055), (-0.006, -0.036), (-0.010, -0.016)),  # round the thumb
    ((-0.040, -0.077), (-0.020, -0.070), (0.002, -0.060), (0.022, -0.046)),  # head
    ((-0.006, -0.093), (0.004, -0.082), (0.020, -0.073), (0.040, -0.066)),  # heart
)


@dataclass(frozen=True)
class TexelGeometry:
    """Rest position and normal (S, S, 3) of every texel, and whether the mesh covers it (S, S)."""

    position: np.ndarray
    normal: np.ndarray
    covered: np.ndarray


def texels(uv: np.ndarray, faces: np.ndarray, vertices: np.ndarray, normals: np.ndarray) -> TexelGeometry:
    """Rasterises positions and normals (V, 3) of ``faces`` over ``uv`` (V, 2) in [0, 1]."""
    size = ATLAS_SIZE
    maps = np.zeros((size, size, 6), np.float32)
    covered = np.zeros((size, size), bool)
    values = np.c_[vertices, normals].astype(np.float32)
    for face in faces:
        corner = uv[face] * size - 0.5
        low = np.maximum(np.floor(corner.min(0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(corner.max(0)).astype(int) + 2, size)
        x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        edge = np.stack([corner[1] - corner[0], corner[2] - corner[0]], 1)
        if abs(np.linalg.det(edge)) < 1e-9:
            continue
        b = np.stack([x - corner[0, 0], y - corner[0, 1]], -1) @ np.linalg.inv(edge).T
        weights = np.concatenate([1 - b.sum(-1, keepdims=True), b], -1)
        on = (weights > -0.35).all(-1)  # a little beyond the edge, so that filtering meets no gap
        inside = on & ((weights >= -1e-3).all(-1) | ~covered[y, x])
        maps[y[inside], x[inside]] = weights[inside] @ values[face]
        covered[y[on], x[on]] = True
    return TexelGeometry(maps[..., :3], maps[..., 3:], covered)


def atlases(geometry: TexelGeometry, frames: np.ndarray, tips: dict[int, float]) -> list[np.ndarray]:
    """Atlases (S, S, 4) uint8 of ``VARIANTS`` people from the joints' rest ``frames`` (25, 4, 4)."""
    on = geometry.covered
    position, normal = geometry.position[on], geometry.normal[on]
    joints = {0, 2, 3, *tips, *(base + k for base in _FINGERS for k in (1, 2, 3))}
    axes = {j: frames[j, :3, :3].astype(np.float32) for j in joints}
    local = {j: ((position - frames[j, :3, 3].astype(np.float32)) @ axes[j], normal @ axes[j]) for j in joints}
    made = []
    for k in range(VARIANTS):
        channels = np.zeros((ATLAS_SIZE, ATLAS_SIZE, 4), np.float32)
        channels[on] = _texels(np.random.default_rng([11, k]), on, local, tips)
        made.append((cv2.GaussianBlur(channels, (0, 0), 0.6) * 255).clip(0, 255).astype(np.uint8))
    return made


def grain() -> np.ndarray:
    """Tileable noise (256, 256, 4) uint8 about 128: blotches, medium spots, pores, threads."""
    rng, size = np.random.default_rng(5), 256
    layers = []
    for sigma in ((14, 6), (5, 2.5), (0.8, 0.5), (1.5, 0.6)):
        layer = sum(_wrapped_blur(rng.normal(size=(size, size)), s) * w for s, w in zip(sigma, (1.0, 0.6)))
        layers.append(layer / layer.std())
    return (np.stack(layers, -1) * 42 + 128).clip(0, 255).astype(np.uint8)


def _wrapped_blur(noise: np.ndarray, sigma: float) -> np.ndarray:
    frequency = np.fft.fftfreq(len(noise))
    low = np.exp(-2 * (np.pi * sigma) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    blurred = np.fft.ifft2(np.fft.fft2(noise) * low).real
    return blurred / blurred.std()


def _texels(
    rng: np.random.Generator, on: np.ndarray, local: dict[int, tuple[np.ndarray, np.ndarray]], tips: dict[int, float]
) -> np.ndarray:
    """Channels (N, 4) of the texels that the mesh covers; ``local`` holds their place and normal (N, 3) by joint."""
    coarse = rng.normal(size=(40, 40)).astype(np.float32)
    wobble = cv2.resize(coarse, (ATLAS_SIZE, ATLAS_SIZE), interpolation=cv2.INTER_CUBIC)[on]
    crease, flush, nail = np.zeros((3, len(wobble)), np.float32)
    joints = [(base + k, k) for base in _FINGERS for k in (1, 2, 3)] + [(2, 2), (3, 3)]
    for joint, kind in joints:
        at, normal = local[joint]
        reach = 0.016 if kind > 1 else 0.024
        near = (np.abs(at[..., 0]) < 0.012) & (np.abs(at[..., 2]) < reach) & (np.abs(at[..., 1]) < 0.018)
        z = at[..., 2] + 0.0005 * wobble + at[..., 0] ** 2 * rng.normal(0, 12)
        palmar = near * np.clip(-normal[..., 1] * 1.6 + 0.25, 0, 1)
        dorsal = near * np.clip(normal[..., 1] * 1.6 - 0.1, 0, 1)
        for line in {1: (-0.021, -0.019), 2: (-0.0012, 0.0012), 3: (0.0,)}[kind]:
            crease = np.maximum(crease, palmar * _line(z - line, 0.0006) * rng.uniform(0.7, 1))
        if kind > 1:
            for k in range(-3, 4):
                line = k * rng.uniform(0.0012, 0.0017) + rng.normal(0, 0.0003)
                depth = rng.uniform(0.25, 0.7) * np.exp(-abs(k) / 2.5)
                crease = np.maximum(crease, dorsal * _line(z - line, 0.00042) * depth)
        flush = np.maximum(flush, dorsal * np.exp(-(z**2) / 0.006**2) * rng.uniform(0.3, 0.8))
    for tip in tips:
        at, normal = local[tip]
        width, length = 0.0060, 0.0066
        oval = (at[..., 0] / width) ** 4 + ((at[..., 2] + 0.0028) / length) ** 4
        on = (normal[..., 1] > 0.3) & (np.abs(at[..., 1]) < 0.012)
        nail = np.maximum(nail, on * np.clip((1.15 - oval) * 3, 0, 1))
        crease = np.maximum(crease, on * np.exp(-((oval - 1.35) ** 2) / 0.12) * 0.55)
        pad = np.exp(-(at**2).sum(-1) / 0.011**2) * np.clip(0.4 - normal[..., 1], 0, 1)
        flush = np.maximum(flush, pad * rng.uniform(0.4, 0.9))

    at, normal = local[0]
    flat = at[..., [0, 2]] + 0.0012 * wobble[..., None]
    palm = np.clip(-normal[..., 1] * 2 + 0.1, 0, 1)
    for line in _PALM_LINES:
        points = np.array(line) + rng.normal(0, 0.002, (len(line), 2))
        crease = np.maximum(crease, palm * _line(_distance(flat, points), 0.0008) * rng.uniform(0.55, 1))
    for _ in range(9):  # fine lines of the palm
        start = rng.uniform((-0.035, -0.085), (0.035, -0.02))
        points = np.stack([start, start + rng.normal(0, 0.013, 2)])
        crease = np.maximum(crease, palm * _line(_distance(flat, points), 0.0005) * rng.uniform(0.15, 0.45))
    for line in (-0.004, 0.003, 0.008):
        crease = np.maximum(crease, palm * _line(at[..., 2] - line + at[..., 0] * 0.12, 0.0006) * rng.uniform(0.2, 0.9))
    pads = (((-0.035, -0.040), 0.02), ((0.028, -0.045), 0.022), ((0.0, -0.082), 0.03))
    for (x, z), radius in pads:
        blob = np.exp(-((at[..., 0] - x) ** 2 + (at[..., 2] - z) ** 2) / radius**2)
        flush = np.maximum(flush, palm * blob * rng.uniform(0.3, 0.9))

    vein = _veins(rng, at, normal, flat)
    return np.stack([crease, vein, nail, flush], -1)


def _veins(rng: np.random.Generator, at: np.ndarray, normal: np.ndarray, flat: np.ndarray) -> np.ndarray:
    back = np.clip(normal[..., 1] * 2 - 0.2, 0, 1)
    vein = np.zeros(len(at), np.float32)
    for x in (-0.022, -0.008, 0.010, 0.026):
        z = np.linspace(-0.085, 0.015, 7)
        path = np.c_[x * (1.0 - 0.5 * (z + 0.085) / 0.1) + np.cumsum(rng.normal(0, 0.0025, 7)), z]
        vein = np.maximum(vein, back * _line(_distance(flat, path), 0.0016) * rng.uniform(0.3, 1))
    for _ in range(3):
        start = rng.uniform((-0.025, -0.07), (0.02, -0.01))
        path = np.stack([start, start + rng.uniform((0.006, -0.02), (0.022, 0.02))])
        vein = np.maximum(vein, back * _line(_distance(flat, path), 0.0014) * rng.uniform(0.2, 0.8))
    return vein


def _line(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((distance / width) ** 2))


def _distance(points: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Distance (N,) of points (N, 2) from a polyline (M, 2)."""
    best, path = np.full(len(points), np.inf, np.float32), path.astype(np.float32)
    for a, b in zip(path[:-1], path[1:]):
        along = np.clip(((points - a) @ (b - a)) / max(float((b - a) @ (b - a)), 1e-12), 0, 1)
        best = np.minimum(best, np.linalg.norm(points - a - along[..., None] * (b - a), axis=-1))
    return best


_TONES = np.array(
    [
        [0.95, 0.80, 0.71],
        [0.91, 0.73, 0.62],
        [0.84, 0.64, 0.51],
        [0.73, 0.53, 0.40],
        [0.58, 0.40, 0.29],
        [0.42, 0.28, 0.20],
        [0.29, 0.19, 0.14],
    ]
)


def skin_color(rng: np.random.Generator) -> np.ndarray:
    """A skin tone (3,) in sRGB [0, 1], from light to dark, a little paler, redder or yellower."""
    tone = rng.beta(1.1, 1.4) * (len(_TONES) - 1)
    low = min(int(tone), len(_TONES) - 2)
    color = _TONES[low] * (1 + low - tone) + _TONES[low + 1] * (tone - low)
    warm = rng.normal(0, 0.025)
    return color * (rng.normal(1, 0.05) + np.array([warm, 0.2 * warm, -warm]) + rng.normal(0, 0.012, 3))


@dataclass(frozen=True)
class Skin:
    """Appearance of one hand; colours are linear RGB, strengths of the atlas' channels 0 to about 1."""

    back: np.ndarray
    palm: np.ndarray
    nail: np.ndarray
    cloth: np.ndarray  # (2, 3) sleeve
    weave: np.ndarray  # (4,) direction over arm coordinates / wavelength, phase
    detail: np.ndarray  # (4,) crease, vein, flush, bump
    mottle: np.ndarray  # (4,) blotches, spots, pores, scale of the grain
    offset: np.ndarray  # (2,) of the grain
    gloss: np.ndarray  # strength, exponent, of nails
    sleeve: float  # metres from the wrist; large: none
    atlas: int


def random_skin(
    rng: np.random.Generator, sleeve: float, texture: bool = True, glove: bool = False, tone: Callable = skin_color
) -> Skin:
    """A hand's appearance; without ``texture`` plain tone only, with ``glove`` one cloth from fingers to wrist."""
    skin = np.clip(tone(rng), 0.05, 1) ** 2.2
    paler = rng.uniform(0, 0.45)
    palm = np.clip(skin + (np.array([0.75, 0.5, 0.42]) - skin) * np.array([1, 0.85, 0.85]) * paler, 0, 1)
    polished = rng.random() < 0.12
    natural = np.clip(palm * rng.uniform(0.85, 1.25) + rng.uniform(-0.02, 0.10), 0, 1)
    nail = rng.uniform(0, 1, 3) if polished else natural
    detail = rng.uniform((0.1, 0, 0, 0.2), (1.0, 0.9, 0.9, 1.0)) * texture
    mottle = np.array([*np.abs(rng.normal(0, (0.10, 0.08, 0.10))) * texture, rng.uniform(1.2, 2.6)])
    gloss = np.array([rng.uniform(0, 0.25) * rng.random(), rng.uniform(6, 60), 0.3 if polished else 0.08])
    if glove:
        skin = palm = nail = rng.uniform(0, 1, 3) ** 2 if rng.random() < 0.6 else np.full(3, rng.uniform(0, 0.7) ** 2)
        detail, mottle = np.array([0, 0, 0, rng.uniform(0, 0.6)]), np.array([0, 0.1, rng.uniform(0, 0.4), 4.0])
        gloss = np.array([rng.uniform(0, 0.3) * rng.random(), rng.uniform(6, 40), 0.0])
    weave = np.array([*(rng.normal(size=2) * rng.uniform(20, 160) * (rng.random() < 0.4)), 0.0, 1.57])
    cloth = rng.uniform(0, 1, (2, 3)) ** 2
    if rng.random() < 0.4:
        cloth[:] = cloth.mean(1, keepdims=True)
    return Skin(
        skin, palm, nail, cloth, weave, detail, mottle, rng.uniform(0, 1, 2), gloss, sleeve, int(rng.integers(VARIANTS))
    )
