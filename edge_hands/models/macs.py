"""Sizes of a model: multiply-accumulates of one image, parameters."""

from __future__ import annotations

import torch
from torch import nn

from edge_hands.models.dssm import DSSM, POINTS


def count_macs(model: nn.Module) -> int:
    """Multiply-accumulates of ``model.features`` for one image: convolutions, linears and scans.

    A scan costs, per token and channel, 4 products for each bilinear sample and 3 for each state (decay, input,
    read-out). Activations, norms (they fold) and the soft-argmax are not counted.
    """
    total = 0

    def conv(module: nn.Conv2d, _, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    def linear(module: nn.Linear, _, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.in_features

    def scan(module: DSSM, _, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * (4 * POINTS + 3 * module.states)

    hooks = [
        module.register_forward_hook(hook)
        for module in model.modules()
        for kind, hook in ((nn.Conv2d, conv), (nn.Linear, linear), (DSSM, scan))
        if isinstance(module, kind)
    ]
    training = model.training
    size = model.config.image_size
    try:
        with torch.no_grad():
            model.eval().features(torch.zeros(1, 3, size, size))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return total


def count_parameters(model: nn.Module) -> int:
    """Number of learnt values."""
    return sum(parameter.numel() for parameter in model.parameters())
