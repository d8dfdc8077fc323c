"""Pickles of other people read without running anything that they ask for.

A pickle may call any function of any module. Here it can name those few only that numpy's arrays are made of, and gets
stand-ins for them: inert holders whose contents are checked and turned into plain arrays afterwards.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from edge_hands.errors import DataError

#: Plain numbers and text; "object" and structures are what damage hides in.
_DTYPE = re.compile(r"[biufcSU][0-9]{1,6}")
_MAX_DEPTH = 50


class _DType:
    """Stands for numpy.dtype(name, align, copy); its state is (version, byte order, ...)."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name, self.order = name, "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]
        if any(part is not None for part in state[2:5]):  # subarrays, names, fields
            raise DataError("it has a structured array")

    def real(self) -> np.dtype:
        if not (isinstance(self.name, str) and _DTYPE.fullmatch(self.name) and self.order in ("<", ">", "|", "=")):
            raise DataError(f"it has an array of type {str(self.name)[:40]!r}")
        return np.dtype(self.name).newbyteorder(self.order)


class _Array:
    """Stands for an array: made empty, then given (version, shape, dtype, Fortran order, bytes)."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def real(self) -> np.ndarray:
        _, shape, dtype, fortran, data = self.state
        if not isinstance(dtype, _DType) or not isinstance(data, bytes):
            raise DataError("it has an array that is not of numbers")
        return np.frombuffer(data, dtype.real()).reshape(shape, order="F" if fortran else "C").copy()


class _Buffer(_Array):
    """Stands for numpy.core.numeric._frombuffer(bytes, dtype, shape, order), as arrays are in pickles of protocol 5."""

    def __init__(self, data: Any = b"", dtype: Any = None, shape: Any = (), order: Any = "C", axes: Any = None) -> None:
        if axes is not None or order not in ("C", "F"):
            raise DataError("it has an array of another order than C and Fortran's")
        self.state = (1, shape, dtype, order == "F", bytes(data) if isinstance(data, bytearray) else data)


class _Scalar:
    """Stands for numpy.core.multiarray.scalar(dtype, bytes)."""

    def __init__(self, dtype: Any = None, data: Any = b"") -> None:
        self.dtype, self.data = dtype, data

    def real(self) -> Any:
        if not isinstance(self.dtype, _DType) or not isinstance(self.data, bytes):
            raise DataError("it has a number that is none")
        return np.frombuffer(self.data, self.dtype.real(), 1)[0]


class _Bytes(bytes):
    """Stands for _codecs.encode(text, "latin1"), how old pickles hold bytes, and for bytes(), which are none."""

    def __new__(cls, text: Any = "", encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise DataError("it has bytes in an encoding that is not latin1")
        return text.encode("latin1")


class _Name:
    """Stands for numpy.ndarray, which is an argument only."""


_KNOWN = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Name,
    ("_codecs", "encode"): _Bytes,
    ("builtins", "bytes"): _Bytes,
    ("__builtin__", "bytes"): _Bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Buffer for core in ("core", "_core")},
}


class _Unpickler(pickle._Unpickler):  # the one in Python: a memo of 2^31 entries is one entry to it
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise DataError(f"it asks for {module}.{name}, which is no part of an array") from None


def load(path: Path) -> Any:
    """Dicts, lists, tuples, numbers, text, bytes, None and numpy arrays of a pickle file.

    Raises DataError when it cannot be read, is damaged, or holds or asks for anything else.
    """
    try:
        with open(path, "rb") as file:
            return _real(_Unpickler(file, encoding="latin1").load(), 0)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); is the data set unpacked whole?") from error
    except DataError as error:
        raise DataError(f"{path} is refused: {error}; fetch it from the owners again") from error
    except Exception as error:  # a hostile or torn pickle may fail in any way
        raise DataError(f"{path} is no pickle of arrays and numbers ({error!r}); fetch it again") from error


def _real(value: Any, depth: int) -> Any:
    """The value with arrays for stand-ins."""
    if depth > _MAX_DEPTH:
        raise DataError("it is nested without end")
    if isinstance(value, _Array | _Scalar):
        return value.real()
    if isinstance(value, dict):
        return {_real(key, depth + 1): _real(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_real(entry, depth + 1) for entry in value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    raise DataError(f"it holds a {type(value).__name__.lstrip('_')}")
