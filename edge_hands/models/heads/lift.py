"""From image coordinates and relative depth to metres.

An image does not tell a hand's size, so the lifted hand has the reference skeleton length; see edge_hands.hands.
"""

from __future__ import annotations

import torch
from torch import nn

from edge_hands.hands import BONES, NUM_JOINTS, REFERENCE_SKELETON_LENGTH, WRIST


class Lift(nn.Module):
    """uv (B, 21, 2) and z (B, 21), both in crop sides -> joints (B, 21, 3) in metres relative to the wrist."""

    def __init__(self) -> None:
        super().__init__()
        bones = torch.zeros(len(BONES), NUM_JOINTS)
        for row, (parent, child) in enumerate(BONES):
            bones[row, parent], bones[row, child] = -1.0, 1.0
        self.register_buffer("bones", bones, persistent=False)

    def forward(self, uv: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        points = torch.cat([uv, z.unsqueeze(-1)], -1)
        points = points - points[:, WRIST : WRIST + 1]
        lengths = (self.bones @ points).square().sum(-1).clamp_min(1e-12).sqrt()
        return points * (REFERENCE_SKELETON_LENGTH / lengths.sum(-1).clamp_min(1e-3)).unsqueeze(-1).unsqueeze(-1)
