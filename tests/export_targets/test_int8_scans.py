"""A graph whose scans hand int8 over: native forms fold it into the scan, portable ones compute around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from edge_hands.export_targets import executorch_graph  # noqa: E402
from edge_hands.kernels.delegate import delegate_path  # noqa: E402
from edge_hands.quantization import qat  # noqa: E402

_OURS, _QUANT = torch.ops.edge_hands, torch.ops.quantized_decomposed


@pytest.fixture
def model(tiny) -> qat.QuantizedModel:
    return tiny(int8_scans=True)


class Scan(torch.nn.Module):
    """x (1, 16, 8) through int8 into a deformable scan on 4 x 4 tokens, and out through int8 if ``quantised``."""

    def __init__(self, quantised: bool) -> None:
        super().__init__()
        self.quantised = quantised
        generator = torch.Generator().manual_seed(0)
        shapes = {"offset": (1, 16, 18), "weight": (1, 16, 9), "delta": (1, 16, 8), "A": (8, 4), "B": (1, 16, 4)}
        for name, shape in {**shapes, "C": (1, 16, 4), "D": (8,)}.items():
            self.register_buffer(name, torch.randn(shape, generator=generator) * 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _QUANT.dequantize_per_tensor(
            _QUANT.quantize_per_tensor(x, 0.02, 3, -128, 127, torch.int8), 0.02, 3, -128, 127, torch.int8
        )
        others = (self.offset, self.weight, self.delta, -self.A.exp(), self.B, self.C, self.D)
        y = _OURS.deformable_scan(x, *others, 4, 4)
        if not self.quantised:
            return y
        integers = _QUANT.quantize_per_tensor(y, 0.05, -7, -128, 127, torch.int8)
        return _QUANT.dequantize_per_tensor(integers, 0.05, -7, -128, 127, torch.int8)


def exported(quantised: bool) -> torch.fx.GraphModule:
    return torch.export.export(Scan(quantised), (torch.zeros(1, 16, 8),)).module(check_guards=False)


def test_the_folded_graph_is_one_int8_scan_of_the_same_values() -> None:
    graph, folded = exported(True), exported(True)
    executorch_graph.fold_scans(folded)
    (scan,) = (node for node in folded.graph.nodes if "scan" in str(node.target))
    assert scan.target is _OURS.deformable_scan_int8.default
    assert scan.args[1:3] == (0.02, 3)
    assert scan.args[10:] == (4, 4, 9, 0.05, -7)
    assert {reader.target for reader in scan.users} == {_QUANT.dequantize_per_tensor.default}
    x = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(1))
    apart = ((folded(x) - graph(x)) / 0.05).abs()
    assert float(graph(x).abs().max()) > 0.5
    assert float(apart.max()) < 1.01  # a step
    assert float((apart > 0.5).float().mean()) < 0.05


def test_a_scan_whose_values_stay_float_is_left_alone() -> None:
    graph = exported(False)
    before = [node.name for node in graph.graph.nodes]
    executorch_graph.fold_scans(graph)
    assert [node.name for node in graph.graph.nodes] == before


def test_litert_runs_one_custom_op_on_int8(model: qat.QuantizedModel, crops) -> None:
    pytest.importorskip("litert_torch")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    if delegate_path() is None:
        pytest.skip("libedge_hands_tflite.so is not there")
    from edge_hands.export_targets import litert

    content = litert.convert(model, quantized=True, scan="native")
    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    (graph,) = file.subgraphs
    (scan,) = (op for op in graph.operators if file.operatorCodes[op.opcodeIndex].customCode)
    for tensor in (scan.inputs[0], scan.outputs[0]):
        assert graph.tensors[tensor].type == schema.TensorType.INT8
    (node,) = (node for node in model.body.graph.nodes if node.target is _OURS.deformable_scan.default)
    (after,) = node.users
    quantisation = graph.tensors[scan.outputs[0]].quantization
    assert (quantisation.scale[0], quantisation.zeroPoint[0]) == (np.float32(after.args[1]), after.args[2])
    interpreter = litert._interpreter(content, "native")
    runner = interpreter.get_signature_runner()
    for image in crops(3):
        image = image[None].astype(np.float32) / 255
        with torch.inference_mode():
            expected = model(torch.from_numpy(image))
        for name, value in runner(image=image).items():
            assert np.abs(value - expected[name].numpy()).mean() < 5e-3, name


@pytest.mark.slow
def test_executorch_runs_our_int8_kernel(model: qat.QuantizedModel, tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    from edge_hands.export_targets import executorch

    variant = executorch.export(model, tmp_path, tmp_path, "native")
    assert b"edge_hands::deformable_scan_int8" in (tmp_path / variant.path).read_bytes()
    assert 0 < variant.config["own_kernels_macs"] < 0.3


def test_the_portable_onnx_form_computes_in_float_between_the_two(model: qat.QuantizedModel, crops) -> None:
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from edge_hands.export_targets import onnx as exporter

    content = exporter.convert(model)
    kinds = [node.op_type for node in onnx.load_from_string(content).graph.node]
    quantisers = model.body.graph.find_nodes(op="call_function", target=_QUANT.quantize_per_tensor.default)
    assert kinds.count("QuantizeLinear") == len(quantisers)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    for image in crops(3):
        image = image[None].astype(np.float32) / 255
        with torch.inference_mode():
            expected = model(torch.from_numpy(image))
        for name, value in zip(model.outputs.names, session.run(list(model.outputs.names), {"image": image})):
            assert np.abs(value - expected[name].numpy()).mean() < 5e-3, name
