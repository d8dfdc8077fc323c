"""The averaged weights of a training run: the ones that are validated and written.

They follow the trained weights as an exponential moving average. Their batch-norm statistics are measured on training
batches before every use. Averaged statistics would not do: they are not those of the averaged weights, and a single
batch with wild activations, which a running mean soon forgets, spoils them for a thousand steps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Averaged:
    """``weights`` follow a model on its device; ``model``, on the CPU, is what they give once they are calibrated."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = copy.deepcopy(model).requires_grad_(False)
        on_cpu = next(model.parameters()).device.type == "cpu"
        self.model = self.weights if on_cpu else copy.deepcopy(self.weights).cpu()
        self._calibrated = False

    @torch.no_grad()
    def follow(self, model: nn.Module, decay: float) -> None:
        """weights = decay * weights + (1 - decay) * those of ``model``, for the parameters."""
        torch._foreach_lerp_(list(self.weights.parameters()), list(model.parameters()), 1 - decay)
        self._calibrated = False

    def calibrated(self, batches: Iterable[dict[str, Tensor]], bf16: bool) -> nn.Module:
        """``model`` in eval mode, its batch-norm statistics those of ``batches``; nothing to do until it follows again.

        ``batches`` hold image (B, 3, H, W) in [0, 1]; ``bf16``: in that precision, as in training.
        """
        if self._calibrated:
            return self.model
        if self.model is not self.weights:
            self.model.load_state_dict(self.weights.state_dict())
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
                module.momentum = None  # a plain mean
        self.model.train()
        for batch in batches:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                self.model.features(batch["image"])
        self._calibrated = True
        return self.model.eval()
