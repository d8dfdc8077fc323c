"""Torch operators ``edge_hands::selective_scan`` and ``edge_hands::deformable_scan``, over the native kernels.

Importing this module registers them: CPU kernels that share memory with the tensors, fake kernels (so that
``torch.export`` and ``torch.compile`` see one opaque operator), native backward kernels behind autograd, and an
autocast rule that computes in float32. Shapes stand in ``edge_hands.kernels``; the number of threads is
``torch.get_num_threads()``. ``selective_scan`` and ``deformable_scan`` here are the operators as functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edge_hands.kernels import _native
from edge_hands.kernels.checks import check_deform, check_scan
from edge_hands.kernels.torch_reference import deform_ref, deformable_scan_ref, selective_scan_ref

__all__ = ["deform_ref", "deformable_scan", "deformable_scan_ref", "selective_scan", "selective_scan_ref"]

_NAMES = ("x", "delta", "A", "B", "C", "D")
_DEFORM_NAMES = ("x", "offset", "weight", "delta", "A", "B", "C", "D")


def _checked(names: tuple[str, ...], tensors: tuple[Tensor, ...], *deform: int) -> None:
    """Raise TypeError or ValueError naming the argument of wrong dtype or shape; works on fake tensors."""
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype != torch.float32:
            raise TypeError(f"{name}: expected dtype torch.float32, found {tensor.dtype}. Convert it with .float().")
    shapes = {name: tensor.shape for name, tensor in zip(names, tensors, strict=True)}
    check_scan(shapes)
    if deform:
        check_deform(shapes, *deform)


def _arrays(tensors: tuple[Tensor, ...]) -> list:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


@torch.library.custom_op("edge_hands::selective_scan", mutates_args=(), device_types="cpu")
def selective_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """x, delta (B, L, D); A (D, N); B, C (B, L, N); D (D,) -> y (B, L, D), all float32."""
    tensors = (x, delta, A, B, C, D)
    _checked(_NAMES, tensors)
    y = _empty(x)
    x, *rest = _arrays(tensors)
    _native.forward("", x, None, None, *rest, 0, 0, 0, y.numpy(), torch.get_num_threads())
    return y


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
    y = _empty(x)
    _native.forward("", *_arrays(tensors), height, width, points, y.numpy(), torch.get_num_threads())
    return y


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
