"""Operations on single values: functions, activations, arithmetic, comparisons."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edge_hands.export_targets.mil_reference.arguments import Arguments

Operation = Callable[[Arguments], Tensor]


def _unary(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda a: function(a.real("x"))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return lambda a: function(a.real("x"), a.real("y"))


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """Whole numbers divide towards zero."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _by_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(1, -1, *[1] * (x.dim() - 2))


def softplus_parametric(a: Arguments) -> Tensor:
    x = a.real("x")
    return _by_channel(a.real("alpha"), x) * functional.softplus(x * _by_channel(a.real("beta"), x))


def prelu(a: Arguments) -> Tensor:
    x = a.real("x")
    return torch.where(x >= 0, x, x * _by_channel(a.real("alpha"), x))


def gelu(a: Arguments) -> Tensor:
    """EXACT, its tanh form, or x sigmoid(1.702 x)."""
    x, mode = a.real("x"), a.text("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


OPERATIONS: dict[str, Operation] = {
    **{
        name: _unary(getattr(torch, name))
        for name in (
            "abs acos asin atan atanh ceil cos cosh erf exp exp2 floor logical_not relu round sigmoid sign sin sinh "
            "sqrt square tan tanh"
        ).split()
    },
    **{name: _unary(getattr(functional, name)) for name in ("relu6", "silu", "softplus", "softsign")},
    "identity": lambda a: a.value("x"),
    "log": lambda a: torch.log(a.real("x") + a.number("epsilon", 1e-45)),
    "rsqrt": lambda a: torch.rsqrt(a.real("x") + a.number("epsilon", 1e-12)),
    "inverse": lambda a: 1.0 / (a.real("x") + a.number("epsilon", 1e-4)),
    "clip": lambda a: a.real("x").clamp(a.number("alpha"), a.number("beta")),
    "threshold": lambda a: a.real("x").clamp(min=a.number("alpha")),
    "elu": lambda a: functional.elu(a.real("x"), a.number("alpha")),
    "leaky_relu": lambda a: functional.leaky_relu(a.real("x"), a.number("alpha")),
    "linear_activation": lambda a: a.number("alpha") * a.real("x") + a.number("beta"),
    "scaled_tanh": lambda a: a.number("alpha") * torch.tanh(a.real("x") * a.number("beta")),
    "sigmoid_hard": lambda a: (a.real("x") * a.number("alpha") + a.number("beta")).clamp(0.0, 1.0),
    "thresholded_relu": lambda a: torch.where(a.real("x") >= a.number("alpha"), a.real("x"), 0.0),
    "softplus_parametric": softplus_parametric,
    "prelu": prelu,
    "gelu": gelu,
    "cast": lambda a: a.value("x"),  # the declared type of the result is the cast
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(_divide),
    "floor_div": _binary(torch.floor_divide),
    "mod": _binary(torch.remainder),
    "pow": _binary(torch.pow),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "equal": _binary(torch.eq),
    "not_equal": _binary(torch.ne),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "logical_and": _binary(torch.logical_and),
    "logical_or": _binary(torch.logical_or),
    "logical_xor": _binary(torch.logical_xor),
    "select": lambda a: torch.where(a.value("cond").bool(), a.real("a"), a.real("b")),
}
