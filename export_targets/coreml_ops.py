"""The scans for Core ML, written by hand in MIL: ML Programs have no custom layers. Batch 1, no loop over tokens.

Importing this module registers translators of ``edge_hands::selective_scan`` and ``edge_hands::deformable_scan`` with
coremltools, under the name that ``ct.convert`` looks up and the one that ExecuTorch's Core ML partitioner does, and
one of GELU that knows its tanh form.

The forms hold in float16 too: no division, no positive exponent, no logarithm of nearly 1.

* The scan is ``chunks`` x ``steps``: ``steps`` updates in turn, each across all chunks, then the chunks' carries by
  doubling. Layout (T steps, N states, C chunks, D channels): four dimensions, the longest one last.
* ``dense`` sampling is a matrix product. A bilinear weight is a product of two hats, relu(1 - |dy|) relu(1 - |dx|),
  so a group's points make one (L, L) matrix. Plain operations, any offset: for the Neural Engine and small maps.
* ``window`` sampling weighs the map's shifts by up to ``RADIUS`` + 2: work grows with L, not its square. Plain
  operations, exact only while every offset is at most ``RADIUS``: never chosen by itself.
* ``resample`` is Core ML's bilinear sampling of all points at once, and their weighted sum. Any offset and size, for
  GPU and CPU: the Neural Engine is reported not to take it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.frontend.torch.ops import _get_inputs, _get_kwinputs
from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op
from coremltools.converters.mil.mil import Var

from edge_hands.errors import ExportError
from edge_hands.export_targets.portable import CORE_ML_LOG1P, near_root

#: Most tokens for which "auto" samples dense.
DENSE_TOKENS = 256
#: Largest offset for which "window" is exact.
RADIUS = 2.0

_sampling = "auto"


@contextmanager
def sampling(form: str) -> Iterator[None]:
    """Within it deformable scans sample as ``form`` says, or "auto". (coremltools hands a translator no options.)"""
    global _sampling
    if form not in ("auto", *FORMS):
        raise ExportError(f"sampling is {form!r}, expected one of auto, {', '.join(FORMS)}")
    before, _sampling = _sampling, form
    try:
        yield
    finally:
        _sampling = before


@register_torch_op(torch_alias=["edge_hands::selective_scan", "edge_hands.selective_scan"], override=True)
def selective_scan(context, node) -> None:
    """x, delta (1, L, D); A (D, N); B, C (1, L, N); D (D,) -> (1, L, D)."""
    x, delta, a, b, c, d = _get_inputs(context, node, expected=6)
    _check_batch(x, node.name)
    context.add(_with_skip(_scan(x, delta, a, b, c), x, d, node.name))


@register_torch_op(torch_alias=["edge_hands::deformable_scan", "edge_hands.deformable_scan"], override=True)
def deformable_scan(context, node) -> None:
    """The same over the deformed x; offset (1, L, G K 2), weight (1, L, G K), height, width, K = points (9)."""
    x, offset, weight, delta, a, b, c, d, height, width, *points = _get_inputs(context, node, min_expected=10)
    _check_batch(x, node.name)
    count = int(points[0].val) if points else 9
    form = _sampling
    if form == "auto":
        form = "dense" if x.shape[1] <= DENSE_TOKENS else "resample"
    sampled = FORMS[form](x, offset, weight, int(height.val), int(width.val), count)
    context.add(_with_skip(_scan(sampled, delta, a, b, c), x, d, node.name))


@register_torch_op(override=True)
def gelu(context, node) -> None:
    """Its tanh form where ``approximate`` says so: coremltools' own looks for that by place alone, not by name."""
    x, *form = _get_inputs(context, node)
    (form,) = form or _get_kwinputs(context, node, "approximate", ["none"])
    mode = "TANH_APPROXIMATION" if getattr(form, "val", form) == "tanh" else "EXACT"  # a Var or its value
    context.add(mb.gelu(x=x, mode=mode, name=node.name))


