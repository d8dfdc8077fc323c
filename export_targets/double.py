"""The fake-quant graph in float64: the same int8 values as any exact computation gives, whatever its order of sums.

In float32 two programs that compute the same differ in last bits, and where a value lies next to the half-way point
between two integers they round it apart. In float64 such a value is a thousand million times rarer, so that a program
that says what the graph says gives what the graph gives. ``mil_reference`` runs Core ML's packages in float64. Scans
have the step size of these files, within 1e-8 of the kernels'.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter

from edge_hands.export_targets.portable import CORE_ML_LOG1P
from edge_hands.kernels.torch_reference import deformable_scan_ref, selective_scan_ref
from edge_hands.quantization.qat import QuantizedModel

_ops, _aten = torch.ops.quantized_decomposed, torch.ops.aten


def in_double(model: QuantizedModel) -> nn.Module:
    """A converted model, or a cut of one, that computes in float64: image (B, H, W, 3) -> its outputs, rounded to
    float32 at the end. ``model`` is left as it is."""
    return _Double(model)


class _Double(nn.Module):
    def __init__(self, model: QuantizedModel) -> None:
        super().__init__()
        self.body, self.outputs = copy.deepcopy(model.body), copy.deepcopy(model.outputs).double()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.outputs(_InDouble(self.body).run(image.double()))
        return {name: value.float() for name, value in found.items()}


class _InDouble(Interpreter):
    """Runs a graph on float64 tensors, with its own float32 constants widened."""

    def get_attr(self, target: str, args: tuple, kwargs: dict) -> Any:
        value = super().get_attr(target, args, kwargs)
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        parts = [place for place, argument in enumerate(args) if isinstance(argument, GraphModule)]
        if parts:  # a part of the graph that ran without autocast; its inputs stand behind it
            return _InDouble(args[parts[0]]).run(*args[parts[0] + 1 :])
        return super().call_function(_WIDE.get(target, target), args, kwargs)


def _quantise(x: Tensor, scale: float, zero: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return (torch.round(x / scale) + zero).clamp(low, high).to(dtype)


def _dequantise(x: Tensor, scale: float, zero: int, *rest: Any, **options: Any) -> Tensor:
    return (x.double() - zero) * scale


def _quantise_channels(x: Tensor, scales: Tensor, zeros: Tensor, axis: int, *rest: Any) -> Tensor:
    """A weight, whose integers are those that float32 gives: every file holds them."""
    return _ops.quantize_per_channel.default(x.float(), scales.float(), zeros, axis, *rest)


def _dequantise_channels(x: Tensor, scales: Tensor, zeros: Tensor, axis: int, *rest: Any, **options: Any) -> Tensor:
    shape = [1] * x.dim()
    shape[axis] = -1
    return (x.double() - zeros.reshape(shape)) * scales.reshape(shape)


def _step(delta: Tensor) -> Tensor:
    """The step size as ``coreml_ops`` writes it: relu(x) + e p(e), e = exp(-|x|)."""
    e = torch.exp(-delta.abs())
    value = torch.zeros_like(e)
    for coefficient in reversed(CORE_ML_LOG1P.astype(float)):
        value = value * e + float(coefficient)
    return torch.relu(delta) + value * e


_WIDE = {
    _ops.quantize_per_tensor.default: _quantise,
    _ops.dequantize_per_tensor.default: _dequantise,
    _ops.quantize_per_channel.default: _quantise_channels,
    _ops.dequantize_per_channel.default: _dequantise_channels,
    torch.ops.edge_hands.selective_scan.default: partial(selective_scan_ref, step=_step),
    torch.ops.edge_hands.deformable_scan.default: partial(deformable_scan_ref, step=_step),
    _aten.to.dtype: lambda x, *args, **options: x,  # to float32, in which the network's sensitive parts compute
    _aten._assert_tensor_metadata.default: lambda *args, **options: None,
}
