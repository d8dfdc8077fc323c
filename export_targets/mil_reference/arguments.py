"""What an operation is given: its arguments by name, as tensors or as plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: An argument is a tensor, a text, or a list of those.
Value = Any


def constant(value: Any) -> Value:
    """A value of a MIL constant as coremltools holds it -> text, tensor, or a list of them."""
    if isinstance(value, (str, bytes)):
        return value if isinstance(value, str) else value.decode()
    if isinstance(value, (list, tuple)):
        return [constant(item) for item in value]
    array = np.asarray(value)
    if array.dtype.kind in "US":
        return [str(item) for item in array.ravel()] if array.ndim else str(array)
    wider = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64}  # torch computes little with unsigned ones
    return torch.from_numpy(np.array(array, dtype=wider.get(array.dtype, array.dtype.type)))


class Arguments:
    """Arguments of one operation. An argument that is absent or None counts as left out."""

    def __init__(self, values: Mapping[str, Value], result_shape: tuple[int, ...] | None = None) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        #: Shape of the first result as the program declares it; None where it is not fixed.
        self.result_shape = result_shape

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def value(self, name: str) -> Tensor:
        """A tensor of its own type. KeyError when left out."""
        return self._values[name]

    def real(self, name: str) -> Tensor:
        """The same with floating-point values widened to float64, as arithmetic wants them."""
        return widened(self._values[name])

    def optional(self, name: str) -> Tensor | None:
        """``real``, or None when left out."""
        return self.real(name) if name in self else None

    def list(self, name: str) -> list[Tensor]:
        """The tensors of an argument that takes several."""
        return list(self._values[name])

    def number(self, name: str, default: float | None = None) -> Any:
        """One number, of its own kind. KeyError when left out without a default."""
        if name not in self and default is not None:
            return default
        return self._values[name].reshape(-1)[0].item()

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self.number(name, default))

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self._values[name].reshape(-1)[0].item()) if name in self else default

    def text(self, name: str, default: str | None = None) -> str:
        if name not in self and default is not None:
            return default
        return self._values[name]

    def integers(self, name: str, default: list[int] | None = None) -> list[int]:
        """A list of whole numbers. KeyError when left out without a default."""
        if name not in self and default is not None:
            return default
        return [int(item) for item in self._values[name].reshape(-1).tolist()]

    def axes(self, rank: int, name: str = "axes") -> list[int]:
        """Axes counted from the front; all of them when left out."""
        return [axis % rank for axis in self.integers(name, list(range(rank)))]


def widened(tensor: Tensor) -> Tensor:
    """float64 of a floating-point tensor; others as they are."""
    return tensor.double() if tensor.is_floating_point() else tensor
