"""Metrics against values known by hand."""

import numpy as np
import pytest

from edge_hands.quantization import metrics


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def test_procrustes_undoes_a_similarity_but_not_a_reflection(rng):
    truth = rng.normal(size=(5, 21, 3)) * 0.05
    moved = np.stack([1.7 * t @ random_rotation(rng) + rng.normal(size=3) for t in truth])
    np.testing.assert_allclose(metrics.procrustes(moved, truth), truth, atol=1e-12)
    assert metrics.pa_errors(moved * (-1, 1, 1), truth).mean() > 0.01


def test_procrustes_is_the_best_fit(rng):
    """No small turn, scale or shift of the aligned hand comes closer to the truth."""
    truth, predicted = rng.normal(size=(2, 1, 21, 3))
    aligned = metrics.procrustes(predicted, truth)
    best = ((aligned - truth) ** 2).sum()
    center = aligned.mean(1, keepdims=True)
    for _ in range(30):
        turn = random_rotation(rng)
        step = np.linalg.matrix_power(np.eye(3) + 0.02 * (turn - turn.T), 1)
        u, _, vt = np.linalg.svd(step)
        changed = rng.normal(1, 0.02) * (aligned - center) @ (u @ vt) + center + rng.normal(0, 0.02, 3)
        assert ((changed - truth) ** 2).sum() > best


def test_procrustes_of_a_single_point_is_the_centroid(rng):
    truth = rng.normal(size=(2, 21, 3))
    aligned = metrics.procrustes(np.zeros_like(truth), truth)
    np.testing.assert_allclose(aligned, np.broadcast_to(truth.mean(1, keepdims=True), truth.shape), atol=1e-12)


def test_per_finger():
    errors = np.zeros((3, 21))
    errors[:, 0], errors[:, 5:9] = 1.0, 2.0
    assert metrics.per_finger(errors) == {"wrist": 1, "thumb": 0, "index": 2, "middle": 0, "ring": 0, "little": 0}


