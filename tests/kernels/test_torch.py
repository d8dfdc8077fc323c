"""The torch operators: values, gradients of every row, and what torch asks of an operator."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_hands import kernels  # noqa: E402
from edge_hands.kernels import _native, rows, torch_ops  # noqa: E402
from edge_hands.kernels.cases import DEFORM_INPUTS, ODD_CASES, SCAN_INPUTS, Case  # noqa: E402

SMALL = Case("small", 2, 3, 4, 10, 3, 2)


def tensors(case: Case, names, rng, dtype=torch.float32) -> list[torch.Tensor]:
    inputs = case.inputs(rng)
    return [torch.from_numpy(inputs[n]).to(dtype).requires_grad_() for n in names]


def both(case: Case):
    """(operator, reference, names of its tensors, its further arguments), plain and deformable."""
    yield torch_ops.selective_scan, torch_ops.selective_scan_ref, SCAN_INPUTS, ()
    yield torch_ops.deformable_scan, torch_ops.deformable_scan_ref, DEFORM_INPUTS, case.deform


@pytest.mark.parametrize("row", rows())
@pytest.mark.parametrize("case", ODD_CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("threads", [1, 3])
def test_native_gradients_agree_with_the_reference(row, case, threads, rng):
    for _, reference, names, further in both(case):
        inputs = tensors(case, names, rng, torch.float64)
        y = reference(*inputs, *further)
        grad_y = torch.from_numpy(rng.standard_normal(y.shape).astype(np.float32))
        exact = torch.autograd.grad(y, inputs, grad_y.double(), allow_unused=True)
        arrays = [t.detach().float().numpy() for t in inputs]
        found = [np.full_like(a, np.nan) for a in arrays]
        if not further:
            arrays[1:1] = [None, None]
        _native.backward(row, grad_y.numpy(), *arrays, *(further or (0, 0, 0)), found, threads)
        for name, gradient, expected in zip(names, found, exact, strict=True):
            expected = np.zeros_like(gradient) if expected is None else expected.numpy()
            scale = max(float(np.abs(expected).max(initial=0)), 1e-6)
            assert np.abs(gradient - expected).max(initial=0) <= 1e-4 * scale, name


def test_references_have_the_right_gradients_and_values(rng):
    case = Case("checked", 1, 3, 2, 4, 2, 2)
    for _, reference, names, further in both(case):
        inputs = tensors(case, names, rng, torch.float64)
        assert torch.autograd.gradcheck(lambda *t: reference(*t, *further), inputs, eps=1e-6, atol=1e-6)  # noqa: B023


def test_operators_backpropagate(rng):
    for operator, reference, names, further in both(SMALL):
        inputs = tensors(SMALL, names, rng)
        exact = [t.detach().double().requires_grad_() for t in inputs]
        y, expected = operator(*inputs, *further), reference(*exact, *further)
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)
        for found, wanted in zip(
            torch.autograd.grad(y.square().sum(), inputs),
            torch.autograd.grad(expected.square().sum(), exact),
            strict=True,
        ):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_operators_are_what_torch_expects(rng):
    for operator, _, names, further in both(SMALL):
        torch.library.opcheck(operator, (*tensors(SMALL, names, rng), *further))


def test_strided_tensors_are_accepted(rng):
    inputs = [t.detach() for t in tensors(SMALL, SCAN_INPUTS, rng)]
    strided = [torch.stack([t, t], -1)[..., 0] for t in inputs]
    torch.testing.assert_close(torch_ops.selective_scan(*strided), torch_ops.selective_scan(*inputs), rtol=0, atol=0)


def test_autocast_computes_in_float32(rng):
    inputs = [t.detach().bfloat16().requires_grad_() for t in tensors(SMALL, SCAN_INPUTS, rng)]
    with torch.autocast("cpu", torch.bfloat16):
        y = torch_ops.selective_scan(*inputs)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, torch_ops.selective_scan(*(t.float() for t in inputs)), rtol=0, atol=0)
    y.sum().backward()
    assert inputs[0].grad.dtype == torch.bfloat16


def test_export_keeps_one_opaque_operator(rng):
    class Block(torch.nn.Module):
        def forward(self, *inputs):
            return torch_ops.deformable_scan(*inputs, 3, 4)

    inputs = tuple(t.detach() for t in tensors(SMALL, DEFORM_INPUTS, rng))
    program = torch.export.export(Block(), inputs)
    operators = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert operators == [torch.ops.edge_hands.deformable_scan.default]
    torch.testing.assert_close(program.module()(*inputs), Block()(*inputs), rtol=0, atol=0)


def test_wrong_tensors_are_named(rng):
    inputs = [t.detach() for t in tensors(SMALL, DEFORM_INPUTS, rng)]
    with pytest.raises(TypeError, match=r"^delta: .*float64"):
        torch_ops.deformable_scan(*inputs[:3], inputs[3].double(), *inputs[4:], 3, 4)
    with pytest.raises(ValueError, match=r"^offset: expected shape \(2, 12, 36\)"):
        torch_ops.deformable_scan(inputs[0], inputs[1][..., :-1], *inputs[2:], 3, 4)
    with pytest.raises(ValueError, match=r"^height, width: "):
        torch_ops.deformable_scan(*inputs, 4, 4)


def test_int8_operators_give_what_the_kernels_give(rng):
    inputs = SMALL.inputs(rng)
    x, q, y_q = rng.integers(-128, 128, inputs["x"].shape, np.int8), (0.02, 3), (0.05, -7)
    for operator, native, names, further in (
        (torch_ops.selective_scan_int8, kernels.selective_scan_int8, SCAN_INPUTS, ()),
        (torch_ops.deformable_scan_int8, kernels.deformable_scan_int8, DEFORM_INPUTS, SMALL.deform),
    ):
        arrays = [inputs[n] for n in names[1:]]
        tensors = [torch.from_numpy(a) for a in arrays]
        arguments = (torch.from_numpy(x), *q, *tensors, *further, *y_q)
        np.testing.assert_array_equal(operator(*arguments).numpy(), native(x, q, *arrays, *further, y_q))
        torch.library.opcheck(operator, arguments)
        with pytest.raises(TypeError, match="^x: expected dtype torch.int8"):
            operator(torch.from_numpy(inputs["x"]), *arguments[1:])
        with pytest.raises(ValueError, match="^y_scale, y_zero_point: "):
            operator(*arguments[:-1], 300)


def test_a_stream_goes_on_from_its_state(rng):
    inputs = [t.detach() for t in tensors(SMALL, SCAN_INPUTS, rng)]
    state = torch.zeros(2, 10, 3)
    pieces = []
    for begin, end in ((0, 5), (5, 12)):
        tokens = [t[:, begin:end] if t.dim() == 3 else t for t in inputs]
        y, state = torch_ops.selective_scan_stream(*tokens, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), torch_ops.selective_scan(*inputs), rtol=0, atol=0)
    torch.library.opcheck(torch_ops.selective_scan_stream, (*inputs, state))
    with pytest.raises(ValueError, match=r"^state: expected shape \(2, 10, 3\)"):
        torch_ops.selective_scan_stream(*inputs, state[:1])
