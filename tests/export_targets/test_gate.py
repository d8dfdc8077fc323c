"""The gate measures what it says, and breaks when a limit is broken."""

from __future__ import annotations

import numpy as np
import pytest

from edge_hands.export_targets import gate
from edge_hands.export_targets.devices import Limits
from edge_hands.export_targets.gate import Check, Report, latency, sqnr


def parity(kind, images, candidate, reference, limits, truth=None) -> list[Check]:
    found, known = gate.outputs_of(candidate, images), gate.Reference.of(reference, images)
    return gate.parity(kind, found, known, limits, truth)


def landmarks(image: np.ndarray) -> dict[str, np.ndarray]:
    seed = int(image.sum() * 1000) % 2**31
    rng = np.random.default_rng(seed)
    return {
        "joints_uv": rng.uniform(0, 1, (1, 21, 2)).astype(np.float32),
        "joints_xyz": rng.normal(0, 0.05, (1, 21, 3)).astype(np.float32),
        "presence": np.ones(1, np.float32),
    }


def moved(millimetres: float, share: float):
    def predict(image: np.ndarray) -> dict[str, np.ndarray]:
        outputs = landmarks(image)
        outputs["joints_xyz"] = outputs["joints_xyz"] + np.float32([0, 0, millimetres / 1000])
        outputs["joints_uv"] = outputs["joints_uv"] + np.float32([share, 0])
        return outputs

    return predict


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (5, 8, 8, 3), np.uint8)


def value(checks: list[Check], name: str) -> float:
    return next(check.value for check in checks if check.name == name)


def test_an_exact_candidate_passes(images: np.ndarray) -> None:
    checks = parity("landmarks", images, landmarks, landmarks, Limits())
    assert Report(tuple(checks), 5).passed
    assert value(checks, "joints in space, mean") == 0
    assert value(checks, "joints_uv SQNR") == 200


def test_a_shift_is_measured_in_millimetres_and_pixels(images: np.ndarray) -> None:
    checks = parity("landmarks", images, moved(0.2, 1 / 256), landmarks, Limits(mean_mm=0.1, mean_px=2.0, sqnr_db=None))
    assert value(checks, "joints in space, mean") == pytest.approx(0.2, rel=1e-3)
    assert value(checks, "joints, mean") == pytest.approx(1.0, rel=1e-3)
    assert value(checks, "joints in space, 99.9th percentile") == pytest.approx(0.2, rel=1e-3)
    report = Report(tuple(checks), 5)
    assert not report.passed
    assert [check.name for check in report.broken] == ["joints in space, mean"]


def test_a_reference_that_rounding_moves_widens_the_limit(images: np.ndarray) -> None:
    def restless(image: np.ndarray) -> dict[str, np.ndarray]:
        outputs = landmarks(image.round(4))
        nudge = float(np.abs(image - image.round(4)).max() > 0) * 0.001  # 1 mm for an invisible change
        return {**outputs, "joints_xyz": outputs["joints_xyz"] + np.float32([0, 0, nudge])}

    images = images // 255 * 255  # whole values survive the rounding
    checks = parity("landmarks", images, moved(1.2, 0), restless, Limits(mean_mm=0.1, mean_px=None, sqnr_db=None))
    assert value(checks, "joints in space, by rounding alone") == pytest.approx(1.0, rel=1e-2)
    assert value(checks, "joints in space, by rounding alone, 99.9th percentile") == pytest.approx(1.0, rel=1e-2)
    assert next(check.limit for check in checks if check.name == "joints in space, mean") == pytest.approx(
        1.5, rel=1e-2
    )
    assert Report(tuple(checks), 5).passed
    checks = parity("landmarks", images, moved(1.8, 0), restless, Limits(mean_mm=0.1, mean_px=None, sqnr_db=None))
    assert not Report(tuple(checks), 5).passed


def test_lost_accuracy_breaks_whatever_the_distances_say(images: np.ndarray) -> None:
    truth = {
        "present": np.ones(5, np.float32),
        "handed": np.ones(5, np.float32),
        "uv": np.concatenate([landmarks(i[None].astype(np.float32) / 255)["joints_uv"] for i in images]),
        "xyz": np.concatenate([landmarks(i[None].astype(np.float32) / 255)["joints_xyz"] for i in images]),
    }

    def complete(predict, noise: float):
        def run(image: np.ndarray) -> dict[str, np.ndarray]:
            outputs = predict(image)
            wave = noise * np.sin(np.arange(63, dtype=np.float32)).reshape(1, 21, 3)
            extra = {"confidence": np.ones((1, 21), np.float32), "handedness": np.ones(1, np.float32)}
            return {**outputs, **extra, "joints_xyz": outputs["joints_xyz"] + wave}

        return run

    limits = Limits(accuracy_mm=0.1, mean_mm=None, mean_px=None, sqnr_db=None)
    checks = parity("landmarks", images, complete(landmarks, 0.001), complete(landmarks, 0), limits, truth)
    assert [check.name for check in Report(tuple(checks), 5).broken] == ["PA-MPJPE, change"]


