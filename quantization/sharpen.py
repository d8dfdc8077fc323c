"""How sharp a landmark model's heat maps are read, chosen on training crops after training.

A soft-argmax is a mean over the whole map. Its maps are trained towards wide peaks, which teach best, and a mean of two
places is neither of them: read somewhat sharper, p = softmax(s · logits) with s > 1, the same maps lie closer to the
joints. The depth is read through the same p, and is worse for too large an s. s is folded into the weights of the maps,
so that nothing knows of it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edge_hands.hands import NUM_JOINTS

#: Factors that are tried.
FACTORS = (0.85, 1.0, 1.15, 1.3, 1.5, 1.75)


@torch.no_grad()
def sharpen(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> float:
    """Folds the best of FACTORS into ``model``'s maps and returns it.

    ``batches`` hold image (B, 3, H, W) in [0, 1], uv (B, 21, 2), z (B, 21) from the wrist in crop sides, and present
    (B,). The best factor has the least mean distance of (u, v, z) in space. A model without heat maps is left alone,
    factor 1.
    """
    maps = getattr(getattr(model, "head", None), "maps", None)
    if maps is None:
        return 1.0
    weight, bias = maps.weight[:NUM_JOINTS].clone(), maps.bias[:NUM_JOINTS].clone()

    def read(factor: float) -> None:
        maps.weight[:NUM_JOINTS], maps.bias[:NUM_JOINTS] = factor * weight, factor * bias

    errors = torch.zeros(len(FACTORS), dtype=torch.float64)
    for batch in batches:
        there = batch["present"] > 0.5
        true = torch.cat([batch["uv"], batch["z"][..., None]], -1)[there]
        for place, factor in enumerate(FACTORS):
            read(factor)
            found = model.features(batch["image"])
            seen = torch.cat([found["uv"], found["z"][..., None]], -1)[there]
            errors[place] += (seen - true).norm(dim=-1).mean(-1).sum()
    factor = FACTORS[int(errors.argmin())] if errors.any() else 1.0
    read(factor)
    return factor
