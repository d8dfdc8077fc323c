"""Mixer blocks of DF-Mamba (arXiv 2512.02727): the deformable state-space block and its gated conv sibling.

DSSM, eq. 3 of the paper:  h(t) = exp(dt A) h(t-1) + dt B sum_k b_k x(p_t + a_k + o_kt);  y(t) = C h(t) + D x(p_t)
with nine anchors a_k around each position, and offsets o, weights b, dt, B and C linear in the un-deformed x.
The scan runs once, in raster order, in float32.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edge_hands.kernels import torch_ops  # noqa: F401  (registers torch.ops.edge_hands)

#: Sampling points of the deformable input: the 3 x 3 neighbourhood.
POINTS = 9

_ACTIVATIONS = {
    "relu": lambda: nn.ReLU(),
    "silu": lambda: nn.SiLU(),
    "gelu": lambda: nn.GELU(approximate="tanh"),
}


class FloatConv2d(nn.Conv2d):
    """A convolution that stays float32 in the int8 graph; the quantizer knows it by its class."""


def activation(name: str) -> nn.Module:
    """ "relu", "silu" or "gelu" (tanh form)."""
    return _ACTIVATIONS[name]()


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm(kind: str, channels: int) -> nn.Module:
    """ "batch" (folds into the convolution that follows) or "layer"."""
    return {"batch": nn.BatchNorm2d, "layer": ChannelNorm}[kind](channels)


def tokens(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, L, C): a view when the memory is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def with_norm(conv: nn.Conv2d, batch_norm: bool) -> nn.Module:
    """``conv``, followed by a batch norm that later folds into it if ``batch_norm``."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)) if batch_norm else conv


class TokenConv(nn.Module):
    """Depth-wise convolution of a map: "raster" along the token sequence (k = 3), or "spatial" 3 x 3."""

    def __init__(self, channels: int, kind: str, branch_norm: bool) -> None:
        super().__init__()
        self.kind = kind
        kernel, padding = ((1, 3), (0, 1)) if kind == "raster" else ((3, 3), (1, 1))
        self.conv = with_norm(nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels), branch_norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "spatial":
            return self.conv(x)
        batch, channels, height, width = x.shape
        row = tokens(x).transpose(1, 2).unsqueeze(2)  # (B, C, 1, L)
        return self.conv(row).squeeze(2).transpose(1, 2).unflatten(1, (height, width)).permute(0, 3, 1, 2)


def unit_rms(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) scaled to a root mean square of 1 over the channels of every position, float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


class DSSM(nn.Module):
    """Deformable state-space model on a map (B, D, H, W) -> the same shape.

    With ``branch_norm``, dt's low-rank input, B and C are scaled to unit RMS at every position, as Jamba
    (arXiv 2403.19887) does: the scan multiplies all three with x, and outliers would otherwise grow with their product.
    """

    def __init__(self, channels: int, states: int, groups: int, branch_norm: bool) -> None:
        super().__init__()
        self.states, self.rank = states, math.ceil(channels / 16)
        self.offset = FloatConv2d(channels, groups * POINTS * 2, 1)
        self.weight_proj = FloatConv2d(channels, groups * POINTS, 1)
        self.project = FloatConv2d(channels, self.rank + 2 * states, 1)
        self.scale = unit_rms if branch_norm else nn.Identity()
        self.delta = FloatConv2d(self.rank, channels, 1)
        self.a_log = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(channels, 1))
        self.skip = nn.Parameter(torch.ones(channels))
        self._initialise(groups)

    def _initialise(self, groups: int) -> None:
        """Starts as a plain selective scan (centre tap 1, no offset), dt log-uniform in [1e-3, 1e-1]."""
        for layer in (self.offset, self.weight_proj):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.weight_proj.bias.view(groups, POINTS)[:, POINTS // 2] = 1.0
            step = torch.exp(torch.empty_like(self.delta.bias).uniform_(math.log(1e-3), math.log(1e-1)))
            self.delta.bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
            self.delta.weight.uniform_(-(self.rank**-0.5), self.rank**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        low_rank, b, c = map(self.scale, self.project(x).split([self.rank, self.states, self.states], 1))
        y = torch.ops.edge_hands.deformable_scan(
            tokens(x).float(),
            tokens(self.offset(x)).float(),
            tokens(self.weight_proj(x)).float(),
            tokens(self.delta(low_rank)).float(),
            -torch.exp(self.a_log),
            tokens(b).float(),
            tokens(c).float(),
            self.skip,
            height,
            width,
        )
        return y.unflatten(1, (height, width)).permute(0, 3, 1, 2)


class FeedForward(nn.Module):
    """x + W2 act(W1 norm(x)) at every position."""

    def __init__(self, channels: int, ratio: float, act: str, norm_kind: str, branch_norm: bool) -> None:
        super().__init__()
        inner = int(channels * ratio)
        self.norm = norm(norm_kind, channels)
        self.expand, self.act = nn.Conv2d(channels, inner, 1), activation(act)
        self.contract = with_norm(nn.Conv2d(inner, channels, 1), branch_norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.contract(self.act(self.expand(self.norm(x))))


class MixerBlock(nn.Module):
    """x + out(mix(act(conv(in(x')))) * gate_act(gate(x'))), x' = norm(x).

    With ``mix`` a DSSM it is the DSSM block, without one the gated conv block. ``branch_norm`` adds a batch norm after
    conv and out, so that the product with the gate does not blow the residual up.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        mix: nn.Module | None,
        conv: str,
        act: str,
        gate_act: str,
        norm_kind: str,
        branch_norm: bool,
    ) -> None:
        super().__init__()
        self.norm = norm(norm_kind, channels)
        self.enter, self.act = nn.Conv2d(channels, inner, 1), activation(act)
        self.conv = TokenConv(inner, conv, branch_norm)
        self.mix = mix or nn.Identity()
        self.gate, self.gate_act = nn.Conv2d(channels, inner, 1), activation(gate_act)
        self.out = with_norm(nn.Conv2d(inner, channels, 1), branch_norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        mixed = self.mix(self.act(self.conv(self.enter(normed))))
        return x + self.out(mixed * self.gate_act(self.gate(normed)))
