"""Portable forms of the scan ops: built-in operations only, batch 1, no loop over tokens, the same bits everywhere.

* ``deform``: a bilinear weight is a product of two hats, relu(1 - |y - i|) relu(1 - |x - j|), so sampling is a matrix
  product with an (L, L) matrix per group. Any delegate can take it; it suits maps up to 16 x 16.
* ``scan``: the sequence as ``chunks`` x ``steps``: ``steps`` sequential updates across all chunks at once, then
  ``chunks`` carries. Nothing is divided by a product of decays, so it is stable for every input.
* No exponential, no root as a runtime rounds it: products, sums and quotients, whose bits IEEE 754 decides.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch.fx import GraphModule

from edge_hands.kernels import torch_ops  # noqa: F401  (registers torch.ops.edge_hands)
from edge_hands.quantization.qat import QuantizedModel

_LOG1P_DEGREE = 8
#: Where the step size of a negative x is as good as 0: exp(-20) is 2e-9.
_FLAT = 20.0


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
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.bmm,
) -> torch.Tensor:
    """``edge_hands::deformable_scan`` for batch 1 and n x n points, n odd; shapes as the op's. ``product``: of batches
    of matrices."""
    return _scan(_deform(x, offset, weight, height, width, points, product), delta, A, B, C) + x * D


def _deformable_scan_in_torch(*inputs: torch.Tensor | int) -> torch.Tensor:
    """``deformable_scan`` with the bits of a runtime: torch adds the products of small matrices in a way of its own."""
    return deformable_scan(*inputs, product=fused_product)


def fused_product(a: torch.Tensor, b: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """(n, r, k) x (n, k, c) -> (n, r, c), float32: ``start`` (r, 1) or 0, then one product after the other, added with
    one rounding each, as XNNPACK does.

    A product of two float32 is exact in float64; a sum is rounded to that first, which almost never decides the rest.
    """
    total = (torch.zeros(1, 1) if start is None else start).expand(a.shape[0], a.shape[1], b.shape[2])
    wide, factors = b.double(), a.double()
    for k in range(a.shape[2]):
        total = torch.addcmul(total.double(), factors[:, :, k : k + 1], wide[:, k : k + 1]).float()
    return total


def _softplus(x: torch.Tensor) -> torch.Tensor:
    """relu(x) + log(1 + e), e = exp(-|x|), as a polynomial times e: 1 + e loses most digits of a small e, as of a step
    size of 0.001, and each runtime's logarithm others. No select: converters would give it one scale with neighbours.

    e comes from the Padé approximant [4/4] of exp(-s), (d - b) / (d + b), at s = |x| / 16, squared four times: its
    error is relative to e, however small, as that of a difference from 1 would not be.
    """
    s = torch.abs(x).clamp(max=_FLAT) * (1 / 16)
    u = s * s
    b = (u * 20.0 + 840.0) * s
    d = (u + 180.0) * u + 1680.0
    e = (d - b) / (d + b)
    for _ in range(4):
        e = e * e
    *rest, value = (float(part) for part in log1p_over(_LOG1P_DEGREE))
    for part in reversed(rest):
        value = value * e + part
    return torch.relu(x) + value * e


def _decay(t: torch.Tensor) -> torch.Tensor:
    """exp(-16 t), t >= 0, within 2e-7: from 1 - exp(-2 t) by the Padé approximant [3/3], thrice doubled by
    1 - (1 - c)^2 = c (2 - c), so that a decay next to 1 keeps the digits of how far it is from 1.

    Products, sums and one quotient: each IEEE operation gives the same bits in every runtime. Exponentials do not, and
    the last bit of one now and then rounds an int8 value to its neighbour.
    """
    t = t.clamp(max=2.32)  # where the approximant of exp(-2 t) goes through 0
    u = t * t
    b = (u + 15.0) * t
    c = b / ((u * 3.0 + 7.5) + b * 0.5)
    for _ in range(3):
        c = c * (2.0 - c)
    return 1.0 - c


def log1p_over(degree: int) -> np.ndarray:
    """Coefficients, lowest first, of log(1 + e) / e on [0, 1]: degree 8 is within 4e-8 of it, 10 within 1e-9."""
    nodes = 0.5 + 0.5 * np.cos((np.arange(400) + 0.5) * np.pi / 400)
    fit = np.polynomial.Chebyshev.fit(nodes, np.log1p(nodes) / nodes, degree, domain=[0, 1])
    return fit.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef


#: What Core ML's files have of it: within 1e-8 with float32 coefficients, 1.5e-9 for a small step size.
CORE_ML_LOG1P = log1p_over(10).astype(np.float32)


def _ramp(count: int) -> torch.Tensor:
    """0.0, 1.0, ... as an integer range cast: a float range does not convert."""
    return torch.arange(count, dtype=torch.int32).to(torch.float32)


def _deform(
    x: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    height: int,
    width: int,
    points: int,
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """sum_k w_k x(p + a_k + o_k): x (1, L, D) -> (1, L, D)."""
    length, channels = x.shape[1:]
    groups, side = weight.shape[-1] // points, math.isqrt(points)
    anchor = _ramp(side) - float(side // 2)
    rows = _ramp(height).reshape(height, 1, 1, 1) + anchor.reshape(side, 1)
    columns = _ramp(width).reshape(width, 1, 1) + anchor.reshape(1, side)
    base_y = rows.expand(height, width, side, side).reshape(length, 1, points, 1)
    base_x = columns.expand(height, width, side, side).reshape(length, 1, points, 1)
    pairs = offset.reshape(length, groups, points, 2)
    y, z = pairs[..., :1] + base_y, pairs[..., 1:] + base_x  # (L, G, K, 1)
    hat_y = torch.relu(1.0 - torch.abs(y - _ramp(height))) * weight.reshape(length, groups, points, 1)
    hat_x = torch.relu(1.0 - torch.abs(z - _ramp(width)))
    hat_y = hat_y.reshape(length * groups, points, height).transpose(1, 2)
    matrix = product(hat_y, hat_x.reshape(length * groups, points, width))  # (L G, H, W)
    matrix = matrix.reshape(length, groups, length).transpose(0, 1)  # (G, L, L)
    values = x.reshape(length, groups, channels // groups).transpose(0, 1)  # (G, L, D / G)
    return product(matrix, values).transpose(0, 1).reshape(1, length, channels)


def _scan(x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
    """sum_n C h with h(t) = exp(dt A) h(t-1) + dt B x: (1, L, D) -> (1, L, D), without the D x term.

    Slices and reshapes only, no selection, no unsqueezing: ExecuTorch's XNNPACK delegate takes the former alone.
    """
    (length, channels), count = x.shape[1:], A.shape[1]
    steps = near_root(length)
    chunks = length // steps

    def by_step(value: torch.Tensor, *rest: int) -> torch.Tensor:  # (1, L, c) -> (T, G, *rest): steps lie together
        turned = value.reshape(chunks, steps, value.shape[2]).transpose(0, 1)
        return turned.reshape(steps, chunks, *rest) if rest else turned

    dt, value = by_step(_softplus(delta)), by_step(x)
    rate = A.t() * (-1 / 16)
    decay = _decay(dt.reshape(steps, chunks, 1, channels) * rate)  # (T, G, N, D)
    inflow = (dt * value).reshape(steps, chunks, 1, channels) * by_step(B, count, 1)
    states, products = [inflow[:1]], [decay[:1]]
    for step in range(1, steps):
        now = decay[step : step + 1]
        states.append(now * states[-1] + inflow[step : step + 1])
        products.append(now * products[-1])
    carries = [torch.zeros(1, 1, count, channels)]
    for chunk in range(chunks - 1):
        here = slice(chunk, chunk + 1)
        carries.append(products[-1][:, here] * carries[-1] + states[-1][:, here])
    whole = torch.cat(states) + torch.cat(products) * torch.cat(carries, 1)
    y = _sum_states(whole * by_step(C, count, 1)).reshape(steps, chunks, channels)
    return y.transpose(0, 1).reshape(1, length, channels)


def _sum_states(value: torch.Tensor) -> torch.Tensor:
    """(T, G, N, D) -> (T, G, 1, D), half of the states added to the other until one is left: each runtime's own sum
    would choose an order."""
    while (count := value.shape[2]) > 1:
        half = count // 2
        added = value[:, :, :half] + value[:, :, half : 2 * half]
        value = torch.cat([added, value[:, :, 2 * half :]], 2) if count % 2 else added
    return value


def near_root(length: int) -> int:
    """The divisor of ``length`` nearest to its root: operations grow with steps, memory with chunks."""
    return min((d for d in range(1, length + 1) if length % d == 0), key=lambda d: abs(math.log(d * d / length)))


def _rsqrt(x: torch.Tensor) -> torch.Tensor:
    """1 / s, s = (r + x / r) / 2, r = sqrt(x), for x > 0. XNNPACK's roots are refined estimates with last bits of their
    own; a step of Heron's gives the same s for each r that is a few bits off, and sums and quotients are exact.

    The 1 is made of x: ExecuTorch's delegate divides tensors, and leaves reciprocals to others."""
    r = torch.sqrt(x)
    return (x * 0.0 + 1.0) / ((r + x / r) * 0.5)


