"""The portable forms of the scan ops equal the operators."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_hands.export_targets import portable  # noqa: E402
from edge_hands.kernels import torch_ops  # noqa: E402, F401  (registers the operators)

ops = torch.ops.edge_hands


def scan_inputs(length: int, channels: int, states: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(length + channels)
    return (
        torch.randn(1, length, channels),
        torch.randn(1, length, channels) * 4.0,
        -torch.rand(channels, states) * 16.0,
        torch.randn(1, length, states),
        torch.randn(1, length, states),
        torch.randn(channels),
    )


@pytest.mark.parametrize(
    ("length", "channels", "states"), [(1, 3, 1), (7, 8, 2), (16, 32, 8), (64, 128, 8), (144, 24, 4)]
)
def test_scan(length: int, channels: int, states: int) -> None:
    inputs = scan_inputs(length, channels, states)
    expected = ops.selective_scan(*inputs)
    assert torch.allclose(portable.selective_scan(*inputs), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width", "groups"), [(1, 1, 1), (3, 5, 2), (8, 8, 4), (12, 12, 3)])
def test_deformable_scan(height: int, width: int, groups: int) -> None:
    length, channels = height * width, 8 * groups
    x, *rest = scan_inputs(length, channels, 4)
    offset = torch.randn(1, length, groups * 18) * 3.0  # many samples fall outside
    weight = torch.randn(1, length, groups * 9)
    expected = ops.deformable_scan(x, offset, weight, *rest, height, width)
    assert torch.allclose(
        portable.deformable_scan(x, offset, weight, *rest, height, width), expected, atol=2e-4, rtol=1e-4
    )


def test_samples_beyond_the_border_are_zero() -> None:
    x, *rest = scan_inputs(4, 2, 1)
    offset, weight = torch.full((1, 4, 18), 9.0), torch.ones(1, 4, 9)
    y = portable.deformable_scan(x, offset, weight, *rest, 2, 2)
    assert torch.allclose(y, x * rest[-1])  # nothing flows into the state: only D x is left


def test_small_products_are_added_one_by_one() -> None:
    a, b = (torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    found, expected = portable.fused_product(a, b.transpose(1, 2)), torch.zeros(2, 4, 4)
    for k in range(9):
        step = expected.numpy().astype(np.float64) + (a[:, :, None, k].double() * b[:, None, :, k].double()).numpy()
        expected = torch.from_numpy(step.astype(np.float32))
    assert torch.equal(found, expected)
    assert torch.allclose(found, torch.bmm(a, b.transpose(1, 2)), atol=1e-5)


def test_other_grids_of_points() -> None:
    x, *rest = scan_inputs(16, 4, 2)
    torch.manual_seed(1)
    offset, weight = torch.randn(1, 16, 50), torch.randn(1, 16, 25)
    expected = ops.deformable_scan(x, offset, weight, *rest, 4, 4, 25)
    assert torch.allclose(portable.deformable_scan(x, offset, weight, *rest, 4, 4, 25), expected, atol=1e-4, rtol=1e-4)


def test_small_step_sizes_keep_their_digits() -> None:
    x = torch.linspace(-15.0, 15.0, 20001)
    exact = torch.nn.functional.softplus(x.double(), threshold=100.0)
    assert ((portable._softplus(x) - exact) / exact).abs().max() < 4e-6


@pytest.mark.parametrize(("x", "expected"), [(-1e30, 0.0), (-30.0, 0.0), (30.0, 30.0), (1e30, 1e30)])
def test_step_sizes_far_out(x: float, expected: float) -> None:
    assert portable._softplus(torch.tensor([x])).item() == pytest.approx(expected, abs=3e-9, rel=1e-7)


def test_a_decay_keeps_how_far_it_is_from_one() -> None:
    t = torch.logspace(-6, 2, 20001)
    decay, exact = portable._decay(t / 16), torch.exp(-t.double())
    assert (decay - exact).abs().max() < 2e-7
    assert ((1 - decay.double()) - (1 - exact))[t < 0.01].abs().max() < 4e-8  # half a step of float32 next to 1
    assert portable._decay(torch.tensor([0.0, 1e3, float("inf")])).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("states", [1, 2, 3, 7, 8])
def test_the_sum_over_states(states: int) -> None:
    value = torch.randint(-100, 100, (4, 3, states, 5)).float()  # exact in any order
    assert torch.equal(portable._sum_states(value), value.sum(2, keepdim=True))


class _Scan(torch.nn.Module):
    """A portable scan of a sequence (1, 16, 8) whose other inputs are linear in it: every operation is an exact one."""

    def __init__(self) -> None:
        super().__init__()
        _, _, self.A, *_, self.D = scan_inputs(16, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = x[..., :3], x[..., 3:6]
        return portable.selective_scan(x, x * 3.0 - 2.0, self.A, *sides, self.D)


def _in_litert(scan: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    litert_torch = pytest.importorskip("litert_torch")
    return torch.from_numpy(litert_torch.convert(scan, (x,))(x.numpy()))


def _in_executorch(scan: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    exir, executorch = pytest.importorskip("executorch.exir"), import_module("edge_hands.export_targets.executorch")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.runtime import Runtime

    edge = exir.to_edge_transform_and_lower(torch.export.export(scan, (x,)), partitioner=[XnnpackPartitioner()])
    assert set(executorch.coverage(edge.exported_program()).fallbacks) <= {"aten::full"}  # the first carry
    content = edge.to_executorch().buffer
    program = Runtime.get().load_program(content)  # a method does not keep what it runs
    return program.load_method("forward").execute([x])[0].clone()


@pytest.mark.parametrize("run", [_in_litert, _in_executorch])
def test_the_same_bits_in_every_runtime(run) -> None:
    scan, x = _Scan().eval(), torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(4)) * 2
    assert torch.equal(run(scan, x), scan(x))


def test_a_graph_in_portable_forms(tiny, crops) -> None:
    model, image = tiny(), torch.from_numpy(crops(1)).float() / 255
    rewritten = portable.in_graph(model)
    targets = [[node.target for node in graph.body.graph.nodes] for graph in (model, rewritten)]
    assert [target in portable.FORMS for target in targets[0]].count(True) == 4  # and three norms' roots
    assert targets[1].count(portable._deformable_scan_in_torch) == 1
    assert not [target for target in targets[1] if target in portable.FORMS]
    found, expected = rewritten(image), model(image)
    for name in expected:
        assert (found[name] - expected[name]).abs().mean() < 5e-3, name
