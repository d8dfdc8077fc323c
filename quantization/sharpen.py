"""How sharp a landmark model's heat maps are read, chosen on training crops after training.

A soft-argmax is a mean over the whole map. Its maps are trained towards wide peaks, which teach best, and a mean of two
places is neither of them: read somewhat sharper, p = softmax(s · logits) with s > 1, the same maps lie closer to the
joints. s is folded into the weights of the maps, so that nothing knows of it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edge_hands.hands import NUM_JOINTS

#: Factors that are tried.
FACTORS = (0.8, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0)


@torch.no_grad()
def sharpen(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> float:
    """Folds the best of FACTORS into ``model``'s maps and returns it.

    ``batches`` hold image (B, 3, H, W) in [0, 1], uv (B, 21, 2) and present (B,); the best factor has the least mean
    distance of the joints in the crop. A model without heat maps is left alone, factor 1.
    """
    if not hasattr(getattr(model, "head", None), "maps"):
        return 1.0
    errors, count = torch.zeros(len(FACTORS), dtype=torch.float64), 0
    for batch in batches:
        there = batch["present"] > 0.5
        logits = model.features(batch["image"])["heatmap_logits"][there].float().flatten(2)
        for place, factor in enumerate(FACTORS):
            uv = (factor * logits).softmax(-1) @ model.head.grid
            errors[place] += (uv - batch["uv"][there]).norm(dim=-1).mean(-1).sum()
        count += int(there.sum())
    factor = FACTORS[int(errors.argmin())] if count else 1.0
    maps = model.head.maps
    maps.weight[:NUM_JOINTS] *= factor
    maps.bias[:NUM_JOINTS] *= factor
    return factor
