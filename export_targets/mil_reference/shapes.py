"""Operations that move values and compute none: shapes, slices, gathers, padding, constants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_hands.export_targets.mil_reference.arguments import Arguments

Operation = Callable[[Arguments], "Tensor | tuple[Tensor, ...]"]

_NUMPY_PADDING = {"reflect": "reflect", "replicate": "edge"}


def reshape(a: Arguments) -> Tensor:
    """A side of 0 is the input's at that place, one of -1 what is left."""
    x = a.value("x")
    return x.reshape([x.shape[at] if side == 0 else side for at, side in enumerate(a.integers("shape"))])


def expand_dims(a: Arguments) -> Tensor:
    x = a.value("x")
    rank = x.dim() + len(a.integers("axes"))
    for axis in sorted(axis % rank for axis in a.integers("axes")):
        x = x.unsqueeze(axis)
    return x


def squeeze(a: Arguments) -> Tensor:
    x = a.value("x")
    single = [axis for axis, side in enumerate(x.shape) if side == 1]
    return x.squeeze(tuple(axis % x.dim() for axis in a.integers("axes", single)))


def concat(a: Arguments) -> Tensor:
    """``interleave`` takes the first of each, then the second of each, and so on."""
    values = [value.reshape(1) if value.dim() == 0 else value for value in a.list("values")]
    axis = a.integer("axis") % values[0].dim()
    if a.flag("interleave"):
        return torch.stack(values, axis + 1).flatten(axis, axis + 1)
    return torch.cat(values, axis)


def split(a: Arguments) -> tuple[Tensor, ...]:
    x, axis = a.value("x"), a.integer("axis")
    if "split_sizes" in a:
        return torch.split(x, a.integers("split_sizes"), axis)
    return torch.split(x, x.shape[axis] // a.integer("num_splits"), axis)


def slice_by_index(a: Arguments) -> Tensor:
    """Begin, end and stride of every axis; a mask frees a begin or end, or takes one entry and drops the axis."""
    x = a.value("x")
    begin, end = a.integers("begin"), a.integers("end")
    stride = a.integers("stride", [1] * x.dim())
    free_begin, free_end, single = (
        a.integers(name, [0] * x.dim()) for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    place = tuple(
        begin[axis]
        if single[axis]
        else slice(None if free_begin[axis] else begin[axis], None if free_end[axis] else end[axis], stride[axis])
        for axis in range(x.dim())
    )
    return torch.from_numpy(np.array(x.numpy()[place]))  # torch takes no negative stride


def slice_by_size(a: Arguments) -> Tensor:
    x = a.value("x")
    for axis, (begin, size) in enumerate(zip(a.integers("begin"), a.integers("size"), strict=True)):
        x = x.narrow(axis, begin, x.shape[axis] - begin if size == -1 else size)
    return x


def pad(a: Arguments) -> Tensor:
    """Pairs of the last axes, in the axes' order."""
    x, amounts, mode = a.value("x"), a.integers("pad"), a.text("mode", "constant")
    pairs = [(0, 0)] * (x.dim() - len(amounts) // 2) + list(zip(amounts[::2], amounts[1::2], strict=True))
    if mode == "constant":
        return functional.pad(x, [side for pair in pairs[::-1] for side in pair], value=a.number("constant_val", 0.0))
    return torch.from_numpy(np.pad(x.numpy(), pairs, mode=_NUMPY_PADDING[mode]))


def _wrapped(indices: Tensor, count: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + count, indices)


def gather(a: Arguments) -> Tensor:
    x, shared = a.value("x"), a.integer("batch_dims", 0)
    axis = a.integer("axis", 0) % x.dim()
    indices = _wrapped(a.value("indices"), x.shape[axis])
    if shared == 0:
        return x.index_select(axis, indices.reshape(-1)).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    batch = x.shape[:shared]
    rows = zip(x.flatten(0, shared - 1), indices.flatten(0, shared - 1), strict=True)
    taken = [
        row.index_select(axis - shared, place.reshape(-1)).reshape(
            *row.shape[: axis - shared], *place.shape, *row.shape[axis - shared + 1 :]
        )
        for row, place in rows
    ]
    return torch.stack(taken).unflatten(0, batch)


def gather_along_axis(a: Arguments) -> Tensor:
    x, axis = a.value("x"), a.integer("axis", 0)
    return torch.take_along_dim(x, _wrapped(a.value("indices"), x.shape[axis]), axis)


def gather_nd(a: Arguments) -> Tensor:
    x, indices, shared = a.value("x"), a.value("indices").long(), a.integer("batch_dims", 0)
    if shared:
        rows = zip(x.flatten(0, shared - 1), indices.flatten(0, shared - 1), strict=True)
        return torch.stack([row[tuple(place.unbind(-1))] for row, place in rows]).unflatten(0, x.shape[:shared])
    return x[tuple(indices.unbind(-1))]


def band_part(a: Arguments) -> Tensor:
    """Zero below ``lower`` and above ``upper`` diagonals; -1 keeps all."""
    x, lower, upper = a.value("x"), a.integer("lower", -1), a.integer("upper", -1)
    rows, columns = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])
    kept = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        kept &= rows - columns <= lower
    if upper >= 0:
        kept &= columns - rows <= upper
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


def one_hot(a: Arguments) -> Tensor:
    hot = functional.one_hot(a.value("indices").long(), a.integer("one_hot_vector_size")).movedim(
        -1, a.integer("axis", -1)
    )
    return torch.where(hot.bool(), a.number("on_value", 1), a.number("off_value", 0))


OPERATIONS: dict[str, Operation] = {
    "reshape": reshape,
    "transpose": lambda a: a.value("x").permute(a.integers("perm")).contiguous(),
    "expand_dims": expand_dims,
    "squeeze": squeeze,
    "flatten2d": lambda a: a.value("x").reshape(int(np.prod(a.value("x").shape[: a.integer("axis", 1)])), -1),
    "concat": concat,
    "stack": lambda a: torch.stack(a.list("values"), a.integer("axis")),
    "split": split,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "pad": pad,
    "tile": lambda a: a.value("x").repeat(a.integers("reps")),
    "reverse": lambda a: a.value("x").flip(a.axes(a.value("x").dim())),
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "band_part": band_part,
    "one_hot": one_hot,
    "shape": lambda a: torch.tensor(a.value("x").shape),
    "fill": lambda a: torch.full(a.integers("shape"), a.number("value", 0.0)),
    "fill_like": lambda a: torch.full_like(a.value("ref_tensor"), a.number("value", 0.0)),
    "range_1d": lambda a: torch.arange(a.number("start"), a.number("end"), a.number("step")),
    "non_zero": lambda a: a.value("x").nonzero(),
    "pixel_shuffle": lambda a: functional.pixel_shuffle(a.value("x"), a.integer("upscale_factor")),
    "pixel_unshuffle": lambda a: functional.pixel_unshuffle(a.value("x"), a.integer("downscale_factor")),
}
