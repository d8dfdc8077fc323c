"""The fake-quant graph in float64: what it computes, and what an order of sums no longer changes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from edge_hands.export_targets import bisect, double  # noqa: E402
from edge_hands.quantization import qat  # noqa: E402


@pytest.fixture
def model(tiny) -> qat.QuantizedModel:
    return tiny()


def values(model: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {name: value.numpy() for name, value in model(torch.from_numpy(image)).items()}


@pytest.fixture
def image(model: qat.QuantizedModel) -> np.ndarray:
    size = model.config.image_size
    return np.random.default_rng(0).random((1, size, size, 3), dtype=np.float32)


def test_int8_values_are_the_graphs_but_for_few_that_lie_half_way(model: qat.QuantizedModel, image: np.ndarray) -> None:
    steps = {node.name: node.args[1] for node in model.body.graph.nodes if node.target is bisect._DEQUANTIZE}
    first = [name for name in bisect.candidates(model) if name in steps][:3]  # later ones inherit differences
    cut = bisect.cut(model, first)
    ours, theirs = values(double.in_double(cut), image), values(cut, image)
    for label, name in zip(cut.outputs.names, first, strict=True):
        apart = np.abs(ours[label] - theirs[label]) / steps[name]
        assert np.abs(apart - apart.round()).max() < 1e-3  # whole steps
        assert (apart > 0.5).mean() < 0.002 and apart.max() < 1.5


def test_outputs_are_float32_and_the_model_is_left_alone(model: qat.QuantizedModel, image: np.ndarray) -> None:
    before = values(model, image)
    wide = values(double.in_double(model), image)
    assert {name: (value.shape, value.dtype) for name, value in wide.items()} == {
        name: (value.shape, value.dtype) for name, value in before.items()
    }
    assert np.abs(wide["joints_uv"] - before["joints_uv"]).max() < 0.1
    for name, value in values(model, image).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_change_that_float32_cannot_see_moves_nothing(model: qat.QuantizedModel, image: np.ndarray) -> None:
    """One part in 10^12 of the image: in float32 a last bit is 10^5 times as large."""
    wide, found = double.in_double(model), []
    for scale in (1.0, 1 + 1e-12):
        with torch.inference_mode():
            found.append(wide(torch.from_numpy(image.astype(np.float64) * scale))["joints_xyz"].numpy())
    assert np.abs(found[0] - found[1]).max() < 1e-7
