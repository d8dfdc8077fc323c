"""The landmark model: an aligned crop of a hand -> 21 joints in the crop and in metres, with confidences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edge_hands.models.dfmamba import INT8_FRIENDLY, BackboneConfig, DFMamba
from edge_hands.models.heads import FloatLinear, HeatmapHead, LandmarkOutputs, Neck
from edge_hands.models.registry import register


@dataclass(frozen=True)
class LandmarkConfig(BackboneConfig):
    """A backbone and the channels of its neck. The heat-maps have a quarter of the image's side."""

    neck: int = 64
    kind = "landmarks"

    def build(self) -> LandmarkModel:
        return LandmarkModel(self)


def normalise(image: torch.Tensor) -> torch.Tensor:
    """[0, 1] -> [-2, 2]."""
    return image * 4.0 - 2.0


class LandmarkModel(nn.Module):
    """``features`` is what training sees (raw logits), ``forward`` what a bundle gives (the model interface)."""

    kind = "landmarks"

    def __init__(self, config: LandmarkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = DFMamba(config)
        self.neck = Neck(config, config.neck)
        self.head = HeatmapHead(config.neck, config.image_size // 4)
        self.hand = FloatLinear(config.tap_widths[3], 2)
        self.outputs = LandmarkOutputs()

    def features(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image (B, 3, H, W) in [0, 1] -> float32 heatmap_logits (B, 21, S, S), uv (B, 21, 2) in [0, 1], z (B, 21) in
        crop sides relative to the wrist, confidence_logits (B, 21), presence_logits (B,), handedness_logits (B,)."""
        taps = self.backbone(normalise(image))
        found = self.head(self.neck(taps))
        presence, handedness = self.hand(taps[3].float().mean((2, 3))).float().unbind(-1)
        return {**found, "presence_logits": presence, "handedness_logits": handedness}

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image (B, H, W, 3) in [0, 1] -> what ``LandmarkOutputs`` gives; float32."""
        return self.outputs(self.features(image.permute(0, 3, 1, 2)))


@register
def dfmamba_base() -> LandmarkConfig:
    """The paper's size as far as it is published: C = 80, 256 x 256."""
    return LandmarkConfig(neck=256)


@register
def dfmamba_edge() -> LandmarkConfig:
    """Phone-sized: 96 x 96, made for int8 (ReLU everywhere, foldable norms)."""
    return LandmarkConfig(image_size=96, stem=16, widths=(32, 64, 128, 256), depths=(2, 2, 3, 3, 1, 1), **INT8_FRIENDLY)


@register
def test_dfmamba() -> LandmarkConfig:
    """Milliseconds: 64 x 64, for tests."""
    return LandmarkConfig(
        image_size=64,
        stem=8,
        widths=(8, 16, 32, 64),
        depths=(1, 1, 1, 1, 1, 1),
        states=4,
        neck=16,
        ffn_ratio=2.0,
        **INT8_FRIENDLY,
    )
