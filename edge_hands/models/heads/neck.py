"""Top-down neck: the backbone's maps to one stride-8 map."""

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
    """Maps of the backbone -> (B, channels, H/8, W/8): each norm + linear, summed top-down, one 3 x 3 convolution.

    The maps of stages, where there are some, join the taps of their stride. They begin as nothing, so that a model
    which is given them goes on from what it has learned.
    """

    def __init__(self, config: BackboneConfig, channels: int) -> None:
        super().__init__()

        def project(width: int) -> nn.Sequential:
            return nn.Sequential(norm(config.norm, width), nn.Conv2d(width, channels, 1))

        self.taps = nn.ModuleList(map(project, config.tap_widths))
        self.stages = nn.ModuleList(map(project, config.stage_widths))
        self.smooth = conv_norm(channels, channels, act="relu")
        for stage in self.stages:
            nn.init.zeros_(stage[1].weight)
            nn.init.zeros_(stage[1].bias)

    def forward(self, maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        fine, middle, coarse, coarsest = (project(tap) for project, tap in zip(self.taps, maps[:4], strict=True))
        if self.stages:
            second, fourth = (project(stage) for project, stage in zip(self.stages, maps[4:], strict=True))
            fine, middle = fine + second, middle + fourth
        return self.smooth(fine + upsample(middle + upsample(coarse + coarsest)))
