"""What each operation of an exported graph is in ONNX: one table, ``OPS``.

A function of the table gets the file, the node and its arguments; a tensor among these is a constant, a ``Value`` the
name of a computed one. Shapes are static and known from the node.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.fx import Node

from edge_hands.errors import ExportError
from edge_hands.export_targets.onnx_graph import Graph, Value, ints
from edge_hands.quantization import qat

_ATEN = torch.ops.aten
_QUANTIZED = torch.ops.quantized_decomposed
_QUANTIZE = _QUANTIZED.quantize_per_tensor.default


_GELU = math.sqrt(2 / math.pi)


def _shape(node: Node) -> list[int]:
    """Of the node's (first) output."""
    value = node.meta["val"]
    return list((value[0] if isinstance(value, (list, tuple)) else value).shape)


def _input_shape(node: Node, index: int = 0) -> list[int]:
    return list(node.args[index].meta["val"].shape)


def _plain(kind: str) -> Callable:
    """An operation of the same arguments; a Python number is a float32 scalar."""

    def write(graph: Graph, node: Node, *inputs: Any) -> Value:
        return graph.add(kind, node.name, *inputs)

    return write


def _reshape(graph: Graph, node: Node, x: Any, *_: Any) -> Value:
    """view, unsqueeze, squeeze, flatten: the node's shape is all that is needed."""
    return graph.add("Reshape", node.name, x, ints(_shape(node)))


def _same(graph: Graph, node: Node, x: Any, *_: Any, **__: Any) -> Any:
    """clone, alias, a cast of float32 to float32."""
    return x


def _relu(graph: Graph, node: Node, x: Any) -> Value:
    """Nothing where int8 does it: all readers quantise it, with their zero point at the lowest integer."""
    if all(user.target is _QUANTIZE and user.args[2] == user.args[3] for user in node.users):
        return x
    return graph.add("Relu", node.name, x)


def _permute(graph: Graph, node: Node, x: Any, order: Sequence[int]) -> Value:
    rank = len(order)
    return graph.add("Transpose", node.name, x, perm=[axis % rank for axis in order])


def _transpose(graph: Graph, node: Node, x: Any, first: int, second: int) -> Value:
    order = list(range(len(_shape(node))))
    order[first], order[second] = order[second], order[first]
    return graph.add("Transpose", node.name, x, perm=order)


def _expand(graph: Graph, node: Node, x: Any, *_: Any) -> Value:
    return graph.add("Expand", node.name, x, ints(_shape(node)))


def _reduce_mean(graph: Graph, node: Node, x: Any, axes: Sequence[int], keep: bool = False) -> Value:
    return graph.add("ReduceMean", node.name, x, axes=list(axes), keepdims=int(keep))


def _reduce_sum(graph: Graph, node: Node, x: Any, axes: Sequence[int], keep: bool = False) -> Value:
    return graph.add("ReduceSum", node.name, x, ints(axes), keepdims=int(keep))


def _rsqrt(graph: Graph, node: Node, x: Any) -> Value:
    return graph.add("Reciprocal", node.name, graph.add("Sqrt", f"{node.name}_root", x))


def _square(graph: Graph, node: Node, x: Any) -> Value:
    return graph.add("Mul", node.name, x, x)


