"""Times of the scans: every row against a plain scalar loop, the numpy and torch references, and two kernels for one.

Run by ``make bench-kernels``. Every benchmark carries ``ns_per_update``, nanoseconds per token · channel · state from
its fastest round, on one thread; the table of them and their ratios is printed at the end (conftest.py).
"""

import numpy as np
import pytest

from edge_hands.kernels import (
    Quantization,
    _native,
    deformable_scan,
    deformable_scan_int8,
    reference,
    rows,
    selective_scan,
    selective_scan_int8,
)
from edge_hands.kernels.cases import DEFORM_INPUTS, FURTHER_CASES, NETWORK_CASES, SCAN_INPUTS, Case

from . import baselines

NATIVE = {"selective": selective_scan, "deformable": deformable_scan}
INT8 = {"selective": selective_scan_int8, "deformable": deformable_scan_int8}
NUMPY = {"selective": reference.selective_scan, "deformable": reference.deformable_scan}
ALL_CASES = NETWORK_CASES + FURTHER_CASES
TORCH_CASES = [c for c in NETWORK_CASES if c.length <= 256]
each_case = pytest.mark.parametrize("case", ALL_CASES, ids=lambda c: c.name)
each_op = pytest.mark.parametrize("op", NATIVE)
each_row = pytest.mark.parametrize("row", rows())


def arguments(case: Case, op: str, rng: np.random.Generator, **options) -> tuple[list[np.ndarray], tuple[int, ...]]:
    inputs = case.inputs(rng, **options)
    deform = op == "deformable"
    return [aligned(inputs[n]) for n in (DEFORM_INPUTS if deform else SCAN_INPUTS)], case.deform if deform else ()


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a cache line, as the tensors of every runtime do, and numpy's need not."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


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
@each_row
def test_forward_geometric(benchmark, case, row, rng):
    arrays, _ = arguments(case, "selective", rng, geometric=True)
    measure(benchmark, case, "selective geometric", row, lambda: selective_scan(*arrays, isa=row))


@each_case
@each_op
@each_row
def test_forward_int8(benchmark, case, op, row, rng):
    (_, *arrays), further = arguments(case, op, rng)
    x = rng.integers(-128, 128, (case.batch, case.length, case.channels), np.int8)
    x_q, y_q = Quantization(0.03, 3), Quantization(0.1, -5)
    measure(benchmark, case, f"{op} int8", row, lambda: INT8[op](x, x_q, *arrays, *further, y_q, isa=row))


@each_case
def test_forward_plain(benchmark, case, rng):
    """The loop that a runtime without such kernels has."""
    arrays, _ = arguments(case, "selective", rng)
    np.testing.assert_allclose(baselines.plain_scan(case, *arrays), selective_scan(*arrays), rtol=1e-4, atol=1e-4)
    measure(benchmark, case, "selective", "plain", lambda: baselines.plain_scan(case, *arrays), rounds=5)


@each_case
def test_forward_as_two_kernels(benchmark, case, rng):
    """The gather, then the selective scan of what it sampled: what the fused scan replaces."""
    (x, offset, weight, *rest), further = arguments(case, "deformable", rng)
    sampled = baselines.gather_only(case, x, offset, weight)
    np.testing.assert_allclose(sampled, reference.deform(x, offset, weight, *further), atol=1e-4)
    measure(
        benchmark,
        case,
        "deformable",
        "two kernels",
        lambda: selective_scan(baselines.gather_only(case, x, offset, weight), *rest),
    )


@pytest.mark.parametrize("case", NETWORK_CASES, ids=lambda c: c.name)
@each_op
def test_forward_numpy(benchmark, case, op, rng):
    arrays, further = arguments(case, op, rng)
    measure(benchmark, case, op, "numpy", lambda: NUMPY[op](*arrays, *further), rounds=3)


@pytest.mark.parametrize("case", TORCH_CASES, ids=lambda c: c.name)
@each_op
@each_row
def test_forward_and_backward(benchmark, case, op, row, rng):
    arrays, further = arguments(case, op, rng)
    grad_y = rng.standard_normal(arrays[0].shape).astype(np.float32)
    gradients = [np.empty_like(a) for a in arrays]
    inputs = arrays if further else [arrays[0], None, None, *arrays[1:]]

    def step():
        NATIVE[op](*arrays, *further, isa=row)
        _native.backward(row, grad_y, *inputs, *(further or (0, 0, 0)), gradients, 1)

    measure(benchmark, case, f"{op} with backward", row, step)


@pytest.mark.parametrize("case", TORCH_CASES, ids=lambda c: c.name)
@each_op
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "with_backward"])
def test_torch(benchmark, case, op, backward, rng):
    """Eager torch: grid_sample and a loop over the tokens, and autograd through them."""
    torch = pytest.importorskip("torch")
    from edge_hands.kernels import torch_ops

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    arrays, further = arguments(case, op, rng)
    tensors = [torch.from_numpy(a).requires_grad_(backward) for a in arrays]

    def forward():
        if not further:
            return torch_ops.selective_scan_ref(*tensors)
        x, offset, weight, *rest = tensors
        return torch_ops.selective_scan_ref(_grid_sample(case, x, offset, weight), *rest)

    def step():
        y = forward()
        if backward:
            torch.autograd.grad(y.sum(), tensors)

    measure(benchmark, case, f"{op} with backward" if backward else op, "torch", step, rounds=3)
    torch.set_num_threads(threads)


def _grid_sample(case: Case, x, offset, weight):
    """Σ_k w_k x(p + a_k + o_k) by torch's own bilinear sampler, one image of G groups at once: (1, L, D)."""
    import torch

    groups, points, channels = case.groups, case.points, case.channels // case.groups
    image = x.view(case.height, case.width, groups, channels).permute(2, 3, 0, 1)
    tokens = torch.arange(case.length)
    place = torch.stack([tokens // case.width, tokens % case.width], -1)[:, None, None]
    at = offset.view(case.length, groups, points, 2) + place + torch.from_numpy(reference.anchors(points))
    size = torch.tensor([case.height, case.width], dtype=torch.float32)
    grid = ((2 * at + 1) / size - 1).flip(-1).transpose(0, 1)  # (G, L, K, 2) as x, y in [-1, 1]
    values = torch.nn.functional.grid_sample(image, grid, align_corners=False)  # (G, C, L, K)
    weights = weight.view(case.length, groups, points).transpose(0, 1)[:, None]
    return (values * weights).sum(-1).permute(2, 0, 1).reshape(1, case.length, -1)
