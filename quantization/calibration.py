"""Does a probability mean what it says: reliability curves, their error, and a picture of them.

Of all predictions of 0.8, four in five should come true. A curve compares, bin by bin, the mean prediction with the
share that came true; the expected calibration error is their mean distance, bins weighted by what fell into them
(Naeini et al., AAAI 2015, with bins of equal width).
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

BINS = 10

_SIDE, _LEFT, _TOP, _BELOW, _BARS = 420, 70, 40, 40, 70  # pixels of one diagram
_TICKS = 5
_FEW = 20
_INK, _GRID, _CURVE, _SHADE = (40, 40, 40), (225, 225, 225), (0, 114, 178), (158, 202, 225)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def reliability(probability: np.ndarray, outcome: np.ndarray, bins: int = BINS) -> dict:
    """Reliability curve of predictions in [0, 1] and what came true (0 or 1), arrays of one shape.

    ``count``, ``predicted`` (mean prediction) and ``observed`` (share that came true) of each bin, None where nothing
    fell into it, and ``error``, the expected calibration error.
    """
    p, o = np.asarray(probability, float).ravel(), np.asarray(outcome, float).ravel()
    index = np.clip((p * bins).astype(int), 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = np.maximum(count, 1)
    predicted, observed = (np.bincount(index, values, bins) / filled for values in (p, o))
    return {
        "error": float((count * np.abs(predicted - observed)).sum() / max(len(p), 1)),
        "count": count.tolist(),
        "predicted": [float(v) if n else None for n, v in zip(count, predicted)],
        "observed": [float(v) if n else None for n, v in zip(count, observed)],
    }


def draw(curves: Mapping[str, Mapping]) -> np.ndarray:
    """Reliability diagrams side by side, (H, W, 3) uint8 RGB: the curve against the diagonal, and how many fell where.

    ``curves`` maps a title to what ``reliability`` returned. The area of a point grows with its bin's share; bins of
    fewer than twenty samples are pale and off the line, for their share says little.
    """
    return np.hstack([_diagram(title, curve) for title, curve in curves.items()])


def _diagram(title: str, curve: Mapping) -> np.ndarray:
    image = np.full((_TOP + _SIDE + _BARS + _BELOW, _LEFT + _SIDE + 30, 3), 255, np.uint8)
    bottom = _TOP + _SIDE

    def at(x: float, y: float) -> tuple[int, int]:
        return round(_LEFT + x * _SIDE), round(bottom - y * _SIDE)

    share = np.array(curve["count"]) / max(sum(curve["count"]), 1)
    floor = bottom + _BARS
    for i, part in enumerate(share):
        left, right = at(i / len(share), 0)[0] + 2, at((i + 1) / len(share), 0)[0] - 2
        cv2.rectangle(image, (left, floor), (right, floor - round(part * (_BARS - 12))), _SHADE, -1)
    for tick in np.linspace(0, 1, _TICKS + 1):
        cv2.line(image, at(tick, 0), at(tick, 1), _GRID, 1)
        cv2.line(image, at(0, tick), at(1, tick), _GRID, 1)
        _write(image, f"{tick:.1f}", (at(0, 0)[0] - 38, at(0, tick)[1] + 5))
        _write(image, f"{tick:.1f}", (at(tick, 0)[0] - 12, floor + 18))
    cv2.line(image, at(0, 0), at(1, 1), _INK, 1, cv2.LINE_AA)
    cv2.rectangle(image, at(0, 1), at(1, 0), _INK, 1)
    filled = [i for i, count in enumerate(curve["count"]) if count]
    points = {i: at(curve["predicted"][i], curve["observed"][i]) for i in filled}
    sure = [i for i in filled if curve["count"][i] >= _FEW]
    for start, end in zip(sure, sure[1:]):
        cv2.line(image, points[start], points[end], _CURVE, 2, cv2.LINE_AA)
    for i in filled:
        color = _CURVE if i in sure else _SHADE
        cv2.circle(image, points[i], 4 + round(9 * float(share[i]) ** 0.5), color, -1, cv2.LINE_AA)
    _write(image, f"{title}: expected calibration error {curve['error'] * 100:.1f} %", (_LEFT, _TOP - 14))
    _write(image, "predicted", (_LEFT + _SIDE - 68, floor + 34))
    _write(image, "came true", (4, _TOP - 14), 0.4)
    return image


def _write(image: np.ndarray, text: str, at: tuple[int, int], size: float = 0.45) -> None:
    cv2.putText(image, text, at, _FONT, size, _INK, 1, cv2.LINE_AA)
