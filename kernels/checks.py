"""Checks of the scans' arguments, shared by the numpy and the torch face.

They work on shapes alone, so that a fake tensor passes through them too. Every error names the argument, what was
expected and what was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isqrt
from typing import NamedTuple

Shape = Sequence[int]


class Quantization(NamedTuple):
    """What an int8 value q stands for: scale · (q - zero_point)."""

    scale: float
    zero_point: int


def check_shape(name: str, shape: Shape, expected: Sequence[int | str]) -> None:
    """Raise ValueError unless ``shape`` equals ``expected``; a string there names a free dimension."""
    shown = f"({', '.join(map(str, expected))})"
    if len(shape) != len(expected):
        raise ValueError(f"{name}: expected {len(expected)} dimensions {shown}, found shape {tuple(shape)}.")
    for found, wanted in zip(shape, expected, strict=True):
        if not isinstance(wanted, str) and found != wanted:
            raise ValueError(f"{name}: expected shape {shown}, found {tuple(shape)}.")


def check_scan(shapes: Mapping[str, Shape]) -> None:
    """The shapes of x, delta, A, B, C, D; sizes are read from x (B, L, D) and A (D, N)."""
    check_shape("x", shapes["x"], ("B", "L", "D"))
    batch, length, channels = shapes["x"]
    check_shape("A", shapes["A"], (channels, "N"))
    states = shapes["A"][1]
    check_shape("delta", shapes["delta"], (batch, length, channels))
    check_shape("B", shapes["B"], (batch, length, states))
    check_shape("C", shapes["C"], (batch, length, states))
    check_shape("D", shapes["D"], (channels,))


def check_deform(shapes: Mapping[str, Shape], height: int, width: int, points: int) -> int:
    """The further arguments of the deformable scan -> number of groups."""
    batch, length, channels = shapes["x"]
    if height < 0 or width < 0 or height * width != length:
        raise ValueError(f"height, width: expected a product of {length}, the tokens of x, found {height} and {width}.")
    if points < 1 or isqrt(points) ** 2 != points or isqrt(points) % 2 == 0:
        raise ValueError(f"points: expected the square of an odd number (1, 9, 25, …), found {points}.")
    check_shape("weight", shapes["weight"], (batch, length, "G·K"))
    total = shapes["weight"][2]
    groups = total // points
    if groups < 1 or total % points:
        raise ValueError(f"weight: expected a last dimension that is a multiple of points = {points}, found {total}.")
    if channels % groups:
        raise ValueError(
            f"weight: expected {points} weights a group, of groups that divide the {channels} channels of x, "
            f"found {total}, which makes {groups} groups."
        )
    check_shape("offset", shapes["offset"], (batch, length, 2 * total))
    if length * channels > 2**24 or length > 2**18:
        raise ValueError(f"x: expected at most 2**24 elements and 2**18 tokens an image, found {length} x {channels}.")
    return groups


def check_threads(threads: int) -> int:
    """A whole number of at least 1, or ValueError."""
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads: expected a whole number of at least 1, found {threads!r}.")
    return threads


def check_quantization(name: str, quantization: Quantization) -> None:
    """Raise ValueError unless the scale is positive and finite and the zero point an int8."""
    try:
        scale, zero_point = quantization
        good = 0 < scale < inf and int(zero_point) == zero_point and -128 <= zero_point <= 127
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{name}: expected (scale > 0, zero point within -128 to 127), found {quantization!r}.")
