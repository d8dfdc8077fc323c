"""Torch operators ``edge_hands::selective_scan`` and ``edge_hands::deformable_scan``, over the native kernels.

Importing this module registers them: CPU kernels that share memory with the tensors, fake kernels (so that
``torch.export`` and ``torch.compile`` see one opaque operator), native backward kernels behind autograd, and an
autocast rule that computes in float32. Their ``_int8`` forms, and ``selective_scan_stream``, which takes and gives the
state, are for inference. Shapes stand in ``edge_hands.kernels``; the number of threads is
``torch.get_num_threads()``. ``selective_scan`` and ``deformable_scan`` here are the operators as functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edge_hands.kernels import _native
from edge_hands.kernels.checks import check_deform, check_quantization, check_scan, check_shape
from edge_hands.kernels.torch_reference import deform_ref, deformable_scan_ref, selective_scan_ref

__all__ = [
    "deform_ref",
    "deformable_scan",
    "deformable_scan_int8",
    "deformable_scan_ref",
    "selective_scan",
    "selective_scan_int8",
    "selective_scan_ref",
    "selective_scan_stream",
]

_NAMES = ("x", "delta", "A", "B", "C", "D")
_DEFORM_NAMES = ("x", "offset", "weight", "delta", "A", "B", "C", "D")


def _checked(names: tuple[str, ...], tensors: tuple[Tensor, ...], *deform: int, x: torch.dtype = torch.float32) -> None:
    """Raise TypeError or ValueError naming the argument of wrong dtype or shape; works on fake tensors."""
    for name, tensor in zip(names, tensors, strict=True):
        expected = x if name == "x" else torch.float32
        if tensor.dtype != expected:
            raise TypeError(
                f"{name}: expected dtype {expected}, found {tensor.dtype}. Convert it with .to({expected})."
            )
    shapes = {name: tensor.shape for name, tensor in zip(names, tensors, strict=True)}
    check_scan(shapes)
    if deform:
        check_deform(shapes, *deform)


def _arrays(tensors: tuple[Tensor, ...]) -> list:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _forward(
    tensors: tuple[Tensor, ...],
    deform: tuple[int, ...],
    y: Tensor,
    x_quantization: tuple[float, int] = (1.0, 0),
    y_quantization: tuple[float, int] = (1.0, 0),
    state: Tensor | None = None,
    last: Tensor | None = None,
) -> Tensor:
    """Any scan into y, and into the state ``last``; ``deform`` is empty for the selective scan."""
    x, *rest = _arrays(tensors)
    offset, weight = rest[:2] if deform else (None, None)
    _native.forward(
        "",
        x,
        x_quantization,
        offset,
        weight,
        *rest[-5:],
        *(deform or (0, 0, 0)),
        None if state is None else _arrays((state,))[0],
        y.numpy(),
        y_quantization,
        None if last is None else last.numpy(),
        torch.get_num_threads(),
    )
    return y


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


@torch.library.custom_op("edge_hands::selective_scan", mutates_args=(), device_types="cpu")
def selective_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """x, delta (B, L, D); A (D, N); B, C (B, L, N); D (D,) -> y (B, L, D), all float32."""
    tensors = (x, delta, A, B, C, D)
    _checked(_NAMES, tensors)
    return _forward(tensors, (), _empty(x))


@selective_scan.register_fake
def _(x, delta, A, B, C, D):
    _checked(_NAMES, (x, delta, A, B, C, D))
    return _empty(x)


@torch.library.custom_op("edge_hands::selective_scan_backward", mutates_args=(), device_types="cpu")
def selective_scan_backward(
    grad_y: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> list[Tensor]:
    """Gradients of sum(y * grad_y) of the six inputs, in their order."""
    gradients = [_empty(tensor) for tensor in (x, delta, A, B, C, D)]
    grad_y, x, *rest = _arrays((grad_y, x, delta, A, B, C, D))
    _native.backward("", grad_y, x, None, None, *rest, 0, 0, 0, [g.numpy() for g in gradients], torch.get_num_threads())
    return gradients


@selective_scan_backward.register_fake
def _(grad_y, x, delta, A, B, C, D):
    return [_empty(tensor) for tensor in (x, delta, A, B, C, D)]


def _save(ctx, inputs, output):
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.sizes = tuple(value for value in inputs if not isinstance(value, Tensor))


def _selective_scan_grad(ctx, grad_y):
    return tuple(torch.ops.edge_hands.selective_scan_backward(grad_y, *ctx.saved_tensors))


selective_scan.register_autograd(_selective_scan_grad, setup_context=_save)
selective_scan.register_autocast("cpu", torch.float32)


@torch.library.custom_op("edge_hands::deformable_scan", mutates_args=(), device_types="cpu")
def deformable_scan(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    height: int,
    width: int,
    points: int = 9,
) -> Tensor:
    """``selective_scan`` over the deformed x; offset (B, L, G·K·2), weight (B, L, G·K), K = points -> y (B, L, D)."""
    tensors = (x, offset, weight, delta, A, B, C, D)
    _checked(_DEFORM_NAMES, tensors, height, width, points)
    return _forward(tensors, (height, width, points), _empty(x))


@deformable_scan.register_fake
def _(x, offset, weight, delta, A, B, C, D, height, width, points=9):
    _checked(_DEFORM_NAMES, (x, offset, weight, delta, A, B, C, D), height, width, points)
    return _empty(x)


@torch.library.custom_op("edge_hands::deformable_scan_backward", mutates_args=(), device_types="cpu")
def deformable_scan_backward(
    grad_y: Tensor,
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    height: int,
    width: int,
    points: int,
) -> list[Tensor]:
    """Gradients of sum(y * grad_y) of the eight inputs, in their order."""
    tensors = (x, offset, weight, delta, A, B, C, D)
    gradients = [_empty(tensor) for tensor in tensors]
    _native.backward(
        "",
        *_arrays((grad_y, *tensors)),
        height,
        width,
        points,
        [g.numpy() for g in gradients],
        torch.get_num_threads(),
    )
    return gradients


@deformable_scan_backward.register_fake
def _(grad_y, x, offset, weight, delta, A, B, C, D, height, width, points):
    return [_empty(tensor) for tensor in (x, offset, weight, delta, A, B, C, D)]


def _deformable_scan_grad(ctx, grad_y):
    gradients = torch.ops.edge_hands.deformable_scan_backward(grad_y, *ctx.saved_tensors, *ctx.sizes)
    return (*gradients, None, None, None)


deformable_scan.register_autograd(_deformable_scan_grad, setup_context=_save)
deformable_scan.register_autocast("cpu", torch.float32)


@torch.library.custom_op("edge_hands::selective_scan_int8", mutates_args=(), device_types="cpu")
def selective_scan_int8(
    x: Tensor,
    x_scale: float,
    x_zero_point: int,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    y_scale: float,
    y_zero_point: int,
) -> Tensor:
    """``selective_scan`` from int8 x to int8 y, each scale · (q - zero_point); float32 inside. No gradient."""
    tensors = (x, delta, A, B, C, D)
    _checked_int8(_NAMES, tensors, (x_scale, x_zero_point), (y_scale, y_zero_point))
    return _forward(tensors, (), _empty(x), (x_scale, x_zero_point), (y_scale, y_zero_point))


@selective_scan_int8.register_fake
def _(x, x_scale, x_zero_point, delta, A, B, C, D, y_scale, y_zero_point):
    _checked(_NAMES, (x, delta, A, B, C, D), x=torch.int8)
    return _empty(x)


@torch.library.custom_op("edge_hands::deformable_scan_int8", mutates_args=(), device_types="cpu")
def deformable_scan_int8(
    x: Tensor,
    x_scale: float,
    x_zero_point: int,
    offset: Tensor,
    weight: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    height: int,
    width: int,
    points: int,
    y_scale: float,
    y_zero_point: int,
) -> Tensor:
    """``deformable_scan`` from int8 x to int8 y, each scale · (q - zero_point); float32 inside. No gradient."""
    tensors, deform = (x, offset, weight, delta, A, B, C, D), (height, width, points)
    _checked_int8(_DEFORM_NAMES, tensors, (x_scale, x_zero_point), (y_scale, y_zero_point), *deform)
    return _forward(tensors, deform, _empty(x), (x_scale, x_zero_point), (y_scale, y_zero_point))


@deformable_scan_int8.register_fake
def _(x, x_scale, x_zero_point, offset, weight, delta, A, B, C, D, height, width, points, y_scale, y_zero_point):
    _checked(_DEFORM_NAMES, (x, offset, weight, delta, A, B, C, D), height, width, points, x=torch.int8)
    return _empty(x)


def _checked_int8(
    names: tuple[str, ...],
    tensors: tuple[Tensor, ...],
    x_quantization: tuple[float, int],
    y_quantization: tuple[float, int],
    *deform: int,
) -> None:
    _checked(names, tensors, *deform, x=torch.int8)
    check_quantization("x_scale, x_zero_point", x_quantization)
    check_quantization("y_scale, y_zero_point", y_quantization)


@torch.library.custom_op("edge_hands::selective_scan_stream", mutates_args=(), device_types="cpu")
def selective_scan_stream(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """``selective_scan`` that goes on from ``state`` (B, D, N) -> y and the state after the last token. No gradient."""
    tensors = (x, delta, A, B, C, D)
    _checked_stream(tensors, state)
    last = _empty(state)
    return _forward(tensors, (), _empty(x), state=state, last=last), last


@selective_scan_stream.register_fake
def _(x, delta, A, B, C, D, state):
    _checked_stream((x, delta, A, B, C, D), state)
    return _empty(x), _empty(state)


def _checked_stream(tensors: tuple[Tensor, ...], state: Tensor) -> None:
    _checked(_NAMES, tensors)
    if state.dtype != torch.float32:
        raise TypeError(f"state: expected dtype torch.float32, found {state.dtype}. Convert it with .float().")
    check_shape("state", state.shape, (tensors[0].shape[0], *tensors[2].shape))
