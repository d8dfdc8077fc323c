"""Every operation that the interpreter knows: name in MIL -> function of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_hands.export_targets.mil_reference import elementwise, layers, quantization, reductions, shapes
from edge_hands.export_targets.mil_reference.arguments import Arguments

OPERATIONS: dict[str, Callable[[Arguments], Any]] = {
    **elementwise.OPERATIONS,
    **layers.OPERATIONS,
    **quantization.OPERATIONS,
    **reductions.OPERATIONS,
    **shapes.OPERATIONS,
}
