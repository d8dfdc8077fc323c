"""The custom ops for onnxruntime: where their library is. ``kernels/onnx/`` holds its source.

A session registers the library by its path and then runs two ops of the domain ``edge_hands``, with the shapes of the
functions in ``edge_hands.kernels``: ``SelectiveScan`` (x, delta, A, B, C, D) and ``DeformableScan`` (x, offset, weight,
delta, A, B, C, D; attributes height, width, points).
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from edge_hands.kernels import _native

DOMAIN = "edge_hands"

_LIBRARY = "libedge_hands_onnx.so"


@cache
def library_path() -> Path | None:
    """The library beside the native kernels, or None where it was not built or the system cannot load it."""
    path = Path(_native.__file__).with_name(_LIBRARY)
    try:
        found = hasattr(ctypes.CDLL(str(path)), "RegisterCustomOps")
    except OSError:
        return None
    return path if found else None
