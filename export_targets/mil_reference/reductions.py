"""Operations that draw several values together: reductions, sums along an axis, products of matrices, sorting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edge_hands.export_targets.mil_reference.arguments import Arguments

Operation = Callable[[Arguments], "Tensor | tuple[Tensor, ...]"]


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operation:
    def reduce(a: Arguments) -> Tensor:
        x = a.real("x")
        return function(x, a.axes(x.dim()), a.flag("keep_dims"))

    return reduce


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep)
    return x


def _place(function: Callable[..., Tensor]) -> Operation:
    return lambda a: function(a.real("x"), a.integer("axis", -1), a.flag("keep_dims"))


def cumsum(a: Arguments) -> Tensor:
    x, axis = a.real("x"), a.integer("axis", 0)
    x = x.flip(axis) if a.flag("reverse") else x
    total = x.cumsum(axis)
    total = total - x if a.flag("exclusive") else total
    return total.flip(axis) if a.flag("reverse") else total


def matmul(a: Arguments) -> Tensor:
    x, y = a.real("x"), a.real("y")
    x = x.transpose(-1, -2) if a.flag("transpose_x") else x
    y = y.transpose(-1, -2) if a.flag("transpose_y") else y
    return x @ y


def topk(a: Arguments) -> tuple[Tensor, ...]:
    return tuple(torch.topk(a.real("x"), a.integer("k", 1), a.integer("axis", -1), largest=not a.flag("ascending")))


def argsort(a: Arguments) -> Tensor:
    return torch.argsort(a.real("x"), dim=a.integer("axis", -1), descending=not a.flag("ascending"), stable=True)


OPERATIONS: dict[str, Operation] = {
    "reduce_sum": _reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "reduce_mean": _reduction(lambda x, axes, keep: x.double().mean(axes, keep)),
    "reduce_max": _reduction(lambda x, axes, keep: x.amax(axes, keep)),
    "reduce_min": _reduction(lambda x, axes, keep: x.amin(axes, keep)),
    "reduce_prod": _reduction(_product),
    "reduce_sum_square": _reduction(lambda x, axes, keep: x.square().sum(axes, keep)),
    "reduce_l1_norm": _reduction(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "reduce_l2_norm": _reduction(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "reduce_log_sum": _reduction(lambda x, axes, keep: x.sum(axes, keep).log()),
    "reduce_log_sum_exp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "reduce_argmax": _place(torch.argmax),
    "reduce_argmin": _place(torch.argmin),
    "softmax": lambda a: a.real("x").softmax(a.integer("axis", -1)),
    "cumsum": cumsum,
    "matmul": matmul,
    "einsum": lambda a: torch.einsum(a.text("equation"), *(value.double() for value in a.list("values"))),
    "topk": topk,
    "argsort": argsort,
}
