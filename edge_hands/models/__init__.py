"""Torch networks: the DF-Mamba backbone, the landmark model and the hand detector.

Glossary: B batch, H x W map, L = H * W tokens in raster order, D channels of a block, N scan states, G offset
groups, K sampling points, S side of a heat-map or grid. Maps are (B, C, H, W) in channels-last memory, so that
tokens (B, L, C) are a view of them.
"""

from edge_hands.models import detector, landmarks  # noqa: F401  (their variants register themselves)
from edge_hands.models.dfmamba import BackboneConfig, DFMamba
from edge_hands.models.macs import count_macs, count_parameters
from edge_hands.models.registry import config_of, create, list_models

__all__ = ["BackboneConfig", "DFMamba", "config_of", "count_macs", "count_parameters", "create", "list_models"]
