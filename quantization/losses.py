"""Losses of the landmark model and of the detector, on what ``features()`` returns.

Each takes the features and a batch of tensors and returns (total, parts): ``parts`` are detached scalars for the log.
B batch, J = 21 joints, S side of the heat-maps, N cells of the detector's grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_hands.hands import BONES, WRIST

Tensors = dict[str, Tensor]
Losses = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class LandmarkWeights:
    """Weights of the parts, width of the target Gaussian in cells, and what a confident joint is (crop sides)."""

    heatmap: float = 1.0
    uv: float = 8.0
    z: float = 8.0
    xyz: float = 20.0
    confidence: float = 0.2
    presence: float = 0.3
    handedness: float = 0.3
    sigma: float = 1.1
    confident: float = 0.05


@dataclass(frozen=True)
class DetectorWeights:
    """Weights of the parts, and the width of a hand's heat peak over its aligned side, not under ``sigma_cells``."""

    heat: float = 1.0
    center: float = 4.0
    box: float = 2.0
    overlap: float = 1.5
    points: float = 4.0
    side: float = 1.0
    handedness: float = 0.5
    sigma: float = 0.10
    sigma_cells: float = 0.7
    positive: float = 0.55  # cells with at least this much heat regress the hand


def landmark_loss(features: Tensors, batch: Tensors, w: LandmarkWeights = LandmarkWeights()) -> Losses:
    """Loss of a landmark model.

    ``features``: heatmap_logits (B, J, S, S), uv (B, J, 2), z (B, J), confidence_logits (B, J), presence_logits (B,),
    handedness_logits (B,). ``batch``: uv, xyz, z, present, handed as ``data.augment.CropBatches`` makes them. Crops
    without a hand count for presence and for confidence: a joint that is not there is not where it is said to be.
    """
    f = {name: tensor.float() for name, tensor in features.items()}
    present = batch["present"]
    hands = present.sum().clamp(min=1)

    def mean(values: Tensor) -> Tensor:  # over the joints of present hands
        return (values.flatten(1).mean(1) * present).sum() / hands

    target = batch["uv"].clamp(0, 1)  # a joint outside the crop pulls to the border
    heat = gaussian(target, f["heatmap_logits"].shape[-1], w.sigma)
    log_p = f["heatmap_logits"].flatten(2).log_softmax(-1)
    lifted = unit_skeleton(torch.cat([f["uv"], f["z"][..., None]], -1))
    error = (f["uv"] - batch["uv"]).norm(dim=-1).detach()
    confident = (error < w.confident).float() * present[:, None]
    parts = {
        "heatmap": -mean((heat * log_p).sum(-1)),
        "uv": mean((f["uv"] - target).abs()),
        "z": mean((f["z"] - batch["z"]).abs()),
        "xyz": mean((lifted - unit_skeleton(batch["xyz"])).abs()),
        "confidence": F.binary_cross_entropy_with_logits(f["confidence_logits"], confident),
        "presence": F.binary_cross_entropy_with_logits(f["presence_logits"], present),
        "handedness": mean(
            F.binary_cross_entropy_with_logits(f["handedness_logits"], batch["handed"], reduction="none")[:, None]
        ),
    }
    total = sum(getattr(w, name) * part for name, part in parts.items())
    return total, {**{n: p.detach() for n, p in parts.items()}, "error_2d": mean(error)}


