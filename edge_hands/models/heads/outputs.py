"""From raw features to the model interface: what a bundle gives. These modules hold no weights."""

from __future__ import annotations

import torch
from torch import nn

from edge_hands.models.heads.lift import Lift

Tensors = dict[str, torch.Tensor]


class LandmarkOutputs(nn.Module):
    """Features -> joints_uv (B, 21, 2) in [0, 1], joints_xyz (B, 21, 3) metres relative to the wrist, confidence
    (B, 21), presence (B,) and handedness (B,) (probability of a right hand)."""

    names = ("joints_uv", "joints_xyz", "confidence", "presence", "handedness")

    def __init__(self) -> None:
        super().__init__()
        self.lift = Lift()

    def forward(self, features: Tensors) -> Tensors:
        return {
            "joints_uv": features["uv"],
            "joints_xyz": self.lift(features["uv"], features["z"]),
            "confidence": features["confidence_logits"].sigmoid(),
            "presence": features["presence_logits"].sigmoid(),
            "handedness": features["handedness_logits"].sigmoid(),
        }


class DetectorOutputs(nn.Module):
    """Features -> scores (B, N), boxes x0 y0 x1 y1 (B, N, 4), points (wrist, middle MCP) (B, N, 2, 2), centers
    (B, N, 2) and sides (B, N) of the aligned crop, handedness (B, N) (probability of a right hand). Lengths and
    positions are in [0, 1] of the input square."""

    names = ("scores", "boxes", "points", "centers", "sides", "handedness")

    def forward(self, features: Tensors) -> Tensors:
        return {
            "scores": features["score_logits"].sigmoid(),
            "boxes": features["boxes"],
            "points": features["points"],
            "centers": features["centers"],
            "sides": features["sides"],
            "handedness": features["handedness_logits"].sigmoid(),
        }
