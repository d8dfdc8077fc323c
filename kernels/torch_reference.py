"""The scans in plain differentiable torch: slow, any float dtype, the oracle of the operators and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_hands.kernels.reference import anchors


def softplus(delta: Tensor) -> Tensor:
    """log(1 + exp(delta)), the step size."""
    return F.softplus(delta, threshold=1e9)


def selective_scan_ref(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    step: Callable[[Tensor], Tensor] = softplus,
) -> Tensor:
    """x, delta (B, L, D); A (D, N); B, C (B, L, N); D (D,) -> y (B, L, D). ``step``: delta -> step size."""
    return _scan(x, step(delta), A, B, C) + D * x


def deformable_scan_ref(
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
    step: Callable[[Tensor], Tensor] = softplus,
) -> Tensor:
    """``selective_scan_ref`` over the deformed x; offset (B, L, G·K·2), weight (B, L, G·K) -> y (B, L, D)."""
    return _scan(deform_ref(x, offset, weight, height, width, points), step(delta), A, B, C) + D * x


def deform_ref(x: Tensor, offset: Tensor, weight: Tensor, height: int, width: int, points: int = 9) -> Tensor:
    """Σ_k w_k x(p_t + a_k + o_k), bilinear, zero outside -> (B, L, D)."""
    batch, length, channels = x.shape
    groups = weight.shape[-1] // points
    tokens = torch.arange(length, device=x.device)
    anchor = torch.from_numpy(anchors(points)).to(x.device)
    place = torch.stack([tokens // max(width, 1), tokens % max(width, 1)], -1)
    position = (place[:, None, None] + anchor) + offset.view(batch, length, groups, points, 2)
    low = position.detach().floor()
    image = x.view(batch, length, groups, channels // groups).permute(0, 2, 1, 3)
    out = torch.zeros_like(image)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        tap = low + low.new_tensor(corner)
        factor = (1 - (position - tap).abs()).prod(-1) * weight.view(batch, length, groups, points)
        inside = ((tap >= 0) & (tap < tap.new_tensor((height, width)))).all(-1)
        index = torch.where(inside, tap[..., 0] * width + tap[..., 1], 0).long().permute(0, 2, 1, 3).flatten(2)
        values = image.gather(2, index[..., None].expand(-1, -1, -1, image.shape[-1]))
        values = values.view(batch, groups, length, points, channels // groups)
        factor = torch.where(inside, factor, 0).permute(0, 2, 1, 3)
        out = out + (values * factor[..., None]).sum(3)
    return out.permute(0, 2, 1, 3).reshape(x.shape)


def _scan(s: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    h = s.new_zeros(s.shape[0], *A.shape)
    y = []
    for t in range(s.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * s[:, t])[..., None] * B[:, t, None, :]
        y.append((h * C[:, t, None, :]).sum(-1))
    return torch.stack(y, 1) if y else torch.zeros_like(s)