def detector_loss(features: Tensors, batch: Tensors, w: DetectorWeights = DetectorWeights()) -> Losses:
    """Penalty-reduced focal loss of the scores (CenterNet, arXiv 1904.07850), L1 in units of the hand's side, GIoU.

    ``features``: score_logits (B, N), centers (B, N, 2), boxes (B, N, 4), points (B, N, 2, 2), sides (B, N),
    handedness_logits (B, N), coordinates in [0, 1] of the input square. ``batch``: per hand slot h of 2, centers
    (B, 2, 2), boxes, points, sides (B, 2), right (B, 2), valid (B, 2) and ignore (B, 2) as ``data.frames`` makes them.
    """
    f = {name: tensor.float() for name, tensor in features.items()}
    cells = f["score_logits"].shape[1]
    grid = cell_centers(round(cells**0.5), f["score_logits"].device)  # (N, 2)
    valid, sides = batch["valid"], batch["sides"].clamp(min=0.02)
    apart = (grid[None, None] - batch["centers"][:, :, None]).square().sum(-1)  # (B, 2, N)
    sigma = (w.sigma * sides).clamp(min=w.sigma_cells / cells**0.5)[..., None]
    heat = torch.exp(-apart / (2 * sigma**2)) * valid[..., None]
    heat, owner = heat.max(1)  # (B, N)
    nearest = torch.zeros_like(heat).scatter_reduce_(1, apart.argmin(-1), valid, "amax")  # one cell a hand
    counted = 1 - ((apart < (sides[..., None] / 2) ** 2) * batch["ignore"][..., None]).amax(1) * (1 - nearest)

    hands = valid.sum().clamp(min=1)
    p, log_p, log_q = f["score_logits"].sigmoid(), F.logsigmoid(f["score_logits"]), F.logsigmoid(-f["score_logits"])
    focal = nearest * (1 - p) ** 2 * log_p + (1 - nearest) * counted * (1 - heat) ** 4 * p**2 * log_q

    weight = torch.maximum(heat * (heat >= w.positive), nearest)
    weight = weight / weight.sum().clamp(min=1)

    def owned(name: str) -> Tensor:  # (B, N, ...): the target of the hand that owns the cell
        target = batch[name]
        index = owner.view(*owner.shape, *[1] * (target.dim() - 2)).expand(-1, -1, *target.shape[2:])
        return target.gather(1, index)

    unit = owned("sides").clamp(min=0.08)

    def distance(name: str) -> Tensor:
        return ((f[name] - owned(name)).abs().flatten(2).mean(-1) / unit * weight).sum()

    side = (f["sides"].clamp(min=1e-3).log() - unit.log()).abs()
    handedness = F.binary_cross_entropy_with_logits(f["handedness_logits"], owned("right"), reduction="none")
    parts = {
        "heat": -focal.sum() / hands,
        "center": distance("centers"),
        "box": distance("boxes"),
        "overlap": ((1 - giou(f["boxes"], owned("boxes"))) * weight).sum(),
        "points": distance("points"),
        "side": (side * weight).sum(),
        "handedness": (handedness * weight).sum(),
    }
    return sum(getattr(w, n) * part for n, part in parts.items()), {n: part.detach() for n, part in parts.items()}


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union in [-1, 1] (arXiv 1902.09630) of boxes (..., 4), x0 y0 x1 y1."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    (a0, a1), (b0, b1) = a.split(2, -1), b.split(2, -1)
    common = area(torch.maximum(a0, b0), torch.minimum(a1, b1))
    union = area(a0, a1) + area(b0, b1) - common
    hull = area(torch.minimum(a0, b0), torch.maximum(a1, b1))
    return common / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def gaussian(uv: Tensor, size: int, sigma: float) -> Tensor:
    """(B, J, 2) in [0, 1] -> (B, J, size * size) Gaussians of ``sigma`` cells that sum to one, rows first."""
    cells = (torch.arange(size, device=uv.device) + 0.5)[None, None]
    x, y = ((-((cells - uv[..., i, None] * size) ** 2) / (2 * sigma**2)).softmax(-1) for i in (0, 1))
    return (y[..., :, None] * x[..., None, :]).flatten(2)


def cell_centers(side: int, device: torch.device | None = None) -> Tensor:
    """(side * side, 2) centres of the cells in [0, 1], rows first."""
    steps = (torch.arange(side, device=device) + 0.5) / side
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 2)


def unit_skeleton(joints: Tensor) -> Tensor:
    """Joints (B, J, 3) relative to the wrist, with bones that sum to one."""
    parents, children = zip(*BONES)
    length = (joints[:, children, :] - joints[:, parents, :]).norm(dim=-1).sum(-1)
    return (joints - joints[:, WRIST, None]) / length.clamp(min=1e-3)[:, None, None]