def means_as_layers(graph: GraphModule) -> None:
    """Rewrites a converted graph in place: a mean over channels becomes a 1 x 1 convolution with equal weights, whose
    products XNNPACK adds one by one; the order of its mean depends on the CPU. A number that is added to the mean is
    the bias, which LiteRT's converter would make of it."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.mean.dim):
        x, dims, keep = node.args[0], node.args[1], len(node.args) > 2 and node.args[2]
        if x.meta["val"].dim() != 4 or [dim % 4 for dim in dims] != [1] or not keep:
            continue
        channels, (reader, *others) = x.meta["val"].shape[1], node.users
        added = reader.target is torch.ops.aten.add.Tensor and not others and isinstance(reader.args[1], float)
        tensors = {"weight": torch.full((1, channels, 1, 1), 1.0 / channels)}
        if added:
            tensors["bias"] = torch.full((1,), reader.args[1])
        replaced = reader if added else node
        with graph.graph.inserting_before(node):
            for name, tensor in tensors.items():
                graph.register_buffer(f"{node.name}_{name}", tensor)
            stored = [graph.graph.get_attr(f"{node.name}_{name}") for name in tensors]
            new = graph.graph.call_function(torch.ops.aten.conv2d.default, (x, *stored))
        new.meta.update(replaced.meta)
        replaced.replace_all_uses_with(new)
        graph.graph.erase_node(replaced)
        if added:
            graph.graph.erase_node(node)
    graph.recompile()


def in_graph(model: QuantizedModel, forms: dict | None = None, layers: bool = False) -> QuantizedModel:
    """A copy of a converted model, for batch 1, that computes what has portable forms in these, bit for bit.

    ``forms``: by operator, all FORMS by default; ``layers``: also ``means_as_layers``.
    """
    model, forms = copy.deepcopy(model), FORMS if forms is None else forms
    for node in model.body.graph.nodes:
        form = forms.get(node.target, node.target)
        node.target = _deformable_scan_in_torch if form is deformable_scan else form
    if layers:
        means_as_layers(model.body)
    model.body.recompile()
    return model


#: Roots have a portable form in every file whose runtime rounds them in a way of its own.
ROOTS = {torch.ops.aten.rsqrt.default: _rsqrt}
#: By operator, for decompositions: ``torch.export``'s and the converters' own.
FORMS = ROOTS | {
    torch.ops.edge_hands.selective_scan.default: selective_scan,
    torch.ops.edge_hands.deformable_scan.default: deformable_scan,
}
