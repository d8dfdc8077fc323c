"""The portable forms of the scan ops equal the operators."""

from __future__ import annotations

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


def test_other_grids_of_points() -> None:
    x, *rest = scan_inputs(16, 4, 2)
    torch.manual_seed(1)
    offset, weight = torch.randn(1, 16, 50), torch.randn(1, 16, 25)
    expected = ops.deformable_scan(x, offset, weight, *rest, 4, 4, 25)
    assert torch.allclose(portable.deformable_scan(x, offset, weight, *rest, 4, 4, 25), expected, atol=1e-4, rtol=1e-4)


def test_small_step_sizes_keep_their_digits() -> None:
    x = torch.linspace(-15.0, 15.0, 20001)
    exact = torch.nn.functional.softplus(x.double(), threshold=100.0)
    assert ((portable._softplus(x) - exact) / exact).abs().max() < 3e-7


def test_a_graph_in_portable_forms(tiny, crops) -> None:
    model, image = tiny(), torch.from_numpy(crops(1)).float() / 255
    rewritten = portable.in_graph(model)
    targets = [[node.target for node in graph.body.graph.nodes] for graph in (model, rewritten)]
    assert [target in portable.FORMS for target in targets[0]].count(True) == 1
    assert targets[1].count(portable.deformable_scan) == 1
    assert not [target for target in targets[1] if target in portable.FORMS]
    found, expected = rewritten(image), model(image)
    for name in expected:
        assert (found[name] - expected[name]).abs().mean() < 5e-3, name
