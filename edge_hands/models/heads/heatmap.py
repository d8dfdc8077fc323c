"""2.5-D heat-map head: where each joint is, how deep, and how sure; decoded by soft-argmax inside the graph."""

from __future__ import annotations

import torch
from torch import nn

from edge_hands.hands import NUM_JOINTS, WRIST
from edge_hands.models.dfmamba import conv_norm
from edge_hands.models.dssm import FloatConv2d
from edge_hands.models.heads.neck import upsample

#: Depth (in crop sides) of a raw depth map's 1: a hand is about half a crop deep.
DEPTH_UNIT = 0.25


class HeatmapHead(nn.Module):
    """(B, C, S/2, S/2) -> heat-map logits, uv in [0, 1], depth from the wrist in crop sides, confidence logits."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.refine = conv_norm(channels, channels, act="relu")
        self.maps = FloatConv2d(channels, 3 * NUM_JOINTS, 1)
        nn.init.normal_(self.maps.weight, std=0.01)
        nn.init.zeros_(self.maps.bias)
        centers = (torch.arange(size) + 0.5) / size
        v, u = torch.meshgrid(centers, centers, indexing="ij")
        self.register_buffer("grid", torch.stack([u, v], -1).reshape(size * size, 2), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.maps(self.refine(upsample(x)))
        with torch.autocast(maps.device.type, enabled=False):
            return self.decode(maps.float().contiguous())  # one copy here saves a strided read per use

    def decode(self, maps: torch.Tensor) -> dict[str, torch.Tensor]:
        """Raw maps (B, 63, S, S) -> the head's outputs; float32."""
        heat, depth, sure = maps.split(NUM_JOINTS, 1)
        p = heat.flatten(2).softmax(-1)
        z = (p * depth.flatten(2)).sum(-1) * DEPTH_UNIT
        return {
            "heatmap_logits": heat,
            "uv": p @ self.grid,
            "z": z - z[:, WRIST : WRIST + 1],
            "confidence_logits": (p * sure.flatten(2)).sum(-1),
        }
