"""ONNX: the file holds the graph's integers and scales, uses built-in operations only, and computes the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("torchao")
load_tensors = pytest.importorskip("safetensors.torch").load_file

from edge_hands import bundle as bundles  # noqa: E402
from edge_hands.errors import BundleError, ExportError  # noqa: E402
from edge_hands.export_targets import onnx as exporter  # noqa: E402
from edge_hands.export_targets import onnx_ops  # noqa: E402
from edge_hands.kernels.onnx_library import library_path  # noqa: E402
from edge_hands.quantization import qat  # noqa: E402
from edge_hands.runtimes.onnx import OnnxRuntime, RuntimeOptions  # noqa: E402

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"


@pytest.fixture(scope="module", params=["test_dfmamba", "test_detector"])
def model(request: pytest.FixtureRequest) -> qat.QuantizedModel:
    return qat.rebuild(load_tensors(BUNDLES / request.param / "model.safetensors"), {"model": request.param})


@pytest.fixture(scope="module")
def variant(model: qat.QuantizedModel, bundle_of) -> tuple[bundles.Variant, Path]:
    folder = bundle_of(model.name, "onnx", "portable")
    return bundles.load(folder).manifest.variants[0], folder


@pytest.fixture(scope="module")
def native(model: qat.QuantizedModel, bundle_of) -> tuple[bundles.Variant, Path]:
    folder = bundle_of(model.name, "onnx", "native")
    return bundles.load(folder).manifest.variants[0], folder


@pytest.fixture(scope="module")
def file(variant: tuple[bundles.Variant, Path]) -> onnx.ModelProto:
    return onnx.load(variant[1] / variant[0].path)


def constants(file: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in file.graph.initializer}


def test_the_file_stands_alone_on_built_in_operations(file: onnx.ModelProto) -> None:
    onnx.checker.check_model(file, full_check=True)
    assert {node.domain for node in file.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", 17)]
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in file.graph.node}
    assert not any(tensor.external_data for tensor in file.graph.initializer)


def test_scales_and_zero_points_are_the_graphs(model: qat.QuantizedModel, file: onnx.ModelProto) -> None:
    stored = constants(file)
    found = Counter(
        (float(stored[node.input[1]]), int(stored[node.input[2]]) - 128)  # uint8 integers lie 128 higher
        for node in file.graph.node
        if node.op_type == "QuantizeLinear"
    )
    wanted = {
        (float(np.float32(scale)), zero): count for (scale, zero), count in qat.activation_scales(model.body).items()
    }
    assert found == wanted
    assert all(stored[node.input[2]].dtype == np.uint8 for node in file.graph.node if node.op_type == "QuantizeLinear")


def test_weights_are_the_graphs_integers(model: qat.QuantizedModel, file: onnx.ModelProto) -> None:
    stored = constants(file)
    kept = [
        [stored[name] for name in node.input]
        for node in file.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored and stored[node.input[0]].dtype == np.int8
    ]
    quantise = torch.ops.quantized_decomposed.quantize_per_channel.default
    nodes = [node for node in model.body.graph.nodes if node.target is quantise]
    assert len(kept) == len(nodes) > 20
    for (integers, scale, zero), node in zip(kept, nodes, strict=True):
        weight, scales, zeros = (_attribute(model.body, argument.target) for argument in node.args[:3])
        assert (integers == quantise(weight, scales, zeros, *node.args[3:]).numpy()).all(), node.name
        assert (scale == scales.numpy()).all()
        assert not zero.any() and not zeros.any()


def test_biases_are_within_half_a_step(file: onnx.ModelProto) -> None:
    stored = constants(file)
    makers = {name: node for node in file.graph.node for name in node.output}
    layers = [node for node in file.graph.node if node.op_type == "Conv" and node.input[1] in makers]
    for layer in layers:
        x, weight, bias = (makers[name] for name in layer.input)
        step = stored[x.input[1]] * stored[weight.input[1]]
        assert (stored[bias.input[1]] == step).all()
        assert stored[bias.input[0]].dtype == np.int32


def test_the_native_form_differs_in_its_scans_only(native: tuple[bundles.Variant, Path], file: onnx.ModelProto) -> None:
    theirs = onnx.load(native[1] / native[0].path)
    onnx.checker.check_model(theirs)
    own = [node for node in theirs.graph.node if node.domain]
    assert native[0].scan == "native"
    assert {(node.domain, node.op_type) for node in own} == {("edge_hands", "DeformableScan")}
    assert [(entry.domain, entry.version) for entry in theirs.opset_import] == [("", 17), ("edge_hands", 1)]
    shapes = {info.name for info in theirs.graph.value_info}
    assert all(node.output[0] in shapes for node in own)
    quantised = [
        [node.op_type for node in model.graph.node if node.op_type in ("Conv", "QuantizeLinear", "DequantizeLinear")]
        for model in (file, theirs)
    ]
    assert quantised[0] == quantised[1]


def test_it_computes_what_the_fake_quant_model_computes(
    model: qat.QuantizedModel,
    variant: tuple[bundles.Variant, Path],
    native: tuple[bundles.Variant, Path],
    file: onnx.ModelProto,
    rng: np.random.Generator,
) -> None:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    size = model.config.image_size
    image = np.kron(rng.random((1, 8, 8, 3), np.float32), np.ones((1, size // 8, size // 8, 1), np.float32))
    with torch.inference_mode():
        expected = {name: value.numpy() for name, value in model(torch.from_numpy(image)).items()}
    names = list(model.outputs.names)
    node_by_node = dict(zip(names, plain.run(names, {"image": image}), strict=True))
    results = [node_by_node]
    for form, folder in (variant, native) if library_path() else (variant,):
        session = OnnxRuntime.load(_bundle(form, folder), form, RuntimeOptions())
        results.append(session.run({"image": image}))
    for found in results:
        for name, value in expected.items():
            assert found[name].shape == value.shape
            assert np.abs(found[name] - value).mean() < (5e-3 if name == "joints_xyz" else 1e-2), name


def test_large_float_weights_take_half_the_space(rng: np.random.Generator) -> None:
    ort = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    layer, x = torch.nn.Conv2d(256, 256, 1), torch.from_numpy(rng.normal(size=(1, 256, 2, 2)).astype(np.float32))
    layer.weight.data.copy_(layer.weight.data.half())
    node = next(node for node in torch.export.export(layer, (x,)).graph.nodes if node.op == "call_function")
    graph = onnx_ops.Graph()
    found = onnx_ops.translate(graph, node, dict(zip((a.name for a in node.args), _arguments(graph, layer, node))))
    graph.output("y", found, (1, 256, 2, 2))
    content = graph.finish("layer")
    assert 256 * 256 * 2 < len(content) < 256 * 256 * 2 + 4000
    (y,) = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(["y"], {"x": x.numpy()})
    np.testing.assert_allclose(y, layer(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("form", ["tanh", "none"])
def test_gelu_has_its_tanh_form_only(rng: np.random.Generator, form: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    x = torch.from_numpy(rng.normal(size=(1, 64)).astype(np.float32) * 3)
    layer = torch.nn.GELU(approximate=form)
    node = next(node for node in torch.export.export(layer, (x,)).graph.nodes if node.op == "call_function")
    graph = onnx_ops.Graph()
    known = {node.args[0].name: graph.input("x", (1, 64))}
    if form == "none":
        with pytest.raises(ExportError, match="tanh form of GELU only"):
            onnx_ops.translate(graph, node, known)
        return
    graph.output("y", onnx_ops.translate(graph, node, known), (1, 64))
    session = ort.InferenceSession(graph.finish("gelu"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["y"], {"x": x.numpy()})[0], layer(x).numpy(), atol=1e-6)


def _arguments(graph: onnx_ops.Graph, layer: torch.nn.Module, node: torch.fx.Node) -> list:
    """What a convolution's x, weight and bias are in the file."""
    given = {"x": graph.input("x", (1, 256, 2, 2)), "weight": layer.weight.detach(), "bias": layer.bias.detach()}
    return [given[argument.name.split("_")[-1] if argument.name.startswith("p_") else "x"] for argument in node.args]


