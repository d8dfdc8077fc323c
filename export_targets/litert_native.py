"""The native LiteRT form: scans as custom ops that our delegate runs, quantisation folded into them.

While a model is lowered, ``custom_ops`` makes the torch operators ``stablehlo.custom_call @tfl.custom``, whose
attributes the converter copies into a TFLite custom op: its name and its option bytes. Neither litert-torch 0.10 nor
its converter documents that; a test holds the file to it. The converter quantises no custom op, so a quantised scan
leaves it as dequantize, scan, quantize, which ``fold_quantization`` makes one scan of int8 x and y.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from edge_hands.kernels.delegate import DEFORMABLE_SCAN, SELECTIVE_SCAN, options

_OPS = torch.ops.edge_hands
#: Where ``operators`` stands in the table of a SubGraph in TFLite's schema.
_OPERATORS = 10


@contextlib.contextmanager
def custom_ops() -> Iterator[None]:
    """Our operators become custom ops while a model is converted."""
    from litert_torch.backend.lowerings.registry import global_registry

    lowerings: dict[Any, Callable] = {
        _OPS.selective_scan.default: _selective_scan,
        _OPS.deformable_scan.default: _deformable_scan,
    }
    for op, lowering in lowerings.items():
        global_registry.register(op, lowering)
    try:
        yield
    finally:
        for op in lowerings:
            global_registry.registered_ops.pop(op)


def _selective_scan(context: Any, *tensors: Any) -> Any:
    return _custom_call(context, tensors, SELECTIVE_SCAN, options())


def _deformable_scan(context: Any, *arguments: Any) -> Any:
    tensors, (height, width, *points) = arguments[:8], arguments[8:]  # a default is left out of the graph
    return _custom_call(context, tensors, DEFORMABLE_SCAN, options(height, width, *points or (9,)))


def _custom_call(context: Any, tensors: Sequence[Any], name: str, option_bytes: bytes) -> Any:
    from litert_converter.mlir.dialects import stablehlo
    from litert_converter.mlir.ir import BoolAttr, StringAttr
    from litert_torch.backend.lowerings import utils

    config = f'{{custom_code = "{name}", custom_option = #tfl<const_bytes : "0x{option_bytes.hex().upper()}">}}'
    return stablehlo.custom_call(
        result=utils.node_meta_to_ir_types(context.node),
        inputs=list(tensors),
        call_target_name=StringAttr.get("tfl.custom"),
        has_side_effect=BoolAttr.get(False),
        backend_config=StringAttr.get(config),
    )


def fold_quantization(content: bytes) -> bytes:
    """The flatbuffer with dequantize, scan, quantize as one scan of int8 x and y, where only they read what is between.

    Edited in place, as writing it anew would lose the alignment of its constants. The other readers of x keep their
    dequantize.
    """
    from ai_edge_litert import schema_py_generated as schema

    buffer = bytearray(content)
    model = schema.Model.GetRootAs(buffer)
    for index in range(model.SubgraphsLength()):
        _fold(model, model.Subgraphs(index), schema)
    return bytes(buffer)


def _fold(model: Any, graph: Any, schema: Any) -> None:
    operators = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    codes = [model.OperatorCodes(operator.OpcodeIndex()) for operator in operators]
    outputs = set(graph.OutputsAsNumpy().tolist()) if graph.OutputsLength() else set()

    def makers(tensor: int) -> list[int]:
        return [i for i, operator in enumerate(operators) if tensor in _indices(operator.OutputsAsNumpy())]

    def readers(tensor: int) -> list[int]:
        return [i for i, operator in enumerate(operators) if tensor in _indices(operator.InputsAsNumpy())]

    def is_int8(tensor: int) -> bool:
        found = graph.Tensors(tensor)
        return found.Type() == schema.TensorType.INT8 and found.Quantization().ScaleLength() == 1

    dropped: set[int] = set()
    builtin = schema.BuiltinOperator
    for index, (operator, code) in enumerate(zip(operators, codes, strict=True)):
        if (code.CustomCode() or b"").decode() not in (SELECTIVE_SCAN, DEFORMABLE_SCAN):
            continue
        x, y = int(operator.Inputs(0)), int(operator.Outputs(0))
        before, after = makers(x), readers(y)
        if [codes[i].BuiltinCode() for i in before] != [builtin.DEQUANTIZE]:
            continue
        if [codes[i].BuiltinCode() for i in after] != [builtin.QUANTIZE] or y in outputs:
            continue
        source, target = int(operators[before[0]].Inputs(0)), int(operators[after[0]].Outputs(0))
        if not (is_int8(source) and is_int8(target)):
            continue
        if readers(x) == [index] and x not in outputs:
            dropped.add(before[0])
        dropped.add(after[0])
        operator.InputsAsNumpy()[0] = source  # views of the buffer: this writes to the file
        operator.OutputsAsNumpy()[0] = target
    _keep(graph, [i for i in range(len(operators)) if i not in dropped])


def _indices(array: Any) -> list[int]:
    return array.tolist() if isinstance(array, np.ndarray) else []  # 0 stands for no indices at all


def _keep(graph: Any, kept: list[int]) -> None:
    """Shortens the vector of operators to ``kept``: offsets count from the place where they stand."""
    table = graph._tab
    start = table.Vector(table.Offset(_OPERATORS))
    size = np.frombuffer(table.Bytes, np.uint32, 1, start - 4)
    offsets = np.frombuffer(table.Bytes, np.uint32, int(size[0]), start)
    offsets[: len(kept)] = [4 * old + int(offsets[old]) - 4 * new for new, old in enumerate(kept)]
    size[0] = len(kept)
