"""Folds every batch norm into the convolution beside it: no runtime does it for a norm that comes first."""

from __future__ import annotations

import copy

import torch
from torch import nn

from edge_hands.errors import ExportError
from edge_hands.models.dssm import FeedForward, MixerBlock


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in eval mode whose convolutions hold its batch norms; outputs agree to rounding.

    Raises ExportError when a norm is left: a LayerNorm has statistics of its own at run time and cannot fold.
    """
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
        elif isinstance(module, MixerBlock):
            _fold_before(module, "norm", module.enter, module.gate)
        elif isinstance(module, FeedForward):
            _fold_before(module, "norm", module.expand)
    left = [name for name, module in model.named_modules() if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm))]
    if left:
        raise ExportError(f"cannot fold {left[0]}: expected batch norms beside convolutions; use norm='batch'")
    return model


def _fold_sequence(sequence: nn.Sequential) -> None:
    """conv, norm -> conv; norm, 1 x 1 conv -> 1 x 1 conv."""
    for index in range(len(sequence) - 1):
        first, second = sequence[index], sequence[index + 1]
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            scale, shift = _affine(second)
            bias = first.bias if first.bias is not None else torch.zeros_like(shift)
            _assign(first, first.weight * scale.view(-1, 1, 1, 1), bias * scale + shift)
            sequence[index + 1] = nn.Identity()
        elif isinstance(first, nn.BatchNorm2d) and isinstance(second, nn.Conv2d):
            _fold_before(sequence, str(index), second)


def _fold_before(parent: nn.Module, name: str, *convs: nn.Conv2d) -> None:
    """Folds the norm ``parent.name`` into the 1 x 1 convolutions that read it (padding would break this)."""
    bn = getattr(parent, name)
    if not isinstance(bn, nn.BatchNorm2d):
        return
    scale, shift = _affine(bn)
    for conv in convs:
        if conv.kernel_size != (1, 1) or conv.groups != 1:
            raise ExportError(f"cannot fold a norm into a {conv.kernel_size} convolution: expected 1 x 1")
        weight = conv.weight.flatten(1)
        bias = weight @ shift + (conv.bias if conv.bias is not None else 0.0)
        _assign(conv, conv.weight * scale.view(1, -1, 1, 1), bias)
    setattr(parent, name, nn.Identity())


def _affine(bn: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return scale, bn.bias - bn.running_mean * scale


def _assign(conv: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor) -> None:
    conv.weight = nn.Parameter(weight.detach().contiguous(memory_format=torch.channels_last))
    conv.bias = nn.Parameter(bias.detach())
