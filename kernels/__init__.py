"""Selective and deformable scans on numpy arrays: native kernels, chosen for the CPU at run time.

Glossary: B batch, L tokens, D channels, N states, G groups of channels, K sampling points of a group. Arrays are
float32, C-contiguous, channels last. ``kernels/include/edge_hands/scan.h`` states the mathematics;
``edge_hands.kernels.reference`` is the same in plain numpy, ``edge_hands.kernels.torch_ops`` the torch operators.
The environment variable ``EDGE_HANDS_ISA`` forces a row for the whole process, ``isa=`` for one call.
"""

from __future__ import annotations

import numpy as np

from edge_hands.kernels import _native
from edge_hands.kernels.checks import check_deform, check_scan, check_threads

__all__ = ["deformable_scan", "isa", "rows", "selective_scan"]


def isa() -> str:
    """Name of the row in use, e.g. "avx2". Raises ValueError when EDGE_HANDS_ISA names none that this CPU can run."""
    return _native.isa()


def rows() -> tuple[str, ...]:
    """Names of all rows that this CPU can run, slowest first."""
    return tuple(_native.rows())


def selective_scan(
    x: np.ndarray,
    delta: np.ndarray,
    A: np.ndarray,
    B: np.ndarray,
    C: np.ndarray,
    D: np.ndarray,
    *,
    threads: int = 1,
    isa: str | None = None,
) -> np.ndarray:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t, y_t = C_t h_t + D x_t with Δ = softplus(delta).

    x, delta (B, L, D); A (D, N); B, C (B, L, N); D (D,); -> y (B, L, D).
    Raises TypeError or ValueError that names the argument of wrong type, dtype, layout, shape or with values that are
    not finite.
    """
    arrays = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D}
    _check_arrays(arrays)
    check_scan({name: a.shape for name, a in arrays.items()})
    y = np.empty_like(x)
    _native.forward(isa or "", x, None, None, delta, A, B, C, D, 0, 0, 0, y, check_threads(threads))
    return y


def deformable_scan(
    x: np.ndarray,
    offset: np.ndarray,
    weight: np.ndarray,
    delta: np.ndarray,
    A: np.ndarray,
    B: np.ndarray,
    C: np.ndarray,
    D: np.ndarray,
    height: int,
    width: int,
    points: int = 9,
    *,
    threads: int = 1,
    isa: str | None = None,
) -> np.ndarray:
    """The selective scan with Σ_k w_k x(p_t + a_k + o_k) as its input, and the un-deformed x for D.

    offset (B, L, G·K·2): per group and point (dy, dx) in pixels; weight (B, L, G·K); K = ``points``, whose anchors are
    the √K x √K grid around the token, row-major. Samples are bilinear and zero outside the height x width image.
    The rest, the result and the errors are those of ``selective_scan``.
    """
    arrays = {"x": x, "offset": offset, "weight": weight, "delta": delta, "A": A, "B": B, "C": C, "D": D}
    _check_arrays(arrays)
    for name, value in (("height", height), ("width", width), ("points", points)):
        if not isinstance(value, int):
            raise TypeError(f"{name}: expected a whole number, found {value!r}.")
    shapes = {name: a.shape for name, a in arrays.items()}
    check_scan(shapes)
    check_deform(shapes, height, width, points)
    y = np.empty_like(x)
    _native.forward(isa or "", x, offset, weight, delta, A, B, C, D, height, width, points, y, check_threads(threads))
    return y


def _check_arrays(arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name}: expected a numpy array, found {type(array).__name__}.")
        if array.dtype != np.float32:
            raise TypeError(f"{name}: expected dtype float32, found {array.dtype}. Convert it with astype(np.float32).")
        if not array.flags.c_contiguous:
            raise ValueError(
                f"{name}: expected a C-contiguous array, found strides {array.strides}. Use np.ascontiguousarray."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite values, found NaN or infinity.")
