"""Layers of a network: convolutions, linears, pools, norms, and the sampling of images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edge_hands.export_targets.mil_reference.arguments import Arguments

Operation = Callable[[Arguments], Tensor]
Pads = list[tuple[int, int]]

_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
_CONV_TRANSPOSE = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
_MAX_POOL = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVERAGE_POOL = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def _pads(a: Arguments, sides: list[int], kernel: list[int], stride: list[int], dilation: list[int]) -> Pads:
    """Padding (before, after) of every axis: given, none, or as much as keeps ceil(side / stride)."""
    kind = a.text("pad_type", "valid")
    if kind == "custom":
        amounts = a.integers("pad")
        return list(zip(amounts[::2], amounts[1::2], strict=True))
    if kind == "valid":
        return [(0, 0)] * len(kernel)
    pads = []
    for side, k, s, d in zip(sides, kernel, stride, dilation, strict=True):
        total = max(0, (math.ceil(side / s) - 1) * s + (k - 1) * d + 1 - side)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if kind == "same" else (large, small))
    return pads


def _padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    return functional.pad(x, [side for pair in reversed(pads) for side in pair], value=value)


def conv(a: Arguments) -> Tensor:
    x, weight = a.real("x"), a.real("weight")
    ones = [1] * (x.dim() - 2)
    stride, dilation = a.integers("strides", ones), a.integers("dilations", ones)
    x = _padded(x, _pads(a, list(x.shape[2:]), list(weight.shape[2:]), stride, dilation))
    return _CONV[len(ones) - 1](x, weight, a.optional("bias"), stride, 0, dilation, a.integer("groups", 1))


def conv_transpose(a: Arguments) -> Tensor:
    """Padding is cut off the full result; ``pad_type`` "same" is side x stride long."""
    x, weight = a.real("x"), a.real("weight")
    ones = [1] * (x.dim() - 2)
    stride, dilation = a.integers("strides", ones), a.integers("dilations", ones)
    full = _CONV_TRANSPOSE[len(ones) - 1](x, weight, a.optional("bias"), stride, 0, 0, a.integer("groups", 1), dilation)
    kind = a.text("pad_type", "valid")
    if kind == "valid":
        return full
    begins = a.integers("pad")[::2] if kind == "custom" else [0] * len(ones)
    sides = a.result_shape[2:]
    if kind != "custom":
        spare = [max(0, whole - side) for whole, side in zip(full.shape[2:], sides, strict=True)]
        begins = [extra // 2 if kind == "same" else extra - extra // 2 for extra in spare]
    for axis, (begin, side) in enumerate(zip(begins, sides, strict=True), 2):
        missing = begin + side - full.shape[axis]
        if missing > 0:
            full = torch.cat([full, full.new_zeros(*full.shape[:axis], missing, *full.shape[axis + 1 :])], axis)
        full = full.narrow(axis, begin, side)
    return full


def linear(a: Arguments) -> Tensor:
    return functional.linear(a.real("x"), a.real("weight"), a.optional("bias"))


def _pool_sizes(a: Arguments) -> tuple[Tensor, list[int], list[int], Pads]:
    x, kernel = a.real("x"), a.integers("kernel_sizes")
    stride = a.integers("strides", [1] * len(kernel))
    if a.flag("ceil_mode"):
        raise ValueError("ceil_mode is not in the reference interpreter")
    return x, kernel, stride, _pads(a, list(x.shape[2:]), kernel, stride, [1] * len(kernel))


def max_pool(a: Arguments) -> Tensor:
    x, kernel, stride, pads = _pool_sizes(a)
    return _MAX_POOL[len(kernel) - 1](_padded(x, pads, -math.inf), kernel, stride)


def avg_pool(a: Arguments) -> Tensor:
    x, kernel, stride, pads = _pool_sizes(a)
    average = _AVERAGE_POOL[len(kernel) - 1]
    y = average(_padded(x, pads), kernel, stride)
    if a.flag("exclude_padding_from_average"):
        y = y / average(_padded(torch.ones_like(x), pads), kernel, stride)
    return y


def l2_pool(a: Arguments) -> Tensor:
    x, kernel, stride, pads = _pool_sizes(a)
    mean = _AVERAGE_POOL[len(kernel) - 1](_padded(x.square(), pads), kernel, stride)
    return (mean * math.prod(kernel)).sqrt()


def batch_norm(a: Arguments) -> Tensor:
    parts = (a.real("mean"), a.real("variance"), a.optional("gamma"), a.optional("beta"))
    return functional.batch_norm(a.real("x"), *parts, eps=a.number("epsilon", 1e-5))


def instance_norm(a: Arguments) -> Tensor:
    return functional.instance_norm(
        a.real("x"), weight=a.optional("gamma"), bias=a.optional("beta"), eps=a.number("epsilon", 1e-5)
    )


def layer_norm(a: Arguments) -> Tensor:
    x = a.real("x")
    axes = a.axes(x.dim())
    centred = x - x.mean(axes, True)
    y = centred * torch.rsqrt(centred.square().mean(axes, True) + a.number("epsilon", 1e-5))
    shape = [side if axis in axes else 1 for axis, side in enumerate(x.shape)]
    if "gamma" in a:
        y = y * a.real("gamma").reshape(shape)
    return y + a.real("beta").reshape(shape) if "beta" in a else y


def l2_norm(a: Arguments) -> Tensor:
    """Over the last three axes."""
    x = a.real("x")
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), True) + a.number("epsilon", 1e-6))


def upsample_nearest_neighbor(a: Arguments) -> Tensor:
    factors = a.number("scale_factor_height", 1), a.number("scale_factor_width", 1)
    return functional.interpolate(a.real("x"), scale_factor=tuple(map(float, factors)), mode="nearest")


def upsample_bilinear(a: Arguments) -> Tensor:
    aligned = a.flag("align_corners", True)
    if "half_pixel_centers" in a and a.flag("half_pixel_centers") == aligned:
        raise ValueError("half_pixel_centers with align_corners is not in the reference interpreter")
    x, sides = a.real("x"), [int(side) for side in a.result_shape[-2:]]
    image = x.reshape(1, -1, *x.shape[-2:])  # of three dimensions or four
    image = functional.interpolate(image, sides, mode="bilinear", align_corners=aligned)
    return image.reshape(*x.shape[:-2], *sides)


_ALIGNED = {"STRICT_ALIGN_CORNERS": True, "ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}


def resize_bilinear(a: Arguments) -> Tensor:
    mode = a.text("sampling_mode", "DEFAULT")
    if mode not in _ALIGNED:
        raise ValueError(f"sampling mode {mode} is not in the reference interpreter")
    sides = [a.integer("target_size_height"), a.integer("target_size_width")]
    return functional.interpolate(a.real("x"), sides, mode="bilinear", align_corners=_ALIGNED[mode])


def _pixels(position: Tensor, side: int, a: Arguments) -> Tensor:
    mode = a.text("coordinates_mode")
    if mode == "unnormalized":
        return position
    unit = (position + 1.0) / 2.0 if mode == "normalized_minus_one_to_one" else position
    return unit * (side - 1) if a.flag("align_corners") else unit * side - 0.5


def _folded(position: Tensor, low: float, high: float) -> Tensor:
    """Reflected at both ends into [low, high]."""
    span = high - low
    if span <= 0:
        return torch.zeros_like(position)
    turn = torch.remainder(position - low, 2 * span)
    return low + torch.where(turn > span, 2 * span - turn, turn)


def resample(a: Arguments) -> Tensor:
    """x (B, C, H, W) at coordinates (B, ..., 2), x before y, -> (B, C, ...)."""
    x, coordinates, padding = a.real("x"), a.real("coordinates"), a.text("padding_mode")
    (batch, channels, *sides), places = x.shape, []
    for place, side in zip((coordinates[..., 1], coordinates[..., 0]), sides, strict=True):
        place = _pixels(place, side, a)
        if padding == "reflection":
            place = _folded(place, 0.0, side - 1.0)
        elif padding == "symmetric":
            place = _folded(place, -0.5, side - 0.5).clamp(0, side - 1)
        elif padding == "border":
            place = place.clamp(0, side - 1)
        places.append(place)
    (height, width), fill = sides, a.number("padding_value")

    def tap(row: Tensor, column: Tensor) -> Tensor:
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().reshape(batch, 1, -1)
        values = x.flatten(2).gather(2, index.expand(-1, channels, -1)).reshape(batch, channels, *row.shape[1:])
        return torch.where(inside.unsqueeze(1), values, fill)

    if a.text("sampling_mode") == "nearest":
        return tap(*map(torch.round, places))
    top, left = map(torch.floor, places)
    total = torch.zeros(())
    for below in (0, 1):
        for right in (0, 1):
            weight = (1 - (places[0] - top - below).abs()) * (1 - (places[1] - left - right).abs())
            total = total + tap(top + below, left + right) * weight.unsqueeze(1)
    return total


OPERATIONS: dict[str, Operation] = {
    function.__name__: function
    for function in (
        conv,
        conv_transpose,
        linear,
        max_pool,
        avg_pool,
        l2_pool,
        batch_norm,
        instance_norm,
        layer_norm,
        l2_norm,
        upsample_nearest_neighbor,
        upsample_bilinear,
        resize_bilinear,
        resample,
    )
}
