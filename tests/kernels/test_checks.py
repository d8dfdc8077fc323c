"""Wrong arguments give Python errors that name the argument; EDGE_HANDS_ISA forces a row or says why not."""

import os
import subprocess
import sys

import numpy as np
import pytest

from edge_hands.kernels import deformable_scan, isa, rows, selective_scan, selective_scan_int8
from edge_hands.kernels.cases import DEFORM_INPUTS, SCAN_INPUTS, Case

CASE = Case("checked", 2, 3, 4, 16, 5, 2)


def call(rng, *deform, **changes):
    inputs = CASE.inputs(rng) | changes
    return deformable_scan(*(inputs[n] for n in DEFORM_INPUTS), *(deform or CASE.deform))


@pytest.mark.parametrize("name", DEFORM_INPUTS)
@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda a: a.astype(np.float64), TypeError, "float32, found float64"),
        (lambda a: a.tolist(), TypeError, "numpy array or one that speaks DLPack, found list"),
        (lambda a: np.stack([a, a], -1)[..., 0], ValueError, "C-contiguous"),
        (lambda a: a[None], ValueError, "dimension"),
    ],
    ids=["dtype", "type", "layout", "rank"],
)
def test_a_wrong_array_is_named(rng, name, spoil, error, says):
    with pytest.raises(error, match=rf"^{name}: .*{says}"):
        call(rng, **{name: spoil(CASE.inputs(rng)[name])})


@pytest.mark.parametrize("name", DEFORM_INPUTS[1:])
@pytest.mark.parametrize("axis", [0, -1])
def test_a_wrong_size_is_named(rng, name, axis):
    array = CASE.inputs(rng)[name]
    longer = np.ascontiguousarray(np.concatenate([array, array.take([0], axis)], axis))
    named = "A|B" if name == "A" else name  # N is read from A: B then no longer fits it
    with pytest.raises(ValueError, match=rf"^({named}): expected"):
        call(rng, **{name: longer})


@pytest.mark.parametrize(
    ("deform", "error", "named"),
    [
        ((3, 5, 9), ValueError, "height, width"),
        ((-3, -4, 9), ValueError, "height, width"),
        ((3, 4, 4), ValueError, "points"),
        ((3, 4, 0), ValueError, "points"),
        ((3, 4, 25), ValueError, "weight"),
        ((3.0, 4, 9), TypeError, "height"),
    ],
)
def test_a_wrong_image_or_point_count_is_named(rng, deform, error, named):
    with pytest.raises(error, match=f"^{named}: expected"):
        call(rng, *deform)


def test_groups_must_divide_the_channels(rng):
    case = Case("groups", 2, 3, 4, 16, 5, 3)
    inputs = case.inputs(rng)
    with pytest.raises(ValueError, match=r"^weight: .*3 groups"):
        deformable_scan(*(inputs[n] for n in DEFORM_INPUTS), *case.deform)


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        (np.zeros((2, 16, 4), np.float32), ValueError, r"expected shape \(2, 16, 5\), found \(2, 16, 4\)"),
        (np.zeros((2, 16, 5)), TypeError, "float32, found float64"),
        (np.zeros((2, 16, 10), np.float32)[..., ::2], ValueError, "C-contiguous"),
        (0.0, TypeError, "numpy array or one that speaks DLPack, found float"),
    ],
)
def test_a_wrong_state_is_named(rng, state, error, says):
    inputs = CASE.inputs(rng)
    with pytest.raises(error, match=f"^state: .*{says}"):
        selective_scan(*(inputs[n] for n in SCAN_INPUTS), state=state)


@pytest.mark.parametrize("wrong", [(0.0, 0), (-1.0, 0), (np.inf, 0), (np.nan, 0), (1.0, 128), (1.0, 0.5), 0.1, None])
def test_a_wrong_quantization_is_named(rng, wrong):
    inputs = CASE.inputs(rng)
    x, rest = inputs["x"].astype(np.int8), [inputs[n] for n in SCAN_INPUTS[1:]]
    with pytest.raises(ValueError, match="^x_quantization: expected"):
        selective_scan_int8(x, wrong, *rest, (0.1, 0))
    if wrong is not None:
        with pytest.raises(ValueError, match="^y_quantization: expected"):
            selective_scan_int8(x, (0.1, 0), *rest, wrong)


def test_int8_forms_take_int8(rng):
    inputs = CASE.inputs(rng)
    with pytest.raises(TypeError, match="^x: expected dtype int8, found float32"):
        selective_scan_int8(inputs["x"], (0.1, 0), *(inputs[n] for n in SCAN_INPUTS[1:]), (0.1, 0))


class Foreign:
    """Another library's array: it speaks DLPack and nothing else."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def test_arrays_come_through_dlpack(rng):
    inputs = CASE.inputs(rng)
    found = deformable_scan(*(Foreign(inputs[n]) for n in DEFORM_INPUTS), *CASE.deform)
    np.testing.assert_array_equal(found, call(np.random.default_rng(0), **inputs))
    with pytest.raises(TypeError, match="^delta: expected an array in the memory of the CPU"):
        call(rng, delta=Foreign(inputs["delta"], device=(2, 0)))  # CUDA


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_threads_must_be_a_count(rng, threads):
    inputs = CASE.inputs(rng)
    arrays = [inputs[n] for n in ("x", "delta", "A", "B", "C", "D")]
    with pytest.raises(ValueError, match="^threads: expected"):
        selective_scan(*arrays, threads=threads)


def test_an_unknown_row_is_refused_with_the_known_ones(rng):
    inputs = CASE.inputs(rng)
    with pytest.raises(ValueError, match=r"^isa: expected one of scalar.*found 'mmx'"):
        selective_scan(*(inputs[n] for n in ("x", "delta", "A", "B", "C", "D")), isa="mmx")


def run(code: str, forced: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"EDGE_HANDS_ISA": forced}, capture_output=True, text=True
    )


@pytest.mark.parametrize("row", rows())
def test_the_environment_forces_a_row(row):
    assert run("from edge_hands import kernels; print(kernels.isa())", row).stdout.strip() == row


def test_the_environment_cannot_force_what_is_not_there():
    done = run("from edge_hands import kernels; kernels.isa()", "avx10")
    assert done.returncode == 1
    assert "ValueError: EDGE_HANDS_ISA: expected one of scalar" in done.stderr
    assert "found 'avx10'" in done.stderr


def test_without_force_the_last_supported_row_is_used():
    assert run("from edge_hands import kernels; print(kernels.isa())", "").stdout.strip() == rows()[-1]
    assert isa() in rows()


def test_importing_the_kernels_imports_no_torch():
    code = "import edge_hands.kernels, edge_hands.kernels.reference, sys; print('torch' in sys.modules)"
    assert run(code, "").stdout.strip() == "False"
