"""Hands cut out of their photographs and set before other backgrounds.

The photographs have one pale wall behind them all; a model must not learn that this is what real hands look like. The
joints say where a hand is, so GrabCut (Rother et al., SIGGRAPH 2004) starts from its bones and needs no one to draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from edge_hands.hands import BONES, MIDDLE_MCP, WRIST
from edge_hands.quantization.data.shards import CROP_IMAGE
from edge_hands.quantization.data.synthetic.backgrounds import BackgroundConfig, Backgrounds

_PALM = (0, 1, 5, 9, 13, 17)
_FINGER, _BONE, _ARM, _REACH = 16, 3, 26, 25  # pixels of a 160 crop: widths, and how far a hand may reach beyond
_CONTRAST = 20  # grey levels between hand and wall in some channel, or the edge is anybody's guess
_FRACTION = 4  # bits of OpenCV's subpixel points
_DIM, _BRIGHT, _TINT = 0.6, 1.1, 0.04  # range of the light on a hand, and how much each channel strays from it

Samples = Iterable[tuple[str, np.ndarray, dict]]


def composed(samples: Samples, backgrounds: Backgrounds, times: int) -> Iterator[tuple[str, np.ndarray, dict]]:
    """Each (key, crop image, label) ``times`` times before backgrounds as synthetic hands have; labels stay.

    What is drawn depends on the key alone. A hand that cannot be cut out is left out.
    """
    for key, image, label in samples:
        opacity = cut(image, np.array(label["uv"]))
        if opacity is None:
            continue
        for number in range(times):
            rng = np.random.default_rng([int(key), number])
            turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
            panorama = backgrounds.panoramas[rng.integers(len(backgrounds.panoramas))]
            background = backgrounds.sample(rng, panorama, turn, CROP_IMAGE, BackgroundConfig())
            yield f"{key}-{number}", compose(image, opacity, background, lit(rng)), label


def lit(rng: np.random.Generator) -> np.ndarray:
    """A light (3,) to multiply a cut-out hand by."""
    return rng.uniform(_DIM, _BRIGHT) * np.exp(rng.normal(0, _TINT, 3))


def cut(image: np.ndarray, uv: np.ndarray) -> np.ndarray | None:
    """Opacity (160, 160) float32 in [0, 1] of the hand and forearm in a crop image; ``uv`` (21, 2) its pixels.

    None when what was found is not the shape that the joints ask for.
    """
    near, core = _shape(image.shape[:2], uv)
    labels = np.full(image.shape[:2], cv2.GC_PR_BGD, np.uint8)
    labels[near] = cv2.GC_PR_FGD
    labels[core] = cv2.GC_FGD
    around = _grown(near, _REACH)
    labels[~around] = cv2.GC_BGD
    if np.abs(np.median(image[core], 0) - np.median(image[around & ~near], 0)).max() < _CONTRAST:
        return None
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(0)  # its first clusters are drawn
    cv2.grabCut(np.ascontiguousarray(image[..., ::-1]), labels, None, *models, 4, cv2.GC_INIT_WITH_MASK)
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    pale = image.min(-1)  # skin has less of some colour than a wall, also between two fingers
    found &= pale <= np.percentile(pale[core], 99) + 10
    parts = cv2.connectedComponents(found.astype(np.uint8))[1]
    found &= np.isin(parts, np.unique(parts[core]))
    x, y = np.clip(uv, 0, np.array(image.shape[1::-1]) - 1).astype(int).T
    if _grown(found, 5)[y, x].mean() < 0.9 or not 0.6 < found.sum() / near.sum() < 1.6:
        return None
    inner = cv2.erode(found.astype(np.float32), np.ones((3, 3)))  # sharpened photographs have a bright seam
    return cv2.GaussianBlur(inner, (0, 0), 0.8)


def compose(image: np.ndarray, opacity: np.ndarray, background: np.ndarray, light: np.ndarray) -> np.ndarray:
    """The hand of ``image`` (H, W, 3), lit by ``light`` (3,), before ``background`` of the same size; uint8 RGB."""
    weight = opacity[..., None]
    return np.clip(image * light * weight + background * (1 - weight), 0, 255).astype(np.uint8)


def _shape(size: tuple[int, int], uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool: where the hand and its forearm may well be, and where they surely are."""
    points = np.rint(uv * 2**_FRACTION - 2 ** (_FRACTION - 1)).astype(int)
    near, core = np.zeros((2, *size), np.uint8)
    for parent, child in BONES:
        for canvas, width in ((near, _FINGER), (core, _BONE)):
            cv2.line(canvas, points[parent].tolist(), points[child].tolist(), 1, width, cv2.LINE_8, _FRACTION)
    elbow = 3 * points[WRIST] - 2 * points[MIDDLE_MCP]
    cv2.line(near, points[WRIST].tolist(), elbow.tolist(), 1, _ARM, cv2.LINE_8, _FRACTION)
    palm = uv[list(_PALM)]
    for canvas, scale in ((near, 1.0), (core, 0.85)):
        hull = cv2.convexHull(np.rint(uv[WRIST] + (palm - uv[WRIST]) * scale).astype(np.int32))
        cv2.fillConvexPoly(canvas, hull, 1)
    return near > 0, core > 0


def _grown(mask: np.ndarray, width: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((width, width), np.uint8)) > 0
