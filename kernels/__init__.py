"""Selective and deformable scans on arrays of numpy, or of others through DLPack: native kernels for the CPU at hand.

Glossary: B batch, L tokens, D channels, N states, G groups of channels, K sampling points of a group. Arrays are
C-contiguous, channels last, and float32 but for the x and y of the ``_int8`` forms. The mathematics, and what becomes
of NaN, infinity and denormal numbers, stand in ``kernels/include/edge_hands/scan.h``; ``kernels.reference`` is
the same in plain numpy, ``edge_hands.kernels.torch_ops`` the torch operators. The environment variable
``EDGE_HANDS_ISA`` forces a row for the whole process, ``isa=`` for one call.

All scans take ``state`` (B, D, N), the h before the first token (default: zeros), and with ``return_state`` return
(y, state after the last token): a sequence in pieces gives what it gives whole. They raise TypeError or ValueError that
names the argument of wrong type, dtype, layout, shape or value.
"""

from __future__ import annotations

import numpy as np

from edge_hands.kernels import _native
from edge_hands.kernels.checks import Quantization, check_deform, check_quantization, check_scan, check_threads

__all__ = [
    "Quantization",
    "deformable_scan",
    "deformable_scan_int8",
    "isa",
    "rows",
    "selective_scan",
    "selective_scan_int8",
]

Result = np.ndarray | tuple[np.ndarray, np.ndarray]


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
    state: np.ndarray | None = None,
    return_state: bool = False,
    threads: int = 1,
    isa: str | None = None,
) -> Result:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t, y_t = C_t h_t + D x_t with Δ = softplus(delta).

    x, delta (B, L, D); A (D, N); B, C (B, L, N); D (D,); -> y (B, L, D).
    """
    arrays = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D}
    return _run(arrays, None, None, (0, 0, 0), state, return_state, threads, isa)


def selective_scan_int8(
    x: np.ndarray,
    x_quantization: Quantization,
    delta: np.ndarray,
    A: np.ndarray,
    B: np.ndarray,
    C: np.ndarray,
    D: np.ndarray,
    y_quantization: Quantization,
    *,
    state: np.ndarray | None = None,
    return_state: bool = False,
    threads: int = 1,
    isa: str | None = None,
) -> Result:
    """``selective_scan`` from int8 x to int8 y, each scale · (q - zero_point); the arithmetic stays float32."""
    arrays = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D}
    return _run(arrays, x_quantization, y_quantization, (0, 0, 0), state, return_state, threads, isa)


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
    state: np.ndarray | None = None,
    return_state: bool = False,
    threads: int = 1,
    isa: str | None = None,
) -> Result:
    """The selective scan with Σ_k w_k x(p_t + a_k + o_k) as its input, and the un-deformed x for D.

    offset (B, L, G·K·2): per group and point (dy, dx) in pixels; weight (B, L, G·K); K = ``points``, whose anchors are
    the √K x √K grid around the token, row-major. Samples are bilinear and zero outside the height x width image.
    """
    arrays = {"x": x, "offset": offset, "weight": weight, "delta": delta, "A": A, "B": B, "C": C, "D": D}
    return _run(arrays, None, None, (height, width, points), state, return_state, threads, isa)


def deformable_scan_int8(
    x: np.ndarray,
    x_quantization: Quantization,
    offset: np.ndarray,
    weight: np.ndarray,
    delta: np.ndarray,
    A: np.ndarray,
    B: np.ndarray,
    C: np.ndarray,
    D: np.ndarray,
    height: int,
    width: int,
    points: int,
    y_quantization: Quantization,
    *,
    state: np.ndarray | None = None,
    return_state: bool = False,
    threads: int = 1,
    isa: str | None = None,
) -> Result:
    """``deformable_scan`` from int8 x to int8 y, each scale · (q - zero_point); the arithmetic stays float32."""
    arrays = {"x": x, "offset": offset, "weight": weight, "delta": delta, "A": A, "B": B, "C": C, "D": D}
    sizes = (height, width, points)
    return _run(arrays, x_quantization, y_quantization, sizes, state, return_state, threads, isa)


#: DLPack's number for memory of the CPU.
_DLPACK_CPU = 1
#: The quantisation of what is float32.
_NONE = Quantization(1.0, 0)


def _run(
    arrays: dict[str, np.ndarray],
    x_quantization: Quantization | None,
    y_quantization: Quantization | None,
    sizes: tuple[int, int, int],
    state: np.ndarray | None,
    return_state: bool,
    threads: int,
    isa: str | None,
) -> Result:
    """Any of the scans: deformable when ``arrays`` has an offset, int8 when there are quantisations."""
    int8 = y_quantization is not None
    arrays = {n: _checked(n, a, np.int8 if int8 and n == "x" else np.float32) for n, a in arrays.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    check_scan(shapes)
    if "offset" in arrays:
        for name, value in zip(("height", "width", "points"), sizes, strict=True):
            if not isinstance(value, int):
                raise TypeError(f"{name}: expected a whole number, found {value!r}.")
        check_deform(shapes, *sizes)
    if int8:
        check_quantization("x_quantization", x_quantization)
        check_quantization("y_quantization", y_quantization)
    x, A = arrays["x"], arrays["A"]
    batch, _, channels = x.shape
    if state is not None:
        state = _checked("state", state, np.float32)
        if state.shape != (batch, *A.shape):
            raise ValueError(f"state: expected shape {(batch, *A.shape)}, found {state.shape}.")
    y = np.empty_like(x)
    last = np.empty((batch, *A.shape), np.float32) if return_state else None
    _native.forward(
        isa or "",
        x,
        tuple(x_quantization or _NONE),
        arrays.get("offset"),
        arrays.get("weight"),
        *(arrays[name] for name in ("delta", "A", "B", "C", "D")),
        *sizes,
        state,
        y,
        tuple(y_quantization or _NONE),
        last,
        check_threads(threads),
    )
    return y if last is None else (y, last)


def _checked(name: str, array: np.ndarray, dtype: type) -> np.ndarray:
    """The array itself, or a view of what speaks DLPack; TypeError or ValueError when the kernels cannot read it."""
    if not isinstance(array, np.ndarray):
        if not hasattr(array, "__dlpack__"):
            raise TypeError(f"{name}: expected a numpy array or one that speaks DLPack, found {type(array).__name__}.")
        if array.__dlpack_device__()[0] != _DLPACK_CPU:
            raise TypeError(f"{name}: expected an array in the memory of the CPU, found one of another device.")
        array = np.from_dlpack(array)
    if array.dtype != dtype:
        wanted = np.dtype(dtype).name
        raise TypeError(f"{name}: expected dtype {wanted}, found {array.dtype}. Convert it with astype(np.{wanted}).")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: expected a C-contiguous array, found strides {array.strides}. Use np.ascontiguousarray."
        )
    return array
