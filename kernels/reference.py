"""The scans in plain numpy, one line per formula: the oracle of the native kernels.

Same signatures as ``edge_hands.kernels`` but for threads and isa; the arithmetic is done in the dtype of delta, so
float64 inputs give a float64 oracle.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from edge_hands.kernels.checks import Quantization, check_deform, check_scan


def softplus(v: np.ndarray) -> np.ndarray:
    """log(1 + e^v), elementwise."""
    return np.logaddexp(np.zeros((), v.dtype), v)


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
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """x, delta (B, L, D); A (D, N); B, C (B, L, N); D (D,); state (B, D, N) -> y (B, L, D), and the last state."""
    check_scan({"x": x.shape, "delta": delta.shape, "A": A.shape, "B": B.shape, "C": C.shape, "D": D.shape})
    y, last = _scan(x, delta, A, B, C, state)
    return (y + D * x, last) if return_state else y + D * x


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
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """``selective_scan`` over the deformed x; offset (B, L, G·K·2), weight (B, L, G·K)."""
    shapes = {"x": x, "offset": offset, "weight": weight, "delta": delta, "A": A, "B": B, "C": C, "D": D}
    shapes = {name: a.shape for name, a in shapes.items()}
    check_scan(shapes)
    check_deform(shapes, height, width, points)
    y, last = _scan(deform(x, offset, weight, height, width, points), delta, A, B, C, state)
    return (y + D * x, last) if return_state else y + D * x


def selective_scan_int8(
    x: np.ndarray, x_quantization: Quantization, *arrays: np.ndarray, state: np.ndarray | None = None
) -> np.ndarray:
    """``selective_scan`` from int8 x to int8 y; arrays are delta, A, B, C, D, and the last is y's quantisation."""
    *arrays, y_quantization = arrays
    y = selective_scan(dequantize(x, x_quantization, arrays[0].dtype), *arrays, state=state)
    return quantize(y, y_quantization)


def deformable_scan_int8(
    x: np.ndarray, x_quantization: Quantization, *arguments, state: np.ndarray | None = None
) -> np.ndarray:
    """``deformable_scan`` from int8 x to int8 y; arguments are its own from offset on, and y's quantisation."""
    *arguments, y_quantization = arguments
    y = deformable_scan(dequantize(x, x_quantization, arguments[0].dtype), *arguments, state=state)
    return quantize(y, y_quantization)


def dequantize(q: np.ndarray, quantization: Quantization, dtype: np.dtype) -> np.ndarray:
    """int8 -> scale · (q - zero_point)."""
    scale, zero_point = quantization
    return dtype.type(scale) * (q.astype(dtype) - dtype.type(zero_point))


def quantize(values: np.ndarray, quantization: Quantization) -> np.ndarray:
    """Nearest int8 of scale · (q - zero_point), halves to even, saturated."""
    scale, zero_point = quantization
    return np.clip(np.rint(values / scale) + zero_point, -128, 127).astype(np.int8)


def deform(
    x: np.ndarray, offset: np.ndarray, weight: np.ndarray, height: int, width: int, points: int = 9
) -> np.ndarray:
    """Σ_k w_k x(p_t + a_k + o_k), bilinear, zero outside -> (B, L, D)."""
    batch, length, channels = x.shape
    groups = weight.shape[-1] // points
    offset = offset.reshape(batch, length, groups, points, 2)
    weight = weight.reshape(batch, length, groups, points)
    image = x.reshape(batch, length, groups, channels // groups)
    tokens = np.arange(length)
    rows = (tokens // max(width, 1))[None, :, None, None] + anchors(points)[:, 0] + offset[..., 0]
    columns = (tokens % max(width, 1))[None, :, None, None] + anchors(points)[:, 1] + offset[..., 1]
    top, left = np.floor(rows), np.floor(columns)
    batches, group = np.arange(batch)[:, None, None, None], np.arange(groups)[None, None, :, None]
    out = np.zeros_like(image)
    for below in (0, 1):
        for right in (0, 1):
            row, column = top + below, left + right
            factor = weight * (1 - np.abs(rows - row)) * (1 - np.abs(columns - column))
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = np.where(inside, row * width + column, 0).astype(np.int64)
            out += np.einsum("blgk,blgkc->blgc", np.where(inside, factor, 0), image[batches, index, group])
    return out.reshape(x.shape)


def anchors(points: int) -> np.ndarray:
    """(K, 2) anchors (dy, dx), the √K x √K grid around 0, row-major."""
    n = isqrt(points)
    axis = np.arange(n) - n // 2
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def _scan(
    s: np.ndarray, delta: np.ndarray, A: np.ndarray, B: np.ndarray, C: np.ndarray, state: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    dt = softplus(delta)
    h = np.zeros((s.shape[0], *A.shape), s.dtype) if state is None else state
    y = np.zeros_like(s)
    for t in range(s.shape[1]):
        h = np.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * s[:, t])[..., None] * B[:, t, None, :]
        y[:, t] = (h * C[:, t, None, :]).sum(-1)
    return y, h
