"""The scans' operators on a GPU, for training there: plain torch, token after token, its backward by running it again.

Importing this module registers them for CUDA tensors. There is no hand-written CUDA kernel: a batch of hundreds hides
the launches of the loop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edge_hands.kernels import torch_ops
from edge_hands.kernels.torch_reference import deformable_scan_ref, selective_scan_ref


@torch.no_grad()
def selective_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """x, delta (B, L, D); A (D, N); B, C (B, L, N); D (D,) -> y (B, L, D), all float32."""
    return selective_scan_ref(x, delta, A, B, C, D)


def selective_scan_backward(grad_y: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Gradients of sum(y * grad_y) of the six inputs, in their order."""
    return _gradients(selective_scan_ref, grad_y, tensors)


@torch.no_grad()
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
    return deformable_scan_ref(x, offset, weight, delta, A, B, C, D, height, width, points)


def deformable_scan_backward(grad_y: Tensor, *tensors_and_sizes) -> list[Tensor]:
    """Gradients of sum(y * grad_y) of the eight tensors, in their order; height, width and points come last."""
    return _gradients(deformable_scan_ref, grad_y, tensors_and_sizes[:8], *tensors_and_sizes[8:])


def _gradients(scan, grad_y: Tensor, tensors: tuple[Tensor, ...], *sizes: int) -> list[Tensor]:
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in tensors]
        return list(torch.autograd.grad(scan(*inputs, *sizes), inputs, grad_y))


for _name in ("selective_scan", "selective_scan_backward", "deformable_scan", "deformable_scan_backward"):
    getattr(torch_ops, _name).register_kernel("cuda", globals()[_name])
for _operator in (torch_ops.selective_scan, torch_ops.deformable_scan):
    _operator.register_autocast("cuda", torch.float32)