def _check_batch(x: Var, name: str) -> None:
    if x.shape[0] != 1:
        raise ExportError(f"{name}: Core ML forms take batch 1, found {x.shape[0]}; export the model with batch 1")


def _with_skip(y: Var, x: Var, d: Var, name: str) -> Var:
    return mb.add(x=y, y=mb.mul(x=x, y=d), name=name)


# Sampling: sum_k w_k x(p + a_k + o_k), bilinear, 0 outside. x (1, L, D) -> (1, L, D); G groups of D / G channels.


def _dense(x: Var, offset: Var, weight: Var, height: int, width: int, points: int) -> Var:
    length, channels = x.shape[1:]
    groups = weight.shape[-1] // points
    dy, dx = _offsets(offset, groups, points)  # (G, K, 1, L)
    base_y, base_x = _grid(height, width, points)  # (K, L)
    # Position less row (column) is a small whole number, exact in float16; offsets are added to it once.
    rows = base_y[None, :, None] - np.arange(height, dtype=np.float32)[None, None, :, None]
    columns = base_x[None, :, None] - np.arange(width, dtype=np.float32)[None, None, :, None]
    hat_y = mb.mul(x=_hat(mb.add(x=dy, y=rows)), y=_by_point(weight, groups, points))  # (G, K, H, L)
    hat_x = _hat(mb.add(x=dx, y=columns))  # (G, K, W, L)
    matrix = _sum_of_products(hat_y, hat_x)  # (G, H, W, L)
    matrix = mb.reshape(x=matrix, shape=[groups, length, length])
    values = mb.reshape(x=mb.transpose(x=x, perm=[0, 2, 1]), shape=[groups, channels // groups, length])
    return _to_tokens(mb.matmul(x=values, y=matrix), length, channels)


def _window(x: Var, offset: Var, weight: Var, height: int, width: int, points: int) -> Var:
    length, channels = x.shape[1:]
    groups = weight.shape[-1] // points
    reach = math.isqrt(points) // 2 + math.ceil(RADIUS)  # farthest shift with a weight
    side, each = 2 * reach + 1, channels // groups
    dy, dx = _offsets(offset, groups, points)
    anchors = _anchors(points).astype(np.float32)
    shifts = np.arange(-reach, reach + 1, dtype=np.float32)
    hat_y = _hat(mb.add(x=dy, y=(anchors[:, 0, None] - shifts)[None, :, :, None]))  # (G, K, S, L)
    hat_x = _hat(mb.add(x=dx, y=(anchors[:, 1, None] - shifts)[None, :, :, None]))
    taps = _sum_of_products(mb.mul(x=hat_y, y=_by_point(weight, groups, points)), hat_x)  # (G, S, S, L)
    taps = _parts(mb.reshape(x=taps, shape=[groups, side * side, height, width]), side * side, axis=1)
    image = mb.reshape(x=mb.transpose(x=x, perm=[0, 2, 1]), shape=[groups, each, height, width])
    image = mb.pad(x=image, pad=[reach] * 4, mode="constant", constant_val=np.float32(0.0))
    total = None
    for index, tap in enumerate(taps):
        shifted = _cut(_cut(image, 2, index // side, height), 3, index % side, width)
        term = mb.mul(x=shifted, y=tap)
        total = term if total is None else mb.add(x=total, y=term)
    return _to_tokens(total, length, channels)


def _resample(x: Var, offset: Var, weight: Var, height: int, width: int, points: int) -> Var:
    length, channels = x.shape[1:]
    groups = weight.shape[-1] // points
    dy, dx = _offsets(offset, groups, points)
    base_y, base_x = (base[None, :, None] for base in _grid(height, width, points))
    positions = mb.concat(values=[mb.add(x=dx, y=base_x), mb.add(x=dy, y=base_y)], axis=2)  # (G, K, 2, L): x, y
    image = mb.reshape(x=mb.transpose(x=x, perm=[0, 2, 1]), shape=[groups, channels // groups, height, width])
    found = mb.resample(  # (G, D / G, K, L)
        x=image,
        coordinates=mb.transpose(x=positions, perm=[0, 1, 3, 2]),
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=np.float32(0.0),
        coordinates_mode="unnormalized",
        align_corners=True,
    )
    weights = mb.transpose(x=_by_point(weight, groups, points), perm=[0, 2, 1, 3])  # (G, 1, K, L)
    total = mb.reduce_sum(x=mb.mul(x=found, y=weights), axes=[2], keep_dims=False)
    return _to_tokens(total, length, channels)


FORMS: dict[str, Callable[..., Var]] = {"dense": _dense, "window": _window, "resample": _resample}


def _anchors(points: int) -> np.ndarray:
    """(K, 2) whole numbers (dy, dx): the grid around 0 in raster order."""
    side = math.isqrt(points)
    if side * side != points or side % 2 == 0:
        raise ExportError(f"a deformable scan has {points} points, expected the square of an odd number")
    axis = np.arange(side) - side // 2
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(points, 2)


def _grid(height: int, width: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (K, L) of every token's points before their offsets."""
    rows, columns = np.divmod(np.arange(height * width), width)
    anchors = _anchors(points)
    return (rows + anchors[:, :1]).astype(np.float32), (columns + anchors[:, 1:]).astype(np.float32)


def _offsets(offset: Var, groups: int, points: int) -> tuple[Var, Var]:
    """(1, L, G K 2) -> dy and dx, each (G, K, 1, L)."""
    length = offset.shape[1]
    pairs = mb.reshape(x=mb.transpose(x=offset, perm=[0, 2, 1]), shape=[groups, points, 2, length])
    return _parts(pairs, 2, axis=2)


def _by_point(weight: Var, groups: int, points: int) -> Var:
    """(1, L, G K) -> (G, K, 1, L)."""
    return mb.reshape(x=mb.transpose(x=weight, perm=[0, 2, 1]), shape=[groups, points, 1, weight.shape[1]])


def _hat(distance: Var) -> Var:
    return mb.relu(x=mb.sub(x=np.float32(1.0), y=mb.abs(x=distance)))


def _sum_of_products(left: Var, right: Var) -> Var:
    """sum_k left(g, k, i, l) right(g, k, j, l): (G, K, I, L), (G, K, J, L) -> (G, I, J, L)."""
    (groups, points, rows, length), columns = left.shape, right.shape[2]
    total = None
    for one, other in zip(_parts(left, points, axis=1), _parts(right, points, axis=1)):
        one = mb.reshape(x=one, shape=[groups, rows, 1, length])
        term = mb.mul(x=one, y=mb.reshape(x=other, shape=[groups, 1, columns, length]))
        total = term if total is None else mb.add(x=total, y=term)
    return total


def _to_tokens(image: Var, length: int, channels: int) -> Var:
    """(G, D / G, ...) -> (1, L, D)."""
    return mb.transpose(x=mb.reshape(x=image, shape=[1, channels, length]), perm=[0, 2, 1])


# The scan: sum_n C h with h(t) = exp(dt A) h(t - 1) + dt B x, dt = softplus(delta), without the D x term.


def _scan(x: Var, delta: Var, a: Var, b: Var, c: Var) -> Var:
    length, channels = x.shape[1:]
    states = a.shape[1]
    steps = near_root(length)
    chunks = length // steps

    def by_step(value: Var) -> Var:  # (1, L, D) -> (T, 1, C, D)
        value = mb.transpose(x=mb.reshape(x=value, shape=[chunks, steps, channels]), perm=[1, 0, 2])
        return mb.expand_dims(x=value, axes=[1])

    def by_state(value: Var) -> Var:  # (1, L, N) -> (T, N, C, 1)
        value = mb.transpose(x=mb.reshape(x=value, shape=[chunks, steps, states]), perm=[1, 2, 0])
        return mb.expand_dims(x=value, axes=[3])

    rates = mb.reshape(x=mb.transpose(x=a, perm=[1, 0]), shape=[1, states, 1, channels])
    dt = by_step(_softplus(delta))
    inflow = mb.mul(x=mb.mul(x=dt, y=by_step(x)), y=by_state(b))  # (T, N, C, D)
    decays = _parts(mb.exp(x=mb.mul(x=dt, y=rates)), steps, axis=0)
    inflows = _parts(inflow, steps, axis=0)
    reached = [inflows[0]]
    for step in range(1, steps):
        reached.append(mb.add(x=mb.mul(x=decays[step], y=reached[-1]), y=inflows[step]))
    whole = mb.concat(values=reached, axis=0)  # states of chunks that start from nothing
    if chunks > 1:
        since = mb.exp(x=mb.mul(x=_running_sum(dt), y=rates))  # decay from the start of the chunk, (T, N, C, D)
        carry = _carries(_cut(since, 0, steps - 1, 1), reached[-1])
        whole = mb.add(x=whole, y=mb.mul(x=since, y=carry))
    y = mb.reduce_sum(x=mb.mul(x=whole, y=by_state(c)), axes=[1], keep_dims=False)  # (T, C, D)
    return mb.reshape(x=mb.transpose(x=y, perm=[1, 0, 2]), shape=[1, length, channels])


def _running_sum(dt: Var) -> Var:
    """Sums over the steps so far, itself included, as a product with a triangle of ones: (T, 1, C, D)."""
    steps, _, chunks, channels = dt.shape
    triangle = np.tril(np.ones((steps, steps), np.float32))
    total = mb.matmul(x=triangle, y=mb.reshape(x=dt, shape=[steps, chunks * channels]))
    return mb.reshape(x=total, shape=[steps, 1, chunks, channels])


def _carries(decay: Var, last: Var) -> Var:
    """State at the start of each chunk from each chunk's whole decay and own last state, all (1, N, C, D)."""
    _, states, chunks, channels = last.shape
    reach = 1
    while reach < chunks - 1:
        later, earlier = _cut(decay, 2, reach, chunks - reach), _cut(last, 2, 0, chunks - reach)
        sums = mb.add(x=mb.mul(x=later, y=earlier), y=_cut(last, 2, reach, chunks - reach))
        products = mb.mul(x=later, y=_cut(decay, 2, 0, chunks - reach))
        last = mb.concat(values=[_cut(last, 2, 0, reach), sums], axis=2)
        decay = mb.concat(values=[_cut(decay, 2, 0, reach), products], axis=2)
        reach *= 2
    nothing = np.zeros((1, states, 1, channels), np.float32)
    return mb.concat(values=[nothing, _cut(last, 2, 0, chunks - 1)], axis=2)


def _softplus(x: Var) -> Var:
    """relu(x) + log(1 + e), e = exp(-|x|): a polynomial times e, as 1 + e would lose a small e in float16."""
    e = mb.exp(x=mb.mul(x=mb.abs(x=x), y=np.float32(-1.0)))
    *rest, last = CORE_ML_LOG1P
    value = mb.add(x=mb.mul(x=e, y=last), y=rest.pop())
    while rest:
        value = mb.add(x=mb.mul(x=value, y=e), y=rest.pop())
    return mb.add(x=mb.relu(x=x), y=mb.mul(x=value, y=e))


def _parts(value: Var, count: int, axis: int) -> tuple[Var, ...]:
    """Equal parts along an axis; MIL's split gives no list of one."""
    return (value,) if count == 1 else tuple(mb.split(x=value, num_splits=count, axis=axis))


def _cut(value: Var, axis: int, begin: int, count: int) -> Var:
    """``count`` entries of an axis from ``begin`` on."""
    start, size = [0] * value.rank, list(value.shape)
    start[axis], size[axis] = begin, count
    return mb.slice_by_size(x=value, begin=start, size=size)
