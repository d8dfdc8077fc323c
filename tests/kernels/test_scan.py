"""Each row's scans against the float64 reference: odd sizes, hard inputs, and properties that need no reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_hands.kernels import deformable_scan, reference, rows, selective_scan
from edge_hands.kernels.cases import DEFORM_INPUTS, NETWORK_CASES, ODD_CASES, SCAN_INPUTS, Case

pytestmark = pytest.mark.parametrize("row", rows())


def error(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest error over the largest exact value."""
    if not exact.size:
        return 0.0
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def check(case: Case, row: str, rng: np.random.Generator, tolerance: float = 2e-6, **options) -> None:
    inputs = case.inputs(rng, **options)
    exact = {name: a.astype(np.float64) for name, a in inputs.items()}
    plain = selective_scan(*(inputs[n] for n in SCAN_INPUTS), isa=row)
    deformed = deformable_scan(*(inputs[n] for n in DEFORM_INPUTS), *case.deform, isa=row)
    assert plain.shape == deformed.shape == inputs["x"].shape
    assert error(plain, reference.selective_scan(*(exact[n] for n in SCAN_INPUTS))) <= tolerance
    expected = reference.deformable_scan(*(exact[n] for n in DEFORM_INPUTS), *case.deform)
    assert error(deformed, expected) <= tolerance


@pytest.mark.parametrize("case", ODD_CASES + NETWORK_CASES, ids=lambda c: c.name)
def test_agrees_with_the_reference(row, case, rng):
    check(case, row, rng)


@given(st.data())
def test_agrees_with_the_reference_at_any_size(row, data):
    groups = data.draw(st.integers(1, 5), "groups")
    case = Case(
        "drawn",
        batch=data.draw(st.integers(1, 3), "batch"),
        height=data.draw(st.integers(1, 6), "height"),
        width=data.draw(st.integers(1, 6), "width"),
        channels=groups * data.draw(st.integers(1, 40), "channels per group"),
        states=data.draw(st.integers(1, 17), "states"),
        groups=groups,
        points=data.draw(st.sampled_from([1, 9, 25]), "points"),
        reach=data.draw(st.sampled_from([0.0, 0.5, 4.0, 1e9]), "reach"),
    )
    check(case, row, np.random.default_rng(data.draw(st.integers(0, 2**31), "seed")))


def test_hard_steps_over_a_long_sequence(row, rng):
    check(Case("hard", 1, 32, 32, 24, 16, 3), row, rng, tolerance=2e-5, hard=True)


@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("batch", [1, 5])
def test_threads_change_nothing(row, rng, threads, batch):
    case = Case("threads", batch, 5, 4, 200, 4, 5)
    inputs = case.inputs(rng)
    arrays = [inputs[n] for n in DEFORM_INPUTS]
    one = deformable_scan(*arrays, *case.deform, isa=row)
    np.testing.assert_array_equal(deformable_scan(*arrays, *case.deform, isa=row, threads=threads), one)


@given(seed=st.integers(0, 2**31), factor=st.floats(-4, 4))
def test_linear_in_x(row, seed, factor):
    rng = np.random.default_rng(seed)
    case = Case("linear", 1, 3, 4, 19, 5)
    inputs = case.inputs(rng)
    other = rng.standard_normal(inputs["x"].shape).astype(np.float32)

    def scan(x):
        rest = [inputs[n] for n in DEFORM_INPUTS[1:]]
        return deformable_scan(np.float32(x), *rest, *case.deform, isa=row)

    mixed, expected = scan(factor * inputs["x"] + other), factor * scan(inputs["x"]) + scan(other)
    np.testing.assert_allclose(mixed, expected, atol=1e-5 * np.abs(expected).max())


@given(seed=st.integers(0, 2**31))
def test_channels_do_not_mix(row, seed):
    rng = np.random.default_rng(seed)
    inputs = Case("permuted", 2, 3, 4, 45, 6).inputs(rng)
    order = rng.permutation(45)
    arguments = [inputs[n] for n in SCAN_INPUTS]
    permuted = [np.ascontiguousarray(a[..., order]) if n in ("x", "delta", "D") else a for n, a in inputs.items()]
    permuted = dict(zip(inputs, permuted, strict=True)) | {"A": inputs["A"][order]}
    found = selective_scan(*(permuted[n] for n in SCAN_INPUTS), isa=row)
    np.testing.assert_array_equal(found, selective_scan(*arguments, isa=row)[..., order])


def test_one_unmoved_point_of_weight_one_is_the_selective_scan(row, rng):
    case = Case("identity", 2, 4, 6, 33, 8, 3, 1, 0.0)
    inputs = case.inputs(rng)
    inputs["weight"][:] = 1
    deformed = deformable_scan(*(inputs[n] for n in DEFORM_INPUTS), *case.deform, isa=row)
    plain = selective_scan(*(inputs[n] for n in SCAN_INPUTS), isa=row)
    np.testing.assert_allclose(deformed, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dy", "dx"), [(1, 0), (0, -2), (-1, 3), (0.5, 0), (0.25, -0.75)])
def test_an_offset_moves_the_image_and_zeros_come_in(row, rng, dy, dx):
    """With A = -inf-like decay and C B = 1 the scan passes Δ·s on, so y shows the moved image itself."""
    case = Case("moved", 1, 5, 7, 8, 1, 1, 1, 0.0)
    inputs = case.inputs(rng)
    inputs |= {"offset": np.tile(np.float32([dy, dx]), (1, case.length, 1)), "A": np.full((8, 1), -1e6, np.float32)}
    for name in ("weight", "B", "C"):
        inputs[name][:] = 1
    inputs["delta"][:] = np.log(np.expm1(1.0))
    inputs["D"][:] = 0
    y = deformable_scan(*(inputs[n] for n in DEFORM_INPUTS), *case.deform, isa=row).reshape(5, 7, 8)
    padded = np.pad(inputs["x"].reshape(5, 7, 8), ((8, 8), (8, 8), (0, 0)))
    top, left = int(np.floor(dy)), int(np.floor(dx))
    fy, fx = dy - top, dx - left

    def moved(r, c):
        return padded[8 + top + r : 13 + top + r, 8 + left + c : 15 + left + c]

    upper = (1 - fx) * moved(0, 0) + fx * moved(0, 1)
    lower = (1 - fx) * moved(1, 0) + fx * moved(1, 1)
    np.testing.assert_allclose(y, (1 - fy) * upper + fy * lower, atol=2e-6)
