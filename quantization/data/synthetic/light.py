"""Light of a scene: a panorama's diffuse light and one direct light, and shadows that the renderer does not cast."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from edge_hands.quantization.data.synthetic.backgrounds import Panorama
from edge_hands.quantization.data.synthetic.config import SceneConfig
from edge_hands.quantization.data.synthetic.renderer import Light


def random_light(rng: np.random.Generator, pano: Panorama, config: SceneConfig) -> Light:
    world = Rotation.from_euler("yxz", [rng.uniform(-np.pi, np.pi), rng.normal(-0.2, 0.4), rng.normal(0, 0.3)])
    direct = rng.normal(size=3) + (0, -0.7, -0.7)  # mostly from above and behind the camera
    tint = np.clip(rng.normal(1, 0.10, 3), 0.5, 1.5)
    share = rng.beta(1.3, 1.6)  # of the direct light in all of it
    total = rng.uniform(0.5, 1.35)
    cast = rng.uniform(0.15, 1)  # cameras balance most of a scene's tint away
    diffuse = pano.irradiance * cast + pano.irradiance.mean(1, keepdims=True) * (1 - cast)
    return Light(
        diffuse * total * (1 - 0.75 * share) * np.clip(rng.normal(1, 0.05, 3), 0.7, 1.3),
        world.as_matrix(),
        direct / np.linalg.norm(direct),
        tint * total * share,
        shadows=bool(rng.random() < config.shadows),
    )


def wall_shadow(rng: np.random.Generator, alpha: np.ndarray) -> np.ndarray:
    """Factor (S, S) of a background on which the hand's soft shadow falls, a little to the side."""
    size = len(alpha)
    shift = rng.normal(0, 0.05, 2) * size
    moved = cv2.warpAffine(alpha, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (size, size))
    return 1 - rng.uniform(0.1, 0.7) * cv2.GaussianBlur(moved, (0, 0), rng.uniform(0.008, 0.05) * size)


def contact_shadow(depth: np.ndarray, focal: float, strength: float) -> np.ndarray:
    """Darkening (S, S) of creases from depth: a point behind its surroundings sees less of the sky."""
    solid = depth > 0
    if not solid.any():
        return np.zeros_like(depth)
    far = np.where(solid, depth, depth[solid].max())
    millimetre = focal / float(np.median(depth[solid])) * 1e-3
    shade = np.zeros_like(depth)
    for radius in (4.0, 10.0):
        around = cv2.GaussianBlur(far, (0, 0), max(radius * millimetre, 0.5))
        shade += np.where(solid, np.clip((far - around) * 1000 / radius, 0, 1.5), 0)
    return cv2.GaussianBlur(np.clip(shade * strength, 0, 0.5), (0, 0), 0.8)
