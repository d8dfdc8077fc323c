"""Each row's scans against the float64 reference: odd sizes, hard inputs, and properties that need no reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_hands.kernels import (
    deformable_scan,
    deformable_scan_int8,
    reference,
    rows,
    selective_scan,
    selective_scan_int8,
)
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


@pytest.mark.parametrize("case", ODD_CASES + NETWORK_CASES, ids=lambda c: c.name)
def test_powers_of_one_decay_agree_with_the_reference(row, case, rng):
    check(case, row, rng, geometric=True)


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
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31), "seed"))
    check(case, row, rng, geometric=data.draw(st.booleans(), "geometric"))


def test_hard_steps_over_a_long_sequence(row, rng):
    check(Case("hard", 1, 32, 32, 24, 16, 3), row, rng, tolerance=2e-5, hard=True)
    check(Case("hard", 1, 32, 32, 24, 16, 3), row, rng, tolerance=2e-5, hard=True, geometric=True)


@pytest.mark.parametrize("channel", [0, 17, 44])
@pytest.mark.parametrize("state", [1, 4])
def test_one_other_decay_is_noticed(row, rng, channel, state):
    """The powers of one decay are taken only where every A is what they make of it."""
    case = Case("nearly", 1, 4, 5, 45, 5)
    inputs = case.inputs(rng, geometric=True)
    inputs["A"][channel, state] *= 1.5
    exact = [inputs[n].astype(np.float64) for n in SCAN_INPUTS]
    found = selective_scan(*(inputs[n] for n in SCAN_INPUTS), isa=row)
    assert error(found, reference.selective_scan(*exact)) <= 2e-6


@given(seed=st.integers(0, 2**31), cut=st.integers(0, 12), geometric=st.booleans())
def test_a_sequence_in_two_pieces_gives_what_it_gives_whole(row, seed, cut, geometric):
    rng = np.random.default_rng(seed)
    inputs = Case("pieces", 2, 3, 4, 19, 5).inputs(rng, geometric=geometric)
    first = rng.standard_normal((2, 19, 5)).astype(np.float32)

    def scan(begin, end, state):
        tokens = {n: inputs[n][:, begin:end].copy() if n in ("x", "delta", "B", "C") else inputs[n] for n in inputs}
        return selective_scan(*(tokens[n] for n in SCAN_INPUTS), state=state, return_state=True, isa=row)

    whole, last = scan(0, 12, first)
    head, between = scan(0, cut, first)
    tail, end = scan(cut, 12, between)
    np.testing.assert_array_equal(np.concatenate([head, tail], 1), whole)
    np.testing.assert_array_equal(end, last)
    exact = [inputs[n].astype(np.float64) for n in SCAN_INPUTS]
    expected = reference.selective_scan(*exact, state=first.astype(np.float64), return_state=True)
    assert error(whole, expected[0]) <= 2e-6 and error(last, expected[1]) <= 2e-6


def test_the_deformable_scan_goes_on_from_a_state_too(row, rng):
    case = Case("stream", 2, 4, 5, 40, 6, 2)
    inputs = case.inputs(rng)
    state = rng.standard_normal((2, 40, 6)).astype(np.float32)
    arrays = [inputs[n] for n in DEFORM_INPUTS]
    found = deformable_scan(*arrays, *case.deform, state=state, return_state=True, isa=row, threads=2)
    exact = [a.astype(np.float64) for a in arrays]
    expected = reference.deformable_scan(*exact, *case.deform, state=state.astype(np.float64), return_state=True)
    assert error(found[0], expected[0]) <= 2e-6 and error(found[1], expected[1]) <= 2e-6


@pytest.mark.parametrize("geometric", [False, True])
@pytest.mark.parametrize("case", ODD_CASES + NETWORK_CASES, ids=lambda c: c.name)
def test_int8_forms_are_within_one_step_of_the_reference(row, case, geometric, rng):
    inputs = case.inputs(rng, geometric=geometric)
    x = rng.integers(-128, 128, inputs["x"].shape, np.int8)
    for names, native, exact, further in (
        (SCAN_INPUTS, selective_scan_int8, reference.selective_scan_int8, ()),
        (DEFORM_INPUTS, deformable_scan_int8, reference.deformable_scan_int8, case.deform),
    ):
        arrays, x_quantization = [inputs[n] for n in names[1:]], (0.02, -3)
        doubles = [a.astype(np.float64) for a in arrays]
        reach = getattr(reference, exact.__name__.removesuffix("_int8"))(
            reference.dequantize(x, x_quantization, np.dtype(float)), *doubles, *further
        )
        scale = float(np.abs(reach).max(initial=1e-3)) / 100  # a few values saturate
        found = native(x, x_quantization, *arrays, *further, (scale, 5), isa=row, threads=2)
        expected = exact(x, x_quantization, *doubles, *further, (scale, 5))
        assert found.dtype == np.int8
        off = np.abs(found.astype(int) - expected.astype(int))
        assert off.max(initial=0) <= 1
        assert (off > 0).mean() <= 0.02 if off.size > 1000 else True  # only what lies on an edge between two steps


def test_int8_saturates_and_nan_is_the_lowest(row, rng):
    inputs = Case("saturated", 1, 1, 4, 20, 2).inputs(rng)
    inputs["D"][:] = [1e30, -1e30, np.nan, 0] * 5
    inputs["C"][:] = 0
    x = np.full((1, 4, 20), 100, np.int8)
    y = selective_scan_int8(x, (1.0, 0), *(inputs[n] for n in SCAN_INPUTS[1:]), (0.5, 7), isa=row)
    np.testing.assert_array_equal(y, np.tile(np.int8([127, -128, -128, 7] * 5), (1, 4, 1)))


def test_special_values_stay_where_they_belong(row, rng):
    """NaN and infinity reach their own channel and later tokens, huge steps forget, denormals count as zero."""
    case = Case("special", 1, 1, 6, 20, 3)
    inputs = case.inputs(rng)
    plain = selective_scan(*(inputs[n] for n in SCAN_INPUTS), isa=row)

    def scan(name, index, value):
        changed = {n: a.copy() for n, a in inputs.items()}
        changed[name][index] = value
        return selective_scan(*(changed[n] for n in SCAN_INPUTS), isa=row)

    for name in ("x", "delta"):
        y = scan(name, (0, 2, 7), np.nan)
        assert np.isnan(y[0, 2:, 7]).all()
        others = np.arange(20) != 7
        np.testing.assert_array_equal(y[0, :2], plain[0, :2])
        np.testing.assert_array_equal(y[..., others], plain[..., others])
    y = scan("x", (0, 4, 7), np.inf)  # infinity, or NaN where infinities of both signs meet
    assert not np.isfinite(y[0, 4:, 7]).any() and np.isfinite(np.delete(y, 7, -1)).all()
    assert np.isnan(scan("B", (0, 3, 1), np.nan)[0, 3:]).all()
    # A huge step leaves nothing of what was before it.
    inputs["x"][0, 3:] = 0
    assert np.abs(scan("delta", (0, 3), 1e6)[0, 3:]).max() == 0
    assert np.abs(scan("delta", (0, 3), 1e30)[0, 3:]).max() == 0
    # Denormal x and states: the result is exactly that of zeros, on every row.
    inputs["x"][:] = 1e-40
    assert np.abs(selective_scan(*(inputs[n] for n in SCAN_INPUTS), isa=row)).max() == 0


def test_the_callers_floating_point_mode_comes_back(row, rng):
    inputs = Case("mode", 1, 2, 3, 8, 2).inputs(rng)
    selective_scan(*(inputs[n] for n in SCAN_INPUTS), isa=row)
    assert np.float32(1e-40) * np.float32(0.5) != 0  # denormals are alive in this thread


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
