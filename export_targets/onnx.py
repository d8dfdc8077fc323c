"""ONNX export of a quantised model: quantize-dequantize pairs with the graph's scales, float32 elsewhere.

The exported graph is written node by node with ``onnx.helper``: its few dozen kinds of operation are one table
(``onnx_ops``), and nothing stands between the graph's numbers and the file's. Weights are int8 constants, biases of
int8 layers int32 in steps of input scale x weight scale, as integer kernels add them. What depends on weights only is
computed here.

The portable form holds operations of ai.onnx only; in the native one every scan is an op of our own domain, which
onnxruntime runs with our library (``kernels/onnx``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_hands.bundle import Variant
from edge_hands.errors import ExportError
from edge_hands.export_targets import portable
from edge_hands.export_targets.quick_passes import quick_passes
from edge_hands.quantization.qat import QuantizedModel

#: The forms that ``export`` can write, and their files.
FILES = {"portable": "model.onnx", "native": "model.native.onnx"}
SCANS = tuple(FILES)
#: Packages whose version decides what is written.
TOOLS = ("onnx", "onnxruntime", "torch", "torchao")

#: Metadata checks of the exporter: nothing is computed.
_CHECKS = (torch.ops.aten._assert_tensor_metadata.default,)


class _Named(nn.Module):
    """The model with its outputs as a tuple, in the order of ``model.outputs.names``."""

    def __init__(self, model: QuantizedModel) -> None:
        super().__init__()
        self.model, self.names = model, model.outputs.names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.model(image)
        return tuple(found[name] for name in self.names)


def export(model: QuantizedModel, source: Path, out: Path, scan: str = "portable") -> Variant:
    """Writes one of FILES (batch 1) to ``out`` and returns its entry for the manifest. Raises ExportError."""
    (out / FILES[scan]).write_bytes(convert(model, scan))
    names = {name: name for name in model.outputs.names}
    return Variant(runtime="onnx", scan=scan, path=FILES[scan], input_names={"image": "image"}, output_names=names)


@quick_passes()
def convert(model: QuantizedModel, scan: str = "portable") -> bytes:
    """The ONNX file of a model with the model interface: opset 17, and our domain if native. Raises ExportError."""
    try:
        from edge_hands.export_targets.onnx_ops import Graph, translate
    except ImportError as error:
        raise ExportError(f"ONNX export needs the onnx package: pip install 'edge-hands[onnx]' ({error})") from error
    size = model.config.image_size
    program = torch.export.export(_Named(model).eval(), (torch.zeros(1, size, size, 3),))
    program = program.run_decompositions(portable.FORMS if scan == "portable" else {})
    graph = Graph()
    known = _constants(program)
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name not in known:
                known[node.name] = graph.input("image", node.meta["val"].shape)
            elif node.op == "call_function" and node.target not in _CHECKS:
                known[node.name] = translate(graph, node, known)
    (returned,) = next(node for node in program.graph.nodes if node.op == "output").args
    for name, node in zip(model.outputs.names, returned, strict=True):
        graph.output(name, known[node.name], node.meta["val"].shape)
    return graph.finish(model.name)


def _constants(program: torch.export.ExportedProgram) -> dict[str, Any]:
    """Placeholder name -> weight, buffer or constant."""
    signature = program.graph_signature
    stored = {**program.state_dict, **program.constants}
    inputs = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {name: stored[key].detach() for name, key in inputs.items()}
