"""The gate: is what was exported the model that was quantised, small and quick enough for its device?

Outputs of the bundle, run by its runtime, are compared with those of the fake-quant model on real crops or frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_hands.export_targets.devices import Limits
from edge_hands.quantization.metrics import landmark_metrics

Arrays = dict[str, np.ndarray]
#: (1, H, W, 3) float32 image in [0, 1] -> outputs.
Predictor = Callable[[np.ndarray], Arrays]

#: Pixels are given for an input of this side, whatever the model's own is.
PIXELS = 256
#: Detections of less than this score are not compared: their boxes mean nothing.
MIN_SCORE = 0.1
#: Change of an image in [0, 1] that nothing but rounding can notice, and how often its effect a distance may be.
INVISIBLE = 1e-6
ROUNDING = 1.5


@dataclass(frozen=True)
class Check:
    """One measured value, and its limit if there is one. ``at_least`` turns the comparison round; ``note`` explains."""

    name: str
    value: float
    unit: str = ""
    limit: float | None = None
    at_least: bool = False
    note: str = ""

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
            | ({"note": c.note} if c.note else {})
            for c in self.checks
        ]
        return {"passed": self.passed, "samples": self.samples, "checks": checks}


def outputs_of(predict: Predictor, images: np.ndarray) -> Arrays:
    """Outputs over images (n, H, W, 3) uint8, one call each, joined along the first axis."""
    found = [predict(picture[None].astype(np.float32) / 255) for picture in images]
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}


@dataclass(frozen=True)
class Reference:
    """What a model gives for some images, and ``again`` for the same images with an invisible change.

    Two runs of an int8 network that round one value differently wander apart in all that follows; ``again`` shows how
    far.
    """

    outputs: Arrays
    again: Arrays

    @classmethod
    def of(cls, predict: Predictor, images: np.ndarray) -> Reference:
        rng = np.random.default_rng(0)

        def changed(image: np.ndarray) -> Arrays:
            return predict(image + rng.uniform(-INVISIBLE, INVISIBLE, image.shape).astype(np.float32))

        return cls(outputs_of(predict, images), outputs_of(changed, images))

    def first(self, count: int) -> Reference:
        """That of the first ``count`` images."""
        return Reference(
            *({name: array[:count] for name, array in part.items()} for part in (self.outputs, self.again))
        )


def parity(
    kind: str, found: Arrays, reference: Reference, limits: Limits, truth: Arrays | None = None, exact: bool = False
) -> list[Check]:
    """Differences of outputs from the reference's, of the same images: positions, and SQNR and maximum of every output.

    A mean distance may be ``ROUNDING`` times what rounding alone moves the reference, or its limit if that is more;
    ``exact``, for a form with the reference's own arithmetic, leaves it the limit.
    ``truth`` (as ``CropBatches`` makes it) also compares the landmarks' PA-MPJPE, and gives the distances of the crops
    with a hand beside those of all.
    """
    true, again = reference.outputs, reference.again
    distances = _landmark_distances if kind == "landmarks" else _detector_distances
    checks = []
    for (name, unit, ours, limit), (_, _, floor, _) in zip(
        distances(found, true, limits), distances(again, true, limits), strict=True
    ):
        least = float(floor.mean())
        allowed = limit if exact or limit is None else max(limit, ROUNDING * least)
        checks.append(Check(f"{name}, mean", float(ours.mean()), unit, allowed))
        checks.append(Check(f"{name}, 99.9th percentile", float(np.percentile(ours, 99.9)), unit))
        checks.append(Check(f"{name}, by rounding alone", least, unit))
        checks.append(Check(f"{name}, by rounding alone, 99.9th percentile", float(np.percentile(floor, 99.9)), unit))
        if kind == "landmarks" and truth is not None and (hands := truth["present"] > 0.5).any():
            checks.append(Check(f"{name} of hands, mean", float(ours[hands].mean()), unit))
            checks.append(Check(f"{name} of hands, 99.9th percentile", float(np.percentile(ours[hands], 99.9)), unit))
    if kind == "landmarks" and truth is not None:
        ours, theirs = (landmark_metrics(outputs, truth)["pa_mpjpe_mm"] for outputs in (found, true))
        checks.append(Check("PA-MPJPE", ours, "mm"))
        checks.append(Check("PA-MPJPE, change", abs(ours - theirs), "mm", limits.accuracy_mm))
    for name in true:
        where = _hands(true) if kind == "detector" and name != "scores" else ...
        ours, theirs = found[name][where], true[name][where]
        checks.append(Check(f"{name} SQNR", sqnr(ours, theirs), "dB", limits.sqnr_db, at_least=True))
        checks.append(Check(f"{name} largest difference", float(np.abs(ours - theirs).max())))
    return checks


def coverage(config: dict, least: float | None) -> list[Check]:
    """From ``Variant.config``: the share of the work that delegates and our kernels run, every fallback by name."""
    if "delegated_macs" not in config:
        return []
    fallbacks = ", ".join(f"{count} {name}" for name, count in config["fallbacks"].items()) or "nothing"
    share = config["delegated_macs"] + config["own_kernels_macs"]
    note = f"{config['delegates']} pieces; our kernels {config['own_kernels_macs']:.1%}; outside: {fallbacks}"
    return [Check("share of the work in delegates and our kernels", share, "", least, at_least=True, note=note)]


#: (what, unit, distances, limit of their mean)
Distance = tuple[str, str, np.ndarray, float | None]


def _landmark_distances(found: Arrays, true: Arrays, limits: Limits) -> list[Distance]:
    pixels = np.linalg.norm(found["joints_uv"] - true["joints_uv"], axis=-1) * PIXELS
    millimetres = np.linalg.norm(found["joints_xyz"] - true["joints_xyz"], axis=-1) * 1000
    return [
        ("joints", f"px of {PIXELS}", pixels, limits.mean_px),
        ("joints in space", "mm", millimetres, limits.mean_mm),
    ]


def _detector_distances(found: Arrays, true: Arrays, limits: Limits) -> list[Distance]:
    seen = _hands(true)
    pixels = np.linalg.norm(found["points"] - true["points"], axis=-1)[seen] * PIXELS
    boxes = np.abs(found["boxes"] - true["boxes"])[seen] * PIXELS
    return [
        ("points of hands", f"px of {PIXELS}", pixels, limits.mean_px),
        ("boxes of hands", f"px of {PIXELS}", boxes, limits.mean_px),
    ]


def _hands(true: Arrays) -> np.ndarray:
    """Cells (n, N) that hold a hand, or the best of each image if there is none: others say nothing."""
    seen = true["scores"] > MIN_SCORE
    return seen if seen.any() else true["scores"] == true["scores"].max(-1, keepdims=True)


def sqnr(found: np.ndarray, true: np.ndarray) -> float:
    """Signal to quantisation noise, 10 log10(sum true^2 / sum (found - true)^2), in dB; at most 200."""
    signal = np.square(true, dtype=np.float64).sum()
    noise = np.square(found.astype(np.float64) - true).sum()
    return float(10 * np.log10(signal / noise)) if noise > signal * 1e-20 else 200.0


def latency(predict: Predictor, image: np.ndarray, seconds: float = 1.0) -> float:
    """Milliseconds of one call on ``image`` (1, H, W, 3), once warm: the least of many, as other load only adds."""
    for _ in range(3):
        predict(image)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        predict(image)
        best = min(best, time.perf_counter() - begun)
    return best * 1000
