"""The hand detector: a letterboxed frame -> hands on a stride-8 grid, from the same blocks as the landmark model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edge_hands.models.dfmamba import INT8_FRIENDLY, BackboneConfig, DFMamba
from edge_hands.models.heads import DetectorOutputs, GridHead, Neck
from edge_hands.models.landmarks import normalise
from edge_hands.models.registry import register


@dataclass(frozen=True)
class DetectorConfig(BackboneConfig):
    """A backbone and the channels of its neck. The grid has an eighth of the image's side."""

    neck: int = 48
    kind = "detector"

    def build(self) -> Detector:
        return Detector(self)


class Detector(nn.Module):
    """``features`` is what training sees (raw logits), ``forward`` what a bundle gives. N = (H / 8) * (W / 8) cells."""

    kind = "detector"

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = DFMamba(config)
        self.neck = Neck(config, config.neck)
        self.head = GridHead(config.neck, config.image_size // 8)
        self.outputs = DetectorOutputs()

    def features(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image (B, 3, H, W) in [0, 1] -> the outputs of ``GridHead.decode``, row-major cells, float32."""
        return self.head(self.neck(self.backbone(normalise(image))))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image (B, H, W, 3) in [0, 1] -> what ``DetectorOutputs`` gives; float32."""
        return self.outputs(self.features(image.permute(0, 3, 1, 2)))


@register
def detector_edge() -> DetectorConfig:
    """Phone-sized: 192 x 192, 24 x 24 cells."""
    return DetectorConfig(
        image_size=192,
        stem=16,
        widths=(16, 32, 96, 128),
        depths=(1, 2, 2, 2, 1, 1),
        ffn_ratio=2.0,
        neck=48,
        stage_taps=True,
        **INT8_FRIENDLY,
    )


@register
def test_detector() -> DetectorConfig:
    """Milliseconds: 64 x 64, 8 x 8 cells, for tests."""
    return DetectorConfig(
        image_size=64,
        stem=8,
        widths=(8, 16, 32, 32),
        depths=(1, 1, 1, 1, 1, 1),
        states=4,
        neck=16,
        ffn_ratio=2.0,
        **INT8_FRIENDLY,
    )
