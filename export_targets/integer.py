"""The fake-quant graph with the arithmetic of integer kernels: the same int8 values, layer for layer, as XNNPACK's.

The fake-quant graph computes an int8 layer in float32 and rounds once; kernels add int8 products and an int32 bias
exactly, multiply by one float32 a channel and round to the nearest, ties to even. A sum that lies half-way between two
integers then falls on either side. ``integer_exact`` makes every int8 layer of a graph compute as the kernels do:
float32 where all its sums are exact in that (|sum| < 2^24 for any input), else float64.

Between the layers all is float32, and two things differ between runtimes. XNNPACK (LiteRT, ExecuTorch, and our delegate
after it) rounds to int8 by multiplying by 1 / scale, as the fake-quant graph does, and adds the products of a float32
1 x 1 convolution one by one in the order of its inputs, from the bias on, each with one rounding; torch adds them in an
order of its own. ONNX divides by the scale (``division``), and its order is not known: torch's is left.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from edge_hands.export_targets import portable
from edge_hands.export_targets.double import in_double
from edge_hands.quantization.qat import QuantizedModel
from edge_hands.quantization.quantizer import LAYERS, RELUS

_ops = torch.ops.quantized_decomposed
_QUANTIZE, _DEQUANTIZE = _ops.quantize_per_tensor.default, _ops.dequantize_per_tensor.default
_DEQUANTIZE_WEIGHT = _ops.dequantize_per_channel.default
_CONV = torch.ops.aten.conv2d.default
#: Runtimes with integer kernels: does theirs divide by a scale where it rounds float32 to int8?
DIVIDES = {"litert": False, "executorch": False, "onnx": True}
#: Strides, paddings, dilations and groups of a convolution that is one product of matrices, as strings.
_PLAIN = {"[1, 1]", "[0, 0]", "1"}


@dataclass(frozen=True)
class _Layer:
    """An int8 layer: int8 x -> int8 y. ``weight`` holds integers, ``bias`` int32 steps of input x weight scale, both
    as floats; ``scale`` is one float32 a channel; ``apply`` the convolution or product."""

    apply: Callable[[Tensor, Tensor], Tensor]
    weight: Tensor
    bias: Tensor
    scale: Tensor
    x_zero: int
    y_zero: int
    low: int

    def __call__(self, x: Tensor) -> Tensor:
        total = self.apply(x.to(self.weight.dtype) - self.x_zero, self.weight).double() + self.bias
        scaled = total.float() * self.scale
        return (torch.round(scaled) + self.y_zero).clamp(self.low, 127).to(torch.int8)


def in_file(model: QuantizedModel, runtime: str, scan: str) -> nn.Module:
    """A converted model that computes what the file of a runtime does: the same integers, and the same last bits
    of the float32 values that are rounded to them, of scans, means and roots. Core ML's rounding is not known: its file
    is run, and meant, in float64. ``scan`` as in ``Forms.get``.
    """
    if runtime == "coreml":
        return in_double(model)
    layers = runtime == "executorch" or (runtime, scan) == ("litert", "portable")
    if scan == "portable" or layers:
        model = portable.in_graph(model, portable.FORMS if scan == "portable" else portable.ROOTS, layers)
    return integer_exact(model, DIVIDES[runtime]) if runtime in DIVIDES else model


def integer_exact(model: QuantizedModel, division: bool = False) -> QuantizedModel:
    """A copy of a converted model whose int8 layers compute in exact integers; ``division`` rounds as ONNX does."""
    model = copy.deepcopy(model)
    graph = model.body
    if not division:
        _order_sums(graph)
    for number, node in enumerate(graph.graph.find_nodes(op="call_function", target=_QUANTIZE)):
        relu = node.args[0] if node.args[0].target in RELUS else None
        layer = relu.args[0] if relu else node.args[0]
        if layer.target in LAYERS and (made := _layer(graph, layer, node, relu is not None)):
            step = f"integer_layer_{number}"  # fx calls what has a name and a module; this one is a plain function
            function = partial(_call, made)
            function.__name__, function.__module__ = step, __name__
            with graph.graph.inserting_before(node):
                new = graph.graph.call_function(function, (layer.args[0].args[0],))
            new.meta.update({key: value for key, value in layer.meta.items() if key != "val"})
        elif division:
            with graph.graph.inserting_before(node):
                new = graph.graph.call_function(_divide, node.args[:3])
            new.meta.update({key: value for key, value in node.meta.items() if key != "val"})
        else:
            continue
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return model


def _order_sums(graph: GraphModule) -> None:
    """Makes the float32 1 x 1 convolutions of a graph, whose values are rounded later on, add as XNNPACK does."""
    rounded: set[Node] = set()
    for node in reversed(graph.graph.nodes):
        if node.target is _QUANTIZE or any(user in rounded for user in node.users):
            rounded.add(node)
    for number, node in enumerate(graph.graph.find_nodes(op="call_function", target=_CONV)):
        _, weight, *rest = node.args
        if node not in rounded or weight.op != "get_attr" or set(map(str, rest[1:])) - _PLAIN:
            continue
        if _tensor(graph, weight).shape[2:] != (1, 1):
            continue

        def function(x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: object) -> Tensor:
            return _fused_sums(x, weight, bias)

        function.__name__, function.__module__ = f"ordered_layer_{number}", __name__  # as for integer layers below
        node.target = function


def _fused_sums(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1 x 1 convolution of x (B, C, H, W): bias, then x_k w_k for each k in turn, added with one rounding each."""
    factors = weight[..., 0, 0].expand(len(x), -1, -1)
    total = portable.fused_product(factors, x.flatten(2), None if bias is None else bias.view(-1, 1))
    return total.view(len(x), -1, *x.shape[2:])


