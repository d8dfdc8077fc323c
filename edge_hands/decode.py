"""Detector outputs into hands of a frame. Pure functions.

The detector gives N candidates, one for each cell of its grid; the best of those that overlap is the hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_hands.crops import Crop, up_angle
from edge_hands.images import View

#: Candidates of one view that are looked at, best first.
_MOST = 64
#: A box that ends this near to an inner edge of a tile (in tiles) is cut: another view has the whole hand.
_CUT = 0.02


@dataclass(frozen=True, eq=False)
class Detection:
    """A hand found in a frame: ``score`` and ``right`` (probability of a right hand) in [0, 1], ``box`` (4,) x0 y0 x1
    y1 of its joints and ``crop``, its aligned crop, in pixels."""

    score: float
    right: float
    box: np.ndarray
    crop: Crop


def decode(outputs: dict[str, np.ndarray], view: View, threshold: float) -> list[Detection]:
    """The detector's outputs for ``view`` -> detections with a score of ``threshold`` or more, best first.

    Candidates with non-finite values or without extent are left out, and so are hands cut by a tile's inner edge.
    """
    scores, boxes, points = outputs["scores"][0], outputs["boxes"][0], outputs["points"][0]
    centers, sides, right = outputs["centers"][0], outputs["sides"][0], outputs["handedness"][0]
    parts = np.concatenate([boxes, points.reshape(-1, 4), centers, sides[:, None], right[:, None]], 1)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(parts).all(1) & (scores >= threshold) & (sides > 0)
        good &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = np.flatnonzero(good)
    order = order[np.argsort(-scores[order], kind="stable")][:_MOST]
    found = []
    for i in order:
        if _is_cut(boxes[i], view):
            continue
        wrist, middle = points[i].astype(float)
        center = view.to_frame(centers[i])
        crop = Crop(
            (float(center[0]), float(center[1])),
            float(sides[i]) * view.side,
            up_angle(wrist, middle),
            mirror=bool(right[i] < 0.5),
        )
        box = view.to_frame(boxes[i].reshape(2, 2)).reshape(4)
        found.append(Detection(float(scores[i]), float(right[i]), box, crop))
    return suppress(found)


def _is_cut(box: np.ndarray, view: View) -> bool:
    beyond = (box[0] < _CUT, box[1] < _CUT, box[2] > 1 - _CUT, box[3] > 1 - _CUT)
    return any(cut and inner for cut, inner in zip(beyond, view.inner, strict=True))


def suppress(detections: list[Detection], overlap: float = 0.4, inside: float = 0.75) -> list[Detection]:
    """Best first, without those that overlap a better one: by IoU, or by how much of the smaller box is inside."""
    kept: list[Detection] = []
    for detection in sorted(detections, key=lambda found: -found.score):
        if all(
            iou(detection.box, other.box) < overlap and containment(detection.box, other.box) < inside for other in kept
        ):
            kept.append(detection)
    return kept


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (4,) x0 y0 x1 y1."""
    shared = _shared(a, b)
    union = _area(a) + _area(b) - shared
    return shared / union if union > 0 else 0.0


def containment(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over the smaller of two boxes."""
    smaller = min(_area(a), _area(b))
    return _shared(a, b) / smaller if smaller > 0 else 0.0


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(max(0.0, width) * max(0.0, height))


def _area(box: np.ndarray) -> float:
    return float(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]))