def test_crops_with_hands_are_told_apart_from_all(images: np.ndarray) -> None:
    """Three of five crops have a hand, and only there does the candidate differ."""
    present = np.float32([1, 0, 1, 0, 1])
    found = gate.outputs_of(landmarks, images)
    found |= {"confidence": np.ones((5, 21), np.float32), "handedness": np.ones(5, np.float32)}
    moved_hands = found["joints_xyz"] + present[:, None, None] * np.float32([0, 0, 0.003])
    reference = gate.Reference(found, found)
    truth = {"present": present, "handed": present, "uv": found["joints_uv"], "xyz": found["joints_xyz"]}
    limits = Limits(mean_mm=None, mean_px=None, sqnr_db=None)
    checks = gate.parity("landmarks", found | {"joints_xyz": moved_hands}, reference, limits, truth)
    assert value(checks, "joints in space, mean") == pytest.approx(3 * 3 / 5, rel=1e-3)
    assert value(checks, "joints in space of hands, mean") == pytest.approx(3, rel=1e-3)
    assert value(checks, "joints in space of hands, 99.9th percentile") == pytest.approx(3, rel=1e-3)


def test_low_signal_to_noise_breaks(images: np.ndarray) -> None:
    checks = parity("landmarks", images, moved(50, 0), landmarks, Limits(mean_mm=None, mean_px=None, sqnr_db=20.0))
    assert [check.name for check in Report(tuple(checks), 5).broken] == ["joints_xyz SQNR"]


def test_only_hands_that_are_seen_count_for_the_detector(images: np.ndarray) -> None:
    def detector(shift: float):
        def predict(image: np.ndarray) -> dict[str, np.ndarray]:
            points = np.full((1, 4, 2, 2), 0.5, np.float32)
            points[0, 0] += shift / 256
            points[0, 3] += shift  # a cell without a hand
            boxes = np.full((1, 4, 4), 0.5, np.float32)
            return {"scores": np.float32([[0.9, 0.01, 0.0, 0.02]]), "boxes": boxes, "points": points}

        return predict

    checks = parity("detector", images, detector(2.0), detector(0.0), Limits(mean_px=0.5, sqnr_db=None))
    assert value(checks, "points of hands, mean") == pytest.approx(2 * 2**0.5, rel=1e-3)
    assert [check.name for check in Report(tuple(checks), 5).broken] == ["points of hands, mean"]


def test_sqnr_of_a_known_noise() -> None:
    true = np.ones(1000)
    assert sqnr(true + 0.1, true) == pytest.approx(20.0)
    assert sqnr(true, true) == 200.0


def test_the_report_says_what_was_measured() -> None:
    report = Report((Check("size", 5.0, "MB", 4.0), Check("SQNR", 40.0, "dB", 30.0, at_least=True)), 3)
    assert report.as_dict() == {
        "passed": False,
        "samples": 3,
        "checks": [
            {"name": "size", "value": 5.0, "unit": "MB", "limit": 4.0, "passed": False},
            {"name": "SQNR", "value": 40.0, "unit": "dB", "limit": 30.0, "passed": True},
        ],
    }


def test_coverage_names_what_falls_back() -> None:
    config = {"delegated_macs": 0.9, "own_kernels_macs": 0.02, "delegates": 3, "fallbacks": {"CONV_2D": 2, "EXP": 1}}
    (check,) = gate.coverage(config, 0.95)
    assert check.value == pytest.approx(0.92) and not check.passed
    assert check.note == "3 pieces; our kernels 2.0%; outside: 2 CONV_2D, 1 EXP"
    assert gate.coverage(config, 0.9)[0].passed and gate.coverage({}, 0.95) == []
    assert Report((check,), 1).as_dict()["checks"][0]["note"] == check.note


def test_latency_is_in_milliseconds() -> None:
    import time

    assert latency(lambda image: time.sleep(0.005), np.zeros((1, 2, 2, 3)), seconds=0.05) == pytest.approx(5.3, abs=1.5)
