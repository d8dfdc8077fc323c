"""LiteRT (TFLite) export of a quantised model: int8 layers, float32 elsewhere.

The portable form holds built-in operations only; in the native one every scan is a custom op for our delegate
(``litert_native``). The converter runs in its strict mode: it quantises exactly where the graph says so and moves no
scale. That mode has no public switch in litert-torch 0.10; ``_strict`` sets it, and a test holds the result to the
graph's scales.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.fx import GraphModule

from edge_hands.bundle import Variant
from edge_hands.errors import ExportError
from edge_hands.export_targets import litert_native, portable
from edge_hands.export_targets.coverage import of_litert
from edge_hands.export_targets.quick_passes import quick_passes
from edge_hands.kernels.delegate import delegate_path

#: The forms that ``export`` can write, and their files.
FILES = {"portable": "model.tflite", "native": "model.native.tflite"}
SCANS = tuple(FILES)
#: Packages whose version decides what the converter writes.
TOOLS = ("litert-torch", "ai-edge-litert", "torch", "torchao")


def export(model: nn.Module, source: Path, out: Path, scan: str = "portable", quantized: bool = True) -> Variant:
    """Writes one of FILES (batch 1) to ``out``; its entry for the manifest. ``quantized``: as for ``convert``.

    Raises ExportError.
    """
    content = convert(model, quantized, scan)
    (out / FILES[scan]).write_bytes(content)
    interpreter = _interpreter(content, scan)
    signature = interpreter.get_signature_list()["serving_default"]
    interpreter.allocate_tensors()
    return Variant(
        runtime="litert",
        scan=scan,
        path=FILES[scan],
        input_names={name: name for name in signature["inputs"]},
        output_names={name: name for name in signature["outputs"]},
        config=of_litert(interpreter).as_config(),
    )


def convert(model: nn.Module, quantized: bool, scan: str = "portable") -> bytes:
    """The flatbuffer of a model with the model interface; ``quantized`` says whether it is a converted graph."""
    size = model.config.image_size
    try:
        return convert_module(model, {"image": torch.zeros(1, size, size, 3)}, quantized, scan)
    except Exception as error:  # the converter raises whatever its passes meet
        raise ExportError(f"LiteRT cannot convert {model.name}: {type(error).__name__}: {error}") from error


@quick_passes()
def convert_module(module: nn.Module, inputs: dict[str, torch.Tensor], quantized: bool, scan: str) -> bytes:
    """The flatbuffer of any module, with the shapes of these inputs; what the converter raises is left as it is."""
    module = copy.deepcopy(module).eval()
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.contiguous()  # or the converter copies it, and mixes up copies that meet in memory
    for graph in (part for part in module.modules() if isinstance(part, GraphModule)):
        if scan == "portable":
            portable.means_as_layers(graph)
        _split_dequantize(graph)
    with _quiet(), _strict(), _decomposed() if scan == "portable" else litert_native.custom_ops():
        import litert_torch
        from litert_torch.quantize.quant_config import QuantConfig

        static = QuantConfig(pt2e_quantizer=SimpleNamespace(global_config=SimpleNamespace(is_dynamic=False)))
        converted = litert_torch.convert(module, sample_kwargs=inputs, quant_config=static if quantized else None)
        content = converted.model_content()
    return content if scan == "portable" else litert_native.fold_quantization(content)


def _interpreter(content: bytes, scan: str):
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    library = delegate_path() if scan == "native" else None
    if scan == "native" and library is None:
        raise ExportError("a native form is run once: libedge_hands_tflite.so is not there or does not load")
    try:
        delegates = [load_delegate(str(library))] if library else None
        return Interpreter(model_content=content, num_threads=1, experimental_delegates=delegates)
    except (ValueError, RuntimeError) as error:
        raise ExportError(f"LiteRT cannot load what its converter wrote: {error}") from error


def _split_dequantize(graph: GraphModule) -> None:
    """One dequantize node per reader: the converter's layout pass loses the shape of a shared one."""
    ops = torch.ops.quantized_decomposed
    shared = (ops.dequantize_per_tensor.default, ops.dequantize_per_channel.default)
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in shared:
            for reader in list(node.users)[1:]:
                with graph.graph.inserting_before(reader):
                    reader.replace_input_with(node, graph.graph.node_copy(node))
    graph.recompile()


@contextlib.contextmanager
def _decomposed() -> Iterator[None]:
    """Our operators become their portable forms while a model is converted."""
    from litert_torch.fx_infra import decomp

    for op, form in portable.FORMS.items():
        decomp.add_pre_convert_decomp(op, form)
    try:
        yield
    finally:
        for op in portable.FORMS:
            decomp.remove_pre_lower_decomp(op)


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """The converter's strict quantize-dequantize mode, without which it pushes scales through other operations."""
    from litert_torch._convert import litert_converter

    real = litert_converter.converter_api_ext

    class Strict:
        def __getattr__(self, name: str):
            return getattr(real, name)

        def run_convert_to_tfl_passes(self, module, passes, config):
            config.strict_qdq_mode = True
            return real.run_convert_to_tfl_passes(module, passes, config)

    litert_converter.converter_api_ext = Strict()
    try:
        yield
    finally:
        litert_converter.converter_api_ext = real


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the progress lines and warnings of the converter, Python's and C++'s, out of our output."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as sink, warnings.catch_warnings(), contextlib.redirect_stdout(sink):
            os.dup2(sink.fileno(), 2)
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        logging.disable(level)
