"""Models by name. A variant is a function that returns a frozen config; a config knows how to build its network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import nn

from edge_hands.errors import DataError

_VARIANTS: dict[str, Callable[[], object]] = {}


def register(variant: Callable[[], object]) -> Callable[[], object]:
    """Decorator: the function's name becomes the model's name."""
    _VARIANTS[variant.__name__] = variant
    return variant


def list_models(kind: str | None = None) -> list[str]:
    """Names of all models, or those of a ``kind`` ("landmarks", "detector")."""
    return sorted(name for name, variant in _VARIANTS.items() if kind in (None, variant().kind))


def config_of(name: str, **overrides):
    """The frozen config of a variant. Overrides may be lists where fields are tuples (they may come from JSON).

    Raises DataError for an unknown model or field.
    """
    if name not in _VARIANTS:
        raise DataError(f"no model is called {name!r}; there are {', '.join(list_models())}")
    config = _VARIANTS[name]()
    known = {field.name for field in fields(config)}
    if unknown := sorted(set(overrides) - known):
        raise DataError(f"{name} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return replace(config, **{key: tuple(v) if isinstance(v, list) else v for key, v in overrides.items()})


def create(name: str, **overrides) -> nn.Module:
    """A freshly initialised model in channels-last memory, with ``.name``, ``.kind`` and ``.config``."""
    model = config_of(name, **overrides).build()
    model.name = name
    return model.to(memory_format=torch.channels_last)