def _divide(x: Tensor, scale: float, zero: int) -> Tensor:
    """ONNX's QuantizeLinear: saturate(round(x / scale) + zero), ties to even."""
    return (torch.round(x / torch.tensor(scale)) + zero).clamp(-128, 127).to(torch.int8)


def _call(layer: _Layer, x: Tensor) -> Tensor:
    return layer(x)


def _layer(graph: GraphModule, layer: Node, quantize: Node, relu: bool) -> _Layer | None:
    """None for a float layer, and for one whose bias does not fit in 32 bits, which no kernel takes either."""
    x, weight, bias, *rest = (*layer.args, *(None,) * (3 - len(layer.args)))
    if not (x.target is _DEQUANTIZE and weight.target is _DEQUANTIZE_WEIGHT):
        return None
    parts = [_tensor(graph, part) for part in weight.args[0].args[:3]]
    integers = _ops.quantize_per_channel(*parts, *weight.args[0].args[3:])
    x_scale, x_zero = torch.tensor(x.args[1]), int(x.args[2])
    y_scale, y_zero = torch.tensor(quantize.args[1]), int(quantize.args[2])
    step = x_scale * parts[1].float()
    steps = torch.zeros(len(step), dtype=torch.float64)
    if bias is not None:
        steps = torch.round(_tensor(graph, bias).double() / step.double())
    if steps.abs().max() >= 2**31:
        return None
    reach = integers.double().abs().flatten(1).sum(1).max() * max(127 - x_zero, x_zero + 128)
    dtype = torch.float32 if reach < 2**24 else torch.float64
    shape = (-1, 1, 1) if layer.target is _CONV else (-1,)
    apply = partial(_convolve, rest) if layer.target is _CONV else functional.linear
    low = max(-128, y_zero) if relu else -128
    scale = (step / y_scale).view(shape)
    return _Layer(apply, integers.to(dtype), steps.view(shape), scale, x_zero, y_zero, low)


def _convolve(rest: list, x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(x, weight, None, *rest)


def _tensor(graph: GraphModule, node: Node) -> Tensor:
    found = graph
    for part in node.target.split("."):
        found = getattr(found, part)
    return found.detach()
