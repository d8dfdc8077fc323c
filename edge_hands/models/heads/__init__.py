"""Heads on the four taps: a top-down neck, the 2.5-D heat-map head, the lift to metres, the detector's grid."""

from edge_hands.models.heads.grid import GridHead
from edge_hands.models.heads.heatmap import HeatmapHead
from edge_hands.models.heads.lift import Lift
from edge_hands.models.heads.neck import FloatLinear, Neck
from edge_hands.models.heads.outputs import DetectorOutputs, LandmarkOutputs

__all__ = ["DetectorOutputs", "FloatLinear", "GridHead", "HeatmapHead", "LandmarkOutputs", "Lift", "Neck"]
