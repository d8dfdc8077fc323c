"""The DF-Mamba backbone: a stem, six stages and four taps at strides 8, 16, 32 and 32.

| stage | block           | works at | then                      |
|-------|-----------------|----------|---------------------------|
| 1     | conv            | H/4      | downsample -> tap 1 (/8)  |
| 2     | conv            | H/8      | downsample -> tap 2 (/16) |
| 3     | DSSM + FFN      | H/16     |                           |
| 4     | gated conv      | H/16     | downsample -> tap 3 (/32) |
| 5     | DSSM + FFN      | H/32     |                           |
| 6     | gated conv      | H/32     | tap 4 (/32)               |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edge_hands.models.dssm import DSSM, FeedForward, MixerBlock, activation

#: Settings of the small models: ReLU stays inside int8 kernels, batch norms fold.
INT8_FRIENDLY = {
    "token_conv": "spatial",
    "conv_act": "relu",
    "act": "relu",
    "gate_act": "relu",
    "norm": "batch",
    "branch_norm": True,
}


@dataclass(frozen=True)
class BackboneConfig:
    """Every size of a DF-Mamba. ``widths`` are the channels at H/4, H/8, H/16 and H/32."""

    image_size: int = 256
    stem: int = 32
    widths: tuple[int, int, int, int] = (80, 160, 320, 640)
    depths: tuple[int, int, int, int, int, int] = (3, 3, 5, 5, 2, 1)
    states: int = 8
    expand: float = 1.0
    gated_expand: float = 2.0
    ffn_ratio: float = 4.0
    group_channels: int = 32
    token_conv: str = "raster"
    conv_act: str = "gelu"
    act: str = "silu"
    gate_act: str = "silu"
    norm: str = "batch"
    #: Batch norms inside the token mixers' branches, beside the paper's pre-norm: they bound the int8 ranges and fold.
    branch_norm: bool = False
    #: The maps of stages 2 and 4 too, before their downsampling: of the paper's taps, all that have passed through the
    #: deep blocks have stride 32.
    stage_taps: bool = False

    @property
    def tap_widths(self) -> tuple[int, int, int, int]:
        return (*self.widths[1:], self.widths[3])

    @property
    def stage_widths(self) -> tuple[int, ...]:
        return self.widths[1:3] if self.stage_taps else ()


def conv_norm(inputs: int, outputs: int, stride: int = 1, act: str | None = None) -> nn.Sequential:
    """3 x 3 convolution, batch norm and, if named, an activation."""
    layers = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation(act)] if act else []))


class ConvBlock(nn.Module):
    """x + BN conv act BN conv x."""

    def __init__(self, channels: int, act: str) -> None:
        super().__init__()
        self.first, self.second = conv_norm(channels, channels, act=act), conv_norm(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(x))


class DFMamba(nn.Module):
    """(B, 3, H, W) with H, W multiples of 32 -> four maps of ``config.tap_widths`` channels, then those of
    ``config.stage_widths``, of strides 8 and 16."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        c, d = config.widths, config.depths
        self.stage_taps = config.stage_taps
        self.stem = nn.Sequential(
            conv_norm(3, config.stem, 2, config.conv_act), conv_norm(config.stem, c[0], 2, config.conv_act)
        )
        self.stage1 = nn.Sequential(*(ConvBlock(c[0], config.conv_act) for _ in range(d[0])))
        self.down1 = nn.Conv2d(c[0], c[1], 3, 2, 1)
        self.stage2 = nn.Sequential(*(ConvBlock(c[1], config.conv_act) for _ in range(d[1])))
        self.down2 = nn.Conv2d(c[1], c[2], 3, 2, 1)
        self.stage3 = _dssm_stage(config, c[2], d[2])
        self.stage4 = _gated_stage(config, c[2], d[3])
        self.down3 = nn.Conv2d(c[2], c[3], 3, 2, 1)
        self.stage5 = _dssm_stage(config, c[3], d[4])
        self.stage6 = _gated_stage(config, c[3], d[5])

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tap1 = self.down1(self.stage1(self.stem(image)))
        second = self.stage2(tap1)
        tap2 = self.down2(second)
        fourth = self.stage4(self.stage3(tap2))
        tap3 = self.down3(fourth)
        taps = tap1, tap2, tap3, self.stage6(self.stage5(tap3))
        return (*taps, second, fourth) if self.stage_taps else taps


def _dssm_stage(config: BackboneConfig, channels: int, depth: int) -> nn.Sequential:
    inner = int(channels * config.expand)
    groups = max(1, inner // config.group_channels)
    blocks = []
    for _ in range(depth):
        mix = DSSM(inner, config.states, groups, config.branch_norm)
        blocks.append(_mixer(config, channels, inner, mix))
        blocks.append(FeedForward(channels, config.ffn_ratio, config.conv_act, config.norm, config.branch_norm))
    return nn.Sequential(*blocks)


def _gated_stage(config: BackboneConfig, channels: int, depth: int) -> nn.Sequential:
    inner = int(channels * config.gated_expand)
    return nn.Sequential(*(_mixer(config, channels, inner, None) for _ in range(depth)))


def _mixer(config: BackboneConfig, channels: int, inner: int, mix: DSSM | None) -> MixerBlock:
    c = config
    return MixerBlock(channels, inner, mix, c.token_conv, c.act, c.gate_act, c.norm, c.branch_norm)