def test_landmark_metrics_count_hands_only(rng):
    n = 10
    truth = {"uv": rng.random((n, 21, 2)), "xyz": rng.normal(size=(n, 21, 3)) * 0.05}
    truth |= {"present": np.array([1.0] * 8 + [0.0] * 2), "handed": np.array([1.0] * 7 + [0.0] * 3)}
    off = np.where(np.arange(21) < 7, 0.10, 0.02)  # a third of the joints is far off
    outputs = {"joints_uv": truth["uv"] + np.stack([off, np.zeros(21)], -1), "joints_xyz": truth["xyz"] * 3}
    outputs["joints_uv"][8:] = 99.0
    outputs |= {"confidence": np.tile(np.where(off > 0.05, 0.1, 0.9), (n, 1))}
    outputs |= {"presence": np.full(n, 0.9), "handedness": np.full(n, 0.9)}
    found = metrics.landmark_metrics(outputs, truth)
    assert (found["crops"], found["hands"]) == (10, 8)
    assert found["error_2d_percent"] == pytest.approx((7 * 10 + 14 * 2) / 21)
    assert found["error_2d_px256"] == pytest.approx(2.56 * found["error_2d_percent"])
    assert found["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-9)
    assert found["joints_within_5_percent"] == pytest.approx(14 / 21)
    assert found["confidence_accuracy"] == 1
    assert found["presence_accuracy"] == pytest.approx(0.8)
    assert found["presence_calibration_error"] == pytest.approx(0.1)  # 0.9 says so, 0.8 were
    assert found["confidence_calibration_error"] == pytest.approx(0.1)  # 0.9 and 0.1 of those that always, never were
    assert found["handedness_accuracy"] == pytest.approx(7 / 8)


def test_box_error_is_relative_to_the_hand(rng):
    uv = rng.random((6, 21, 2))
    uv = 0.3 + (uv - uv.min(1, keepdims=True)) / np.ptp(uv, axis=1, keepdims=True) * (0.2, 0.4)
    truth = {"uv": uv, "xyz": rng.normal(size=(6, 21, 3)), "present": np.ones(6), "handed": np.ones(6)}
    outputs = {"joints_xyz": truth["xyz"], "confidence": np.ones((6, 21)), "presence": np.ones(6)}
    off = np.array([0.004, 0.004, 0.004, 0.008, 0.008, 0.4])
    outputs |= {"joints_uv": uv + off[:, None, None] * (0.6, 0.8), "handedness": np.ones(6)}
    found = metrics.landmark_metrics(outputs, truth)
    assert found["error_2d_box_percent"] == pytest.approx(off.mean() / 0.4 * 100)
    assert found["error_2d_box_percent_median"] == pytest.approx(1.5)
    assert "intervals" not in found and "calibration" not in found


def test_intervals_are_those_of_the_mean(rng):
    """Of 400 normal values the mean's 95 % interval is known: 1.96 standard errors each way."""
    values = rng.normal(5, 2, 400)
    found = metrics.bootstrap({"a": (values, np.mean), "b": (values * 10, np.median)}, 2000)
    error = values.std() / 20
    np.testing.assert_allclose(found["a"], values.mean() + error * np.array([-1.96, 1.96]), atol=0.1 * error)
    assert found["b"][0] < np.median(values) * 10 < found["b"][1]
    assert metrics.bootstrap({"a": (values, np.mean)}, 2000) == {"a": found["a"]}


def test_landmark_intervals_hold_the_value(rng):
    n = 60
    truth = {"uv": rng.random((n, 21, 2)), "xyz": rng.normal(size=(n, 21, 3)) * 0.05}
    truth |= {"present": np.ones(n), "handed": np.ones(n)}
    outputs = {"joints_uv": truth["uv"] + rng.normal(0, 0.03, (n, 21, 2)), "confidence": rng.random((n, 21))}
    outputs |= {"joints_xyz": truth["xyz"] + rng.normal(0, 0.01, (n, 21, 3))}
    outputs |= {"presence": rng.random(n), "handedness": rng.random(n), "mirrored": rng.random(n)}
    found = metrics.landmark_metrics(outputs, truth, resamples=200)
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high and low < high, name
    assert {"pa_mpjpe_mm", "error_2d_px256", "error_2d_box_percent_median", "side_accuracy"} <= set(found["intervals"])
    assert found["calibration"]["presence"]["error"] == found["presence_calibration_error"]


def test_sides_are_told_by_comparing_a_crop_with_its_mirror_image(rng):
    joints = rng.random((4, 21, 3))
    truth = {"uv": joints[..., :2], "xyz": joints}
    truth |= {"present": np.array([1, 1, 1, 0.0]), "handed": np.array([1, 1, 0, 0.0])}
    outputs = {
        "joints_uv": joints[..., :2],
        "joints_xyz": joints,
        "presence": truth["present"],
        "handedness": np.array([0.9, 0.3, 0.2, 0.1]),
        "mirrored": np.array([0.4, 0.6, 0.8, 0.9]),  # right, wrong, right (it was mirrored), no hand
        "confidence": np.ones((4, 21)),
    }
    assert metrics.landmark_metrics(outputs, truth)["side_accuracy"] == pytest.approx(2 / 3)
    del outputs["mirrored"]
    assert "side_accuracy" not in metrics.landmark_metrics(outputs, truth)


def test_iou_and_matching():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6.0]])
    np.testing.assert_allclose(metrics.iou(boxes[:1], boxes), [[1, 1 / 3, 0]])
    taken = metrics.match(np.array([0.5, 0.9, 0.8]), boxes[[0, 0, 1]], boxes[:1], 0.3)
    np.testing.assert_array_equal(taken, [-1, 0, -1])  # each truth once, best score first


def test_average_precision():
    assert metrics.average_precision(np.array([0.9, 0.8]), np.array([True, True]), 2) == 1
    assert metrics.average_precision(np.array([0.9, 0.8]), np.array([False, True]), 1) == 0.5
    assert metrics.average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 4) == pytest.approx(
        (1 + 2 / 3) / 4
    )
    assert metrics.average_precision(np.array([]), np.array([]), 3) == 0


def test_weights_of_average_precision_are_repetitions(rng):
    scores, hits, times = rng.random(30), rng.random(30) < 0.6, rng.integers(0, 4, 30)
    repeated = np.repeat(np.arange(30), times)
    jitter = scores[repeated]
    expected = metrics.average_precision(jitter, hits[repeated], int((times * hits).sum()))
    assert metrics.average_precision(scores, hits, int((times * hits).sum()), times) == pytest.approx(expected)


def test_angle_between():
    a, b = np.array([[1.0, 0], [0, -1], [1, 0]]), np.array([[0.0, 1], [0, -2], [-1, 0]])
    np.testing.assert_allclose(metrics.angle_between(a, b), [90, 0, 180], atol=1e-9)


