"""Portable forms of the scan ops: built-in operations only, batch 1, exact, no loop over tokens.

* ``deform``: a bilinear weight is a product of two hats, relu(1 - |y - i|) relu(1 - |x - j|), so sampling is a matrix
  product with an (L, L) matrix per group. Any delegate can take it; it suits maps up to 16 x 16.
* ``scan``: the sequence as ``chunks`` x ``steps``: ``steps`` sequential updates across all chunks at once, then
  ``chunks`` carries. No division and no positive exponent, so it is stable for every input.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch

from edge_hands.kernels import torch_ops  # noqa: F401  (registers torch.ops.edge_hands)
from edge_hands.quantization.qat import QuantizedModel

_LOG1P_DEGREE = 8


def selective_scan(
    x: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
) -> torch.Tensor:
    """``edge_hands::selective_scan`` for batch 1; shapes as the op's."""
    return _scan(x, delta, A, B, C) + x * D


def deformable_scan(
    x: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    height: int,
    width: int,
    points: int = 9,
) -> torch.Tensor:
    """``edge_hands::deformable_scan`` for batch 1 and n x n points, n odd; shapes as the op's."""
    return _scan(_deform(x, offset, weight, height, width, points), delta, A, B, C) + x * D


def _softplus(x: torch.Tensor) -> torch.Tensor:
    """relu(x) + log(1 + e), e = exp(-|x|), as a polynomial times e: 1 + e loses most digits of a small e, as of a step
    size of 0.001, and each runtime's logarithm others. No select: converters would give it one scale with neighbours.
    """
    e = torch.exp(-torch.abs(x))
    *rest, value = (float(part) for part in log1p_over(_LOG1P_DEGREE))
    for part in reversed(rest):
        value = value * e + part
    return torch.relu(x) + value * e


def log1p_over(degree: int) -> np.ndarray:
    """Coefficients, lowest first, of log(1 + e) / e on [0, 1]: degree 7 is within 2e-7 of it, 8 within 4e-8."""
    nodes = 0.5 + 0.5 * np.cos((np.arange(400) + 0.5) * np.pi / 400)
    fit = np.polynomial.Chebyshev.fit(nodes, np.log1p(nodes) / nodes, degree, domain=[0, 1])
    return fit.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef


def _ramp(count: int) -> torch.Tensor:
    """0.0, 1.0, ... as an integer range cast: a float range does not convert."""
    return torch.arange(count).to(torch.float32)


def _deform(
    x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, height: int, width: int, points: int
) -> torch.Tensor:
    """sum_k w_k x(p + a_k + o_k): x (1, L, D) -> (1, L, D)."""
    length, channels = x.shape[1:]
    groups, side = weight.shape[-1] // points, math.isqrt(points)
    anchor = _ramp(side) - float(side // 2)
    rows = _ramp(height).reshape(height, 1, 1, 1) + anchor.reshape(side, 1)
    columns = _ramp(width).reshape(width, 1, 1) + anchor.reshape(1, side)
    base_y = rows.expand(height, width, side, side).reshape(length, 1, points)
    base_x = columns.expand(height, width, side, side).reshape(length, 1, points)
    pairs = offset.reshape(length, groups, points, 2)
    y, z = pairs[..., 0] + base_y, pairs[..., 1] + base_x  # (L, G, K)
    hat_y = torch.relu(1.0 - torch.abs(y.unsqueeze(-1) - _ramp(height))) * weight.reshape(length, groups, points, 1)
    hat_x = torch.relu(1.0 - torch.abs(z.unsqueeze(-1) - _ramp(width)))
    matrix = torch.matmul(hat_y.transpose(2, 3), hat_x)  # (L, G, H, W)
    matrix = matrix.reshape(length, groups, length).transpose(0, 1)  # (G, L, L)
    values = x.reshape(length, groups, channels // groups).transpose(0, 1)  # (G, L, D / G)
    return torch.matmul(matrix, values).transpose(0, 1).reshape(1, length, channels)


def _scan(x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
    """sum_n C h with h(t) = exp(dt A) h(t-1) + dt B x: (1, L, D) -> (1, L, D), without the D x term."""
    length, channels = x.shape[1:]
    steps = near_root(length)
    chunks = length // steps

    def by_step(value: torch.Tensor) -> torch.Tensor:  # (1, L, c) -> (T, G, c): a step of all chunks is contiguous
        return value.reshape(chunks, steps, -1).transpose(0, 1)

    dt, value = by_step(_softplus(delta)), by_step(x)
    decay = torch.exp(dt.unsqueeze(2) * A.t())  # (T, G, N, D)
    inflow = (dt * value).unsqueeze(2) * by_step(B).unsqueeze(3)
    states, products = [inflow[0]], [decay[0]]
    for step in range(1, steps):
        states.append(decay[step] * states[-1] + inflow[step])
        products.append(decay[step] * products[-1])
    carry = torch.zeros_like(states[0][0])
    carries = [carry]
    for chunk in range(chunks - 1):
        carry = products[-1][chunk] * carry + states[-1][chunk]
        carries.append(carry)
    whole = torch.stack(states) + torch.stack(products) * torch.stack(carries)
    y = (whole * by_step(C).unsqueeze(3)).sum(2)  # (T, G, D)
    return y.transpose(0, 1).reshape(1, length, channels)


def near_root(length: int) -> int:
    """The divisor of ``length`` nearest to its root: operations grow with steps, memory with chunks."""
    return min((d for d in range(1, length + 1) if length % d == 0), key=lambda d: abs(math.log(d * d / length)))


def in_graph(model: QuantizedModel) -> QuantizedModel:
    """A copy of a converted model, for batch 1, that computes its scans in their portable forms, sum for sum."""
    model = copy.deepcopy(model)
    for node in model.body.graph.nodes:
        node.target = FORMS.get(node.target, node.target)
    model.body.recompile()
    return model


#: By operator, for decompositions: ``torch.export``'s and the converters' own.
FORMS = {
    torch.ops.edge_hands.selective_scan.default: selective_scan,
    torch.ops.edge_hands.deformable_scan.default: deformable_scan,
}
