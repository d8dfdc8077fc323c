"""Integer-exact layers: the integers are those of int64 arithmetic, and those of a runtime's integer kernels."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from edge_hands.export_targets import bisect, gate, integer  # noqa: E402
from edge_hands.quantization import qat  # noqa: E402
from edge_hands.quantization.quantizer import SCANS  # noqa: E402


@pytest.fixture
def model(tiny) -> qat.QuantizedModel:
    return tiny()


def of(model: qat.QuantizedModel) -> list[integer._Layer]:
    """The integer layers of a model, in order."""
    targets = (node.target for node in model.body.graph.nodes if isinstance(node.target, partial))
    return [target.args[0] for target in targets if target.func is integer._call]


def test_every_int8_layer_is_exact_and_no_float_one(model: qat.QuantizedModel) -> None:
    exact = integer.integer_exact(model)
    weights = model.body.graph.find_nodes(
        op="call_function", target=torch.ops.quantized_decomposed.dequantize_per_channel.default
    )
    left = exact.body.graph.find_nodes(
        op="call_function", target=torch.ops.quantized_decomposed.dequantize_per_channel.default
    )
    assert len(of(exact)) == len(weights) > 10
    assert left == []
    assert of(model) == []


def test_a_layer_gives_the_integers_of_int64_arithmetic(model: qat.QuantizedModel) -> None:
    rng = np.random.default_rng(0)
    for layer in of(integer.integer_exact(model)):
        kernel = layer.weight.shape[2:]
        given = layer.apply.args[0]
        stride, padding, _, groups = [*given, *([1, 1], [0, 0], [1, 1], 1)[len(given) :]]
        channels = layer.weight.shape[1] * groups
        x = torch.from_numpy(rng.integers(-128, 128, (1, channels, 8, 8), dtype=np.int8))
        found = layer(x).numpy()
        padded = np.pad(x.numpy().astype(np.int64) - layer.x_zero, ((0, 0), (0, 0), *((p, p) for p in padding)))
        windows = np.lib.stride_tricks.sliding_window_view(padded[0], kernel, (1, 2))[:, :: stride[0], :: stride[1]]
        parts = np.split(windows, groups)
        weights = np.split(layer.weight.numpy().astype(np.int64), groups)
        total = np.concatenate([np.einsum("chwij,ocij->ohw", *pair) for pair in zip(parts, weights)])
        total = total + layer.bias.numpy().astype(np.int64)
        scaled = total.astype(np.float32) * layer.scale.numpy()
        assert (found[0] == np.clip(np.rint(scaled) + layer.y_zero, layer.low, 127)).all()


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_the_first_layers_of_a_runtime_round_the_same_way(model: qat.QuantizedModel, crops, runtime: str) -> None:
    """Up to the first scan there is nothing but integer layers, and sums of float32 values."""
    pytest.importorskip({"litert": "litert_torch", "onnx": "onnxruntime"}[runtime])
    nodes = bisect.candidates(model)
    described = {name: bisect.describe(model.body.graph, name) for name in nodes}
    first = [name for name in nodes if described[name].module.startswith("backbone.stem")]
    images, cut = crops(3), bisect.cut(model, first)
    precise = gate.outputs_of(bisect._in_torch(integer.in_file(cut, runtime, "portable")), images)
    theirs = bisect._in_runtime(cut, runtime, "portable", images, gate.Reference(precise, precise))
    for name in first:
        assert np.abs(theirs[name] - precise[name]).max() < 1e-6, described[name]


@pytest.mark.parametrize(("runtime", "needs"), [("litert", "litert_torch"), ("executorch", "executorch.exir")])
def test_what_a_scan_reads_has_the_same_bits(model: qat.QuantizedModel, crops, runtime: str, needs: str) -> None:
    """Means, roots and float32 layers among it."""
    pytest.importorskip(needs)
    graph = model.body.graph
    scan = next(node for node in graph.nodes if node.target in SCANS)
    read = [node.name for node in scan.all_input_nodes if node.meta["val"].shape[1:2] == scan.meta["val"].shape[1:2]]
    chosen = {*read, *bisect.candidates(model)}  # sums are put in order where they are rounded to int8 later on
    images, cut = crops(2), bisect.cut(model, [node.name for node in graph.nodes if node.name in chosen])
    meant = gate.outputs_of(bisect._in_torch(integer.in_file(cut, runtime, "portable")), images)
    theirs = bisect._in_runtime(cut, runtime, "portable", images, gate.Reference(meant, meant))
    assert len(read) == 6
    for name in read:
        np.testing.assert_array_equal(theirs[name], meant[name], err_msg=name)


def test_float32_sums_are_added_in_order_with_one_rounding_each():
    """As XNNPACK's kernels do: bias, then one fused product after the other."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 37, 3, 4)).astype(np.float32), rng.normal(size=(5, 37)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32)
    found = integer._fused_sums(*map(torch.from_numpy, (x, weight[..., None, None], bias))).numpy()
    expected = np.broadcast_to(bias[None, :, None, None], found.shape)
    for k in range(37):
        product = x[:, k : k + 1].astype(np.float64) * weight[None, :, k, None, None]
        expected = (expected.astype(np.float64) + product).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    plain = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, weight[..., None, None], bias))).numpy()
    assert 0 < np.abs(found - plain).max() < 1e-5  # another order rounds elsewhere, and not by much
