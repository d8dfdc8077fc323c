"""Detector head: one prediction for each cell of a grid. A hand belongs to the cell that holds the centre of its
aligned crop. All positions are in [0, 1] of the input square."""

from __future__ import annotations

import torch
from torch import nn

from edge_hands.models.dssm import FloatConv2d

#: Positions are regressed relative to the cell's centre, and sizes, in this fraction of the input's side.
UNIT = 0.25
#: Crop sides lie in UNIT * exp(+-LOG_SIDE_LIMIT): 1.2 % to 5 times the input's side.
LOG_SIDE_LIMIT = 3.0

_FIELDS = {"score": 1, "center": 2, "box": 4, "points": 4, "side": 1, "handedness": 1}


class GridHead(nn.Module):
    """(B, C, S, S) -> predictions of N = S * S cells in raster order, float32; scores and handedness as logits."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.maps = FloatConv2d(channels, sum(_FIELDS.values()), 1)
        nn.init.normal_(self.maps.weight, std=0.01)
        nn.init.zeros_(self.maps.bias)
        with torch.no_grad():
            self.maps.bias[0] = -4.0  # hands are rare: start from p = 0.02
        centers = (torch.arange(size) + 0.5) / size
        v, u = torch.meshgrid(centers, centers, indexing="ij")
        self.register_buffer("cells", torch.stack([u, v], -1).reshape(1, size * size, 2), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.maps(x)
        with torch.autocast(maps.device.type, enabled=False):
            return self.decode(maps.permute(0, 2, 3, 1).flatten(1, 2).float())

    def decode(self, raw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Raw values (B, N, 13) -> score_logits (B, N), centers (B, N, 2), boxes x0 y0 x1 y1 (B, N, 4), points
        (wrist, middle MCP) (B, N, 2, 2), sides (B, N), handedness_logits (B, N)."""
        score, center, box, points, side, handedness = raw.split(list(_FIELDS.values()), -1)
        pair = torch.cat([self.cells, self.cells], -1)
        return {
            "score_logits": score.squeeze(-1),
            "centers": self.cells + center * UNIT,
            "boxes": pair + box * UNIT,
            "points": (pair + points * UNIT).unflatten(-1, (2, 2)),
            "sides": side.squeeze(-1).clamp(-LOG_SIDE_LIMIT, LOG_SIDE_LIMIT).exp() * UNIT,
            "handedness_logits": handedness.squeeze(-1),
        }