@pytest.fixture
def scene():
    """Two frames: one hand found at cell 5 with known errors, one hand missed, one false alarm."""
    scores = np.full((2, 16), 0.01)
    boxes = np.zeros((2, 16, 4)) + (0, 0, 0.01, 0.01)
    scores[0, 5], scores[0, 6], scores[1, 15] = 0.9, 0.8, 0.6
    boxes[0, 5] = boxes[0, 6] = (0.2, 0.2, 0.6, 0.6)
    boxes[1, 15] = (0.8, 0.8, 1, 1)
    points = np.zeros((2, 16, 2, 2)) + ((0, 0.2), (0, 0))
    points[0, 5, 1] = (0.2, 0)  # up is 45 degrees off
    outputs = {"scores": scores, "boxes": boxes, "points": points, "sides": np.full((2, 16), 0.55)}
    outputs |= {"centers": np.full((2, 16, 2), 0.4), "handedness": np.full((2, 16), 0.9)}
    truth = {"valid": np.array([[1, 0], [1.0, 0]]), "ignore": np.zeros((2, 2)), "right": np.ones((2, 2))}
    truth |= {"boxes": np.zeros((2, 2, 4)) + (0.2, 0.2, 0.6, 0.6), "sides": np.full((2, 2), 0.5)}
    truth |= {"centers": np.full((2, 2, 2), 0.4) + (0.05, 0), "points": np.zeros((2, 2, 2, 2)) + ((0, 0.2), (0, 0))}
    return outputs, truth


def test_detections_are_local_maxima(scene):
    outputs, _ = scene
    np.testing.assert_array_equal(metrics.detections(outputs, 0), [5])
    outputs["scores"][0, 15] = 0.5  # far away, but the same box
    outputs["boxes"][0, 15] = (0.2, 0.2, 0.6, 0.65)
    np.testing.assert_array_equal(metrics.detections(outputs, 0), [5])


def test_detector_metrics(scene):
    found = metrics.detector_metrics(*scene)
    assert (found["frames"], found["hands"]) == (2, 2)
    assert found["average_precision"] == found["recall"] == found["precision"] == 0.5
    assert found["handedness_accuracy"] == 1
    assert found["center_error_percent"] == pytest.approx(10)
    assert found["side_error_percent"] == pytest.approx(10)
    assert found["up_angle_degrees"] == pytest.approx(45)
    assert "intervals" not in found


def test_detector_intervals_resample_frames(scene):
    """One frame has its hand found, one a hand missed: recall is 0, 1/2 or 1 as they are drawn."""
    found = metrics.detector_metrics(*scene, resamples=300)
    assert found["intervals"]["recall"] == found["intervals"]["precision"] == [0, 1]
    assert found["intervals"]["center_error_percent"] == pytest.approx([10, 10])  # where a hand was found
    assert found["calibration"]["score"]["count"][6] == found["calibration"]["score"]["count"][9] == 1


def test_an_ignored_hand_costs_nothing(scene):
    outputs, truth = scene
    truth["boxes"][1, 1], truth["ignore"][1, 1] = (0.8, 0.8, 1, 1), 1
    assert metrics.detector_metrics(outputs, truth)["precision"] == 1


def test_outputs_that_are_not_finite_count_as_wrong(scene, rng):
    outputs, truth = scene
    outputs["scores"][0, 5] = np.nan
    found = metrics.detector_metrics(outputs, truth)
    assert (found["finite"], found["recall"]) == (0.5, 0.5)  # the neighbour with the same box takes its place

    truth = {"uv": rng.random((2, 21, 2)), "xyz": rng.normal(size=(2, 21, 3))}
    truth |= {"present": np.ones(2), "handed": np.ones(2)}
    outputs = {"joints_uv": truth["uv"].copy(), "joints_xyz": truth["xyz"].copy(), "confidence": np.ones((2, 21))}
    outputs |= {"presence": np.ones(2), "handedness": np.ones(2)}
    outputs["joints_uv"][0], outputs["joints_xyz"][0, 3] = np.nan, np.inf
    found = metrics.landmark_metrics(outputs, truth)
    assert found["finite"] == 0.5 and found["error_2d_percent"] > 10 and np.isfinite(found["pa_mpjpe_mm"])
