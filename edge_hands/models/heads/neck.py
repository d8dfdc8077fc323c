"""Top-down neck: four taps to one stride-8 map."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from edge_hands.models.dfmamba import BackboneConfig, conv_norm
from edge_hands.models.dssm import norm


class FloatLinear(nn.Linear):
    """A linear layer that stays float32 in the int8 graph; the quantizer knows it by its class."""


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Nearest, twice the size."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Neck(nn.Module):
    """Taps -> (B, channels, H/8, W/8): each tap norm + linear, summed top-down, one 3 x 3 convolution."""

    def __init__(self, config: BackboneConfig, channels: int) -> None:
        super().__init__()
        self.taps = nn.ModuleList(
            nn.Sequential(norm(config.norm, width), nn.Conv2d(width, channels, 1)) for width in config.tap_widths
        )
        self.smooth = conv_norm(channels, channels, act="relu")

    def forward(self, taps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        fine, middle, coarse, coarsest = (project(tap) for project, tap in zip(self.taps, taps, strict=True))
        return self.smooth(fine + upsample(middle + upsample(coarse + coarsest)))
