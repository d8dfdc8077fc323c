"""Each row's exp2, softplus and sigmoid against float64, and at the values where such functions break."""

import numpy as np
import pytest

from edge_hands.kernels import _native, rows


def apply(row: str, function: str, values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty_like(values)
    _native.elementwise(row, function, values, out)
    return out


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(found - exact) / np.abs(exact)))


@pytest.mark.parametrize("row", rows())
class TestEveryRow:
    def test_exp2_is_accurate_over_its_range(self, row):
        z = np.linspace(-126, 127, 1_000_003, dtype=np.float32)
        assert relative(apply(row, "exp2", z), np.exp2(z.astype(np.float64))) <= 2e-7

    def test_exp2_saturates_and_keeps_nan(self, row):
        found = apply(row, "exp2", [0, -127, -1e4, -5e6, -1e13, -3e38, 128, 1e4, 4e6, np.nan])
        np.testing.assert_array_equal(found, [1, 0, 0, 0, 0, 0, np.inf, np.inf, np.inf, np.nan])

    def test_softplus_and_its_derivative_keep_relative_accuracy_for_small_results(self, row):
        v = np.linspace(-80, 80, 800_001, dtype=np.float32)
        exact = v.astype(np.float64)
        bound = 1.5e-6 if row != "scalar" else 5e-6  # a plain multiply rounds the exponent, a fused one does not
        assert relative(apply(row, "softplus", v), np.logaddexp(0, exact)) <= bound
        assert relative(apply(row, "sigmoid", v), np.exp(-np.logaddexp(0, -exact))) <= bound

    def test_softplus_and_its_derivative_far_out(self, row):
        np.testing.assert_array_equal(apply(row, "softplus", [-1e4, 1e4, np.inf, np.nan]), [0, 1e4, np.inf, np.nan])
        np.testing.assert_array_equal(apply(row, "sigmoid", [-1e4, 0, 1e4]), [0, 0.5, 1])

    @pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 31])
    def test_any_count_is_written_and_no_more(self, row, n):
        out = np.full(n + 8, 7, np.float32)
        _native.elementwise(row, "exp2", np.zeros(n, np.float32), out[:n])
        np.testing.assert_array_equal(out, [1] * n + [7] * 8)
