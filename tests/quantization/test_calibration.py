"""Reliability curves against predictions whose truth is known."""

import numpy as np
import pytest

from edge_hands.quantization import calibration


def test_honest_predictions_have_no_error(rng):
    p = rng.random(200_000)
    curve = calibration.reliability(p, rng.random(len(p)) < p)
    assert curve["error"] < 0.006
    np.testing.assert_allclose(curve["predicted"], np.arange(0.05, 1, 0.1), atol=0.005)
    np.testing.assert_allclose(curve["observed"], curve["predicted"], atol=0.015)
    assert sum(curve["count"]) == len(p)


def test_error_is_the_mean_gap_weighted_by_the_bins():
    p = np.array([[0.92, 0.92], [0.92, 0.12]])
    curve = calibration.reliability(p, np.array([[1, 0], [0, 0]]))
    assert curve["error"] == pytest.approx(0.75 * (0.92 - 1 / 3) + 0.25 * 0.12)
    assert curve["count"] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert curve["observed"][9] == pytest.approx(1 / 3) and curve["observed"][1] == 0 and curve["observed"][4] is None


def test_certainty_falls_into_the_last_bin():
    assert calibration.reliability(np.array([0.0, 1.0]), np.array([0, 1]))["count"] == [1] + [0] * 8 + [1]


def test_diagram_shows_where_the_curve_runs():
    over = calibration.reliability(np.full(100, 0.85), np.arange(100) < 40)
    image = calibration.draw({"confidence": over, "presence": over})
    assert image.dtype == np.uint8 and image.shape[2] == 3
    half, other = np.hsplit(image, 2)
    np.testing.assert_array_equal(half[calibration._TOP :], other[calibration._TOP :])  # all but the titles
    y, x = np.nonzero((half == (0, 114, 178)).all(-1))
    left, top, side = calibration._LEFT, calibration._TOP, calibration._SIDE
    assert x.mean() == pytest.approx(left + 0.85 * side, abs=1) and y.mean() == pytest.approx(top + 0.6 * side, abs=1)
