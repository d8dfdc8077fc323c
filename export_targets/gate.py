"""The gate: is what was exported the model that was quantised, small and quick enough for its device?

Outputs of the bundle, run by its runtime, are compared with those of the fake-quant model on real crops or frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_hands.export_targets.devices import Limits

Arrays = dict[str, np.ndarray]
#: (1, H, W, 3) float32 image in [0, 1] -> outputs.
Predictor = Callable[[np.ndarray], Arrays]

#: Pixels are given for an input of this side, whatever the model's own is.
PIXELS = 256
#: Detections of less than this score are not compared: their boxes mean nothing.
MIN_SCORE = 0.1


@dataclass(frozen=True)
class Check:
    """One measured value, and its limit if there is one. ``at_least`` turns the comparison round."""

    name: str
    value: float
    unit: str = ""
    limit: float | None = None
    at_least: bool = False

    @property
    def passed(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Report:
    """All checks of an export."""

    checks: tuple[Check, ...]
    samples: int

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def broken(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def as_dict(self) -> dict:
        """For the manifest."""
        checks = [
            {"name": c.name, "value": round(c.value, 6), "unit": c.unit, "limit": c.limit, "passed": c.passed}
            for c in self.checks
        ]
        return {"passed": self.passed, "samples": self.samples, "checks": checks}


def parity(kind: str, images: np.ndarray, candidate: Predictor, reference: Predictor, limits: Limits) -> list[Check]:
    """Differences of two predictors over images (n, H, W, 3) uint8: positions, and SQNR and maximum of every output."""
    pairs = [(candidate(image), reference(image)) for image in (i[None].astype(np.float32) / 255 for i in images)]
    found, true = ({name: np.concatenate([pair[i][name] for pair in pairs]) for name in pairs[0][1]} for i in (0, 1))
    checks = _landmark_checks(found, true, limits) if kind == "landmarks" else _detector_checks(found, true, limits)
    for name in true:
        checks.append(Check(f"{name} SQNR", sqnr(found[name], true[name]), "dB", limits.sqnr_db, at_least=True))
        checks.append(Check(f"{name} largest difference", float(np.abs(found[name] - true[name]).max())))
    return checks


def _landmark_checks(found: Arrays, true: Arrays, limits: Limits) -> list[Check]:
    pixels = np.linalg.norm(found["joints_uv"] - true["joints_uv"], axis=-1) * PIXELS
    millimetres = np.linalg.norm(found["joints_xyz"] - true["joints_xyz"], axis=-1) * 1000
    return [
        Check("joints, mean", float(pixels.mean()), f"px of {PIXELS}", limits.mean_px),
        Check("joints, 99th percentile", float(np.percentile(pixels, 99)), f"px of {PIXELS}"),
        Check("joints in space, mean", float(millimetres.mean()), "mm", limits.mean_mm),
        Check("joints in space, 99th percentile", float(np.percentile(millimetres, 99)), "mm"),
    ]


def _detector_checks(found: Arrays, true: Arrays, limits: Limits) -> list[Check]:
    seen = true["scores"] > MIN_SCORE
    if not seen.any():
        seen = true["scores"] == true["scores"].max(-1, keepdims=True)
    pixels = np.linalg.norm(found["points"] - true["points"], axis=-1)[seen] * PIXELS
    boxes = np.abs(found["boxes"] - true["boxes"])[seen] * PIXELS
    return [
        Check("points of hands, mean", float(pixels.mean()), f"px of {PIXELS}", limits.mean_px),
        Check("points of hands, 99th percentile", float(np.percentile(pixels, 99)), f"px of {PIXELS}"),
        Check("boxes of hands, mean", float(boxes.mean()), f"px of {PIXELS}", limits.mean_px),
    ]


def sqnr(found: np.ndarray, true: np.ndarray) -> float:
    """Signal to quantisation noise, 10 log10(sum true^2 / sum (found - true)^2), in dB; at most 200."""
    signal = np.square(true, dtype=np.float64).sum()
    noise = np.square(found.astype(np.float64) - true).sum()
    return float(10 * np.log10(signal / noise)) if noise > signal * 1e-20 else 200.0


def latency(predict: Predictor, image: np.ndarray, seconds: float = 1.0) -> float:
    """Milliseconds of one call on ``image`` (1, H, W, 3), once warm: the least of many, so that other load counts less."""
    for _ in range(3):
        predict(image)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        predict(image)
        best = min(best, time.perf_counter() - begun)
    return best * 1000