def test_a_model_with_weights_elsewhere_is_refused(
    variant: tuple[bundles.Variant, Path], file: onnx.ModelProto
) -> None:
    hostile = onnx.ModelProto()
    hostile.CopyFrom(file)
    tensor = max(hostile.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    bundle = _bundle(*variant)
    bundle.contents[variant[0].path] = hostile.SerializeToString()
    with pytest.raises(BundleError, match="keeps weights in another file"):
        OnnxRuntime.load(bundle, variant[0], RuntimeOptions())


def test_an_operation_without_a_form_is_named(model: qat.QuantizedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(onnx_ops.OPS, torch.ops.aten.sigmoid.default)
    with pytest.raises(ExportError, match="no form for aten.sigmoid.default"):
        exporter.convert(model)


def _attribute(graph: torch.nn.Module, name: str) -> torch.Tensor:
    found = graph
    for part in name.split("."):
        found = getattr(found, part)
    return found.detach()


def _bundle(variant: bundles.Variant, folder: Path) -> bundles.Bundle:
    """The stored bundle of the same model, with this file in it."""
    kind = "test_dfmamba" if "joints_uv" in variant.output_names else "test_detector"
    stored = bundles.load(BUNDLES / kind)
    return bundles.Bundle(folder, stored.manifest, {variant.path: (folder / variant.path).read_bytes()})
