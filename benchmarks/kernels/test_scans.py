"""Times of the scans at DF-Mamba's sizes: every row, the numpy and torch references, forward and backward.

Run by ``make bench-kernels``. Every benchmark carries ``ns_per_update``, nanoseconds per token · channel · state from
its fastest round, on one thread; the table of them and their ratios is printed at the end (conftest.py).
"""

import numpy as np
import pytest

from edge_hands.kernels import _native, deformable_scan, reference, rows, selective_scan
from edge_hands.kernels.cases import DEFORM_INPUTS, NETWORK_CASES, SCAN_INPUTS, Case

NATIVE = {"selective": selective_scan, "deformable": deformable_scan}
NUMPY = {"selective": reference.selective_scan, "deformable": reference.deformable_scan}
each_case = pytest.mark.parametrize("case", NETWORK_CASES, ids=lambda c: c.name)
each_op = pytest.mark.parametrize("op", NATIVE)
each_row = pytest.mark.parametrize("row", rows())


def arguments(case: Case, op: str, rng: np.random.Generator) -> tuple[list[np.ndarray], tuple[int, ...]]:
    inputs = case.inputs(rng)
    deform = op == "deformable"
    return [inputs[n] for n in (DEFORM_INPUTS if deform else SCAN_INPUTS)], case.deform if deform else ()


def measure(benchmark, case: Case, op: str, way: str, function, *args, rounds: int = 30) -> None:
    benchmark.pedantic(function, args, warmup_rounds=2, rounds=rounds)
    benchmark.extra_info.update(
        op=op, case=case.name, way=way, ns_per_update=benchmark.stats.stats.min * 1e9 / case.updates
    )


@each_case
@each_op
@each_row
def test_forward(benchmark, case, op, row, rng):
    arrays, further = arguments(case, op, rng)
    measure(benchmark, case, op, row, lambda: NATIVE[op](*arrays, *further, isa=row))


@each_case
@each_op
def test_forward_numpy(benchmark, case, op, rng):
    arrays, further = arguments(case, op, rng)
    measure(benchmark, case, op, "numpy", lambda: NUMPY[op](*arrays, *further), rounds=3)


@each_case
@each_op
@each_row
def test_backward(benchmark, case, op, row, rng):
    arrays, further = arguments(case, op, rng)
    grad_y = rng.standard_normal(arrays[0].shape).astype(np.float32)
    gradients = [np.empty_like(a) for a in arrays]
    if not further:
        arrays[1:1] = [None, None]
    further = further or (0, 0, 0)
    measure(
        benchmark, case, f"{op} backward", row, lambda: _native.backward(row, grad_y, *arrays, *further, gradients, 1)
    )


@each_case
@each_op
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_torch(benchmark, case, op, backward, rng):
    """Eager torch: a loop over the tokens, and autograd through it."""
    torch = pytest.importorskip("torch")
    from edge_hands.kernels import torch_ops

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    arrays, further = arguments(case, op, rng)
    tensors = [torch.from_numpy(a).requires_grad_(backward) for a in arrays]
    function = getattr(torch_ops, f"{op}_scan_ref")
    y = function(*tensors, *further)
    if backward:
        name, step = f"{op} backward", lambda: torch.autograd.grad(y.sum(), tensors, retain_graph=True)
    else:
        name, step = op, lambda: function(*tensors, *further)
    measure(benchmark, case, name, "torch", step, rounds=3)
    torch.set_num_threads(threads)
