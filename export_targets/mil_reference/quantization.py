"""Quantising, dequantising and the stored forms of weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edge_hands.export_targets.mil_reference.arguments import Arguments

Operation = Callable[[Arguments], Tensor]

_RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def _along(a: Arguments, name: str, x: Tensor) -> Tensor:
    """A scale or zero point, one or one per entry of ``axis``, shaped to multiply x; 0 when left out."""
    if name not in a:
        return torch.zeros((), dtype=torch.float64)
    parameter = a.value(name).double()
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.dim()
    shape[a.integer("axis")] = -1
    return parameter.reshape(shape)


def quantize(a: Arguments) -> Tensor:
    """clip(round(x / scale) + zero point), halves to even."""
    x, (low, high) = a.real("input"), _RANGES[a.text("output_dtype")]
    return (torch.round(x / _along(a, "scale", x)) + _along(a, "zero_point", x)).clamp(low, high)


def dequantize(a: Arguments) -> Tensor:
    x = a.value("input").double()
    return (x - _along(a, "zero_point", x)) * _along(a, "scale", x)


def constexpr_affine_dequantize(a: Arguments) -> Tensor:
    x = a.value("quantized_data").double()
    return (x - _along(a, "zero_point", x)) * _along(a, "scale", x)


def constexpr_blockwise_shift_scale(a: Arguments) -> Tensor:
    """(data - offset) scale, each of which holds for a block: of the data's rank, with fewer entries."""
    data = a.value("data").double()

    def spread(name: str) -> Tensor:
        values = a.value(name).double()
        for axis, (whole, part) in enumerate(zip(data.shape, values.shape, strict=True)):
            values = values.repeat_interleave(whole // part, axis)
        return values

    return (data - spread("offset") if "offset" in a else data) * spread("scale")


OPERATIONS: dict[str, Operation] = {
    "quantize": quantize,
    "dequantize": dequantize,
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_cast": lambda a: a.value("source_val"),
}