def _gelu(graph: Graph, node: Node, x: Any, approximate: str = "none") -> Value:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the tanh form; opset 17 has no Gelu."""
    if approximate != "tanh":
        raise ExportError(f"ONNX export has the tanh form of GELU only ({node.name}): set approximate='tanh'")
    cubic = graph.add("Mul", node.name, graph.add("Mul", node.name, graph.add("Mul", node.name, x, x), x), 0.044715)
    bent = graph.add("Tanh", node.name, graph.add("Mul", node.name, graph.add("Add", node.name, x, cubic), _GELU))
    return graph.add("Mul", node.name, graph.add("Mul", node.name, x, 0.5), graph.add("Add", node.name, bent, 1.0))


def _softmax(graph: Graph, node: Node, x: Any, axis: int, *_: Any) -> Value:
    return graph.add("Softmax", node.name, x, axis=axis)


def _split(graph: Graph, node: Node, x: Any, sizes: int | Sequence[int], axis: int = 0) -> list[Value]:
    total = _input_shape(node)[axis]
    if isinstance(sizes, int):
        sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
    return graph.add_many("Split", node.name, len(sizes), x, ints(sizes), axis=axis)


def _unbind(graph: Graph, node: Node, x: Any, axis: int = 0) -> list[Value]:
    count = _input_shape(node)[axis]
    parts = graph.add_many("Split", f"{node.name}_parts", count, x, ints([1] * count), axis=axis)
    return [graph.add("Squeeze", node.name, part, ints([axis])) for part in parts]


def _select(graph: Graph, node: Node, x: Any, axis: int, index: int) -> Value:
    return graph.add("Gather", node.name, x, np.asarray(index, np.int64), axis=axis)


def _slice(graph: Graph, node: Node, x: Any, axis: int = 0, start: int = 0, end: int | None = None, step: int = 1):
    end = _input_shape(node)[axis] if end is None else end
    return graph.add("Slice", node.name, x, ints([start or 0]), ints([end]), ints([axis]), ints([step]))


def _cat(graph: Graph, node: Node, parts: Sequence[Any], axis: int = 0) -> Value:
    return graph.add("Concat", node.name, *parts, axis=axis)


def _stack(graph: Graph, node: Node, parts: Sequence[Any], axis: int = 0) -> Value:
    raised = [graph.add("Unsqueeze", f"{node.name}_part", part, ints([axis])) for part in parts]
    return graph.add("Concat", node.name, *raised, axis=axis)


def _clamp(graph: Graph, node: Node, x: Any, low: float | None = None, high: float | None = None) -> Value:
    limits = [
        np.asarray(np.inf * sign if limit is None else limit, np.float32) for limit, sign in ((low, -1), (high, 1))
    ]
    return graph.add("Clip", node.name, x, *limits)


def _upsample_nearest(graph: Graph, node: Node, x: Any, *_: Any) -> Value:
    scales = np.divide(_shape(node), _input_shape(node)).astype(np.float32)
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", node.name, x, np.zeros(0, np.float32), scales, **modes)


def _selective_scan(graph: Graph, node: Node, *inputs: Any) -> Value:
    return graph.add_own("SelectiveScan", node.name, _shape(node), *inputs)


def _deformable_scan(graph: Graph, node: Node, *arguments: Any, points: int = 9) -> Value:
    inputs, (height, width, *given) = arguments[:8], arguments[8:]
    sizes = {"height": height, "width": width, "points": given[0] if given else points}
    return graph.add_own("DeformableScan", node.name, _shape(node), *inputs, **sizes)


def _conv2d(
    graph: Graph,
    node: Node,
    x: Any,
    weight: Any,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Value:
    pads = [*padding, *padding]
    if isinstance(weight, Tensor) and qat.fits_half(weight):  # widened when the file is loaded
        weight = graph.add("Cast", f"{node.name}_weight", weight.half(), to=onnx.TensorProto.FLOAT)
    inputs = [x, weight] if bias is None else [x, weight, _bias(graph, node, x, weight, bias)]
    sizes = {"strides": list(stride), "pads": pads, "dilations": list(dilation), "group": groups}
    return graph.add("Conv", node.name, *inputs, **sizes)


def _linear(graph: Graph, node: Node, x: Any, weight: Any, bias: Tensor | None = None) -> Value:
    inputs = [x, weight] if bias is None else [x, weight, _bias(graph, node, x, weight, bias)]
    return graph.add("Gemm", node.name, *inputs, transB=1)


def _bias(graph: Graph, node: Node, x: Any, weight: Any, bias: Tensor) -> Any:
    """The bias of an int8 layer in int32 steps of input scale x weight scale, where all of them fit; else as it is."""
    scales = [graph.scale(value) for value in (x, weight)]
    if any(scale is None for scale in scales):
        return bias
    step = scales[0] * scales[1]
    integers = np.rint(bias.detach().numpy() / step.astype(np.float64))
    if np.abs(integers).max() > np.iinfo(np.int32).max:  # a dead channel's step is tiny: the layer runs in float32
        return bias
    zeros = np.zeros(len(step), np.int32)
    return graph.dequantize(f"{node.name}_bias", integers.astype(np.int32), step, zeros, axis=0)


def _quantize(graph: Graph, node: Node, x: Any, scale: float, zero: int, *_: Any) -> Value:
    return graph.quantize(node.name, x, scale, zero)


def _dequantize(graph: Graph, node: Node, x: Any, scale: float, zero: int, *_: Any) -> Value:
    return graph.dequantize(node.name, x, np.asarray(scale, np.float32), np.asarray(zero + 128, np.uint8))


def _dequantize_channels(graph: Graph, node: Node, x: Tensor, scale: Tensor, zero: Tensor, axis: int, *_: Any) -> Value:
    return graph.dequantize(node.name, x, scale.float(), zero.to(torch.int8), axis)


OPS: dict[Any, Callable] = {
    operator.getitem: lambda graph, node, values, index: values[index],
    _ATEN.add.Tensor: _plain("Add"),
    _ATEN.sub.Tensor: _plain("Sub"),
    _ATEN.mul.Tensor: _plain("Mul"),
    _ATEN.div.Tensor: _plain("Div"),
    _ATEN.abs.default: _plain("Abs"),
    _ATEN.neg.default: _plain("Neg"),
    _ATEN.exp.default: _plain("Exp"),
    _ATEN.log.default: _plain("Log"),
    _ATEN.relu.default: _relu,
    _ATEN.sigmoid.default: _plain("Sigmoid"),
    _ATEN.gelu.default: _gelu,
    _ATEN.sqrt.default: _plain("Sqrt"),
    _ATEN.reciprocal.default: _plain("Reciprocal"),
    _ATEN.matmul.default: _plain("MatMul"),
    _ATEN.bmm.default: _plain("MatMul"),
    _ATEN.square.default: _square,
    _ATEN.rsqrt.default: _rsqrt,
    _ATEN.rsub.Scalar: lambda graph, node, x, other: graph.add("Sub", node.name, other, x),
    _ATEN.view.default: _reshape,
    _ATEN._unsafe_view.default: _reshape,
    _ATEN.unsqueeze.default: _reshape,
    _ATEN.squeeze.dim: _reshape,
    _ATEN.squeeze.dims: _reshape,
    _ATEN.clone.default: _same,
    _ATEN.alias.default: _same,
    _ATEN._to_copy.default: _same,
    _ATEN.zeros_like.default: lambda graph, node, *_, **__: torch.zeros(_shape(node)),
    _ATEN.permute.default: _permute,
    _ATEN.transpose.int: _transpose,
    _ATEN.expand.default: _expand,
    _ATEN.mean.dim: _reduce_mean,
    _ATEN.sum.dim_IntList: _reduce_sum,
    _ATEN.softmax.int: _softmax,
    _ATEN._softmax.default: _softmax,
    _ATEN.split_with_sizes.default: _split,
    _ATEN.split.Tensor: _split,
    _ATEN.unbind.int: _unbind,
    _ATEN.select.int: _select,
    _ATEN.slice.Tensor: _slice,
    _ATEN.cat.default: _cat,
    _ATEN.stack.default: _stack,
    _ATEN.clamp.default: _clamp,
    _ATEN.clamp_min.default: _clamp,
    _ATEN.upsample_nearest2d.vec: _upsample_nearest,
    _ATEN.conv2d.default: _conv2d,
    _ATEN.linear.default: _linear,
    torch.ops.edge_hands.selective_scan.default: _selective_scan,
    torch.ops.edge_hands.deformable_scan.default: _deformable_scan,
    _QUANTIZE: _quantize,
    _QUANTIZED.dequantize_per_tensor.default: _dequantize,
    _QUANTIZED.dequantize_per_channel.default: _dequantize_channels,
}

#: Of a weight: stays in the file, or there would be no integers in it.
_DEQUANTIZE_WEIGHT = _QUANTIZED.dequantize_per_channel.default


def translate(graph: Graph, node: Node, known: dict[str, Any]) -> Any:
    """A tensor if the node depends on constants only, else the name of what the file computes, or a list of either.

    ``known`` holds the same for every node before. Raises ExportError for an operation that is not in ``OPS``.
    """
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda other: known[other.name])
    if node.target is not _DEQUANTIZE_WEIGHT and not _is_computed((*args, *kwargs.values())):
        return node.target(*args, **kwargs)
    if node.target not in OPS:
        raise ExportError(f"ONNX export has no form for {node.target} ({node.name}): add it to onnx_ops.OPS")
    return OPS[node.target](graph, node, *args, **kwargs)


def _is_computed(arguments: Sequence[Any]) -> bool:
    """Whether a ``Value`` is among the arguments, or in a list among them."""
    return any(
        _is_computed(value) if isinstance(value, (list, tuple)) else isinstance(value, Value) for value in arguments
    )
