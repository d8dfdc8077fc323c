"""The TFLite delegate: where its library is, and the option bytes of the custom ops that it runs.

``kernels/tflite/`` holds its source. A TFLite interpreter loads the library by its path; the ops are
``edge_hands.selective_scan`` (x, delta, A, B, C, D) and ``edge_hands.deformable_scan`` (x, offset, weight, delta, A,
B, C, D), with the shapes of the functions in ``edge_hands.kernels``.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from pathlib import Path

from edge_hands.kernels import _native

SELECTIVE_SCAN = "edge_hands.selective_scan"
DEFORMABLE_SCAN = "edge_hands.deformable_scan"

_LIBRARY = "libedge_hands_tflite.so"
#: version, height, width, points; kernels/tflite/options.h describes them.
_OPTIONS = struct.Struct("<4i")
_VERSION = 1


@cache
def delegate_path() -> Path | None:
    """The library beside the native kernels, or None where it was not built or the system cannot load it."""
    path = Path(_native.__file__).with_name(_LIBRARY)
    try:
        found = hasattr(ctypes.CDLL(str(path)), "tflite_plugin_create_delegate")
    except OSError:
        return None
    return path if found else None


def options(height: int = 0, width: int = 0, points: int = 0) -> bytes:
    """Option bytes of a custom op: the image's size in tokens and the points of a group; all 0 for a selective scan.

    Raises ValueError for numbers that do not fit.
    """
    try:
        return _OPTIONS.pack(_VERSION, height, width, points)
    except struct.error as error:
        raise ValueError(
            f"height, width, points: {height}, {width}, {points} do not fit in 32 bits: {error}."
        ) from error
