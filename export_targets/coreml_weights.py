"""A pass of coremltools that stores large float32 weights in half the space, where they lose nothing by it.

``constexpr_cast`` widens a float16 constant when a package is compiled: what is computed stays float32. The weights of
large float32 layers are float16 numbers in the fake-quant graph itself (``quantization.qat.HALF_WEIGHTS``).
"""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Block, Program, types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from edge_hands.quantization.qat import HALF_WEIGHTS

#: Name of the pass in a pipeline.
HALVE_WEIGHTS = "edge_hands::halve_weights"


@register_pass(namespace="edge_hands", override=True)
class halve_weights(AbstractGraphPass):  # noqa: N801  (its class is what coremltools calls a pass)
    """const float32 -> constexpr_cast(const float16), for weights of a convolution or a linear that fit."""

    def apply(self, prog: Program) -> None:
        for function in prog.functions.values():
            _halve(function)


@block_context_manager
def _halve(block: Block) -> None:
    for operation in list(block.operations):
        if operation.op_type not in ("conv", "linear"):
            continue
        weight = operation.weight
        if weight.op is None or weight.op.op_type != "const" or weight.dtype is not types.fp32:
            continue
        values = weight.val.astype(np.float16)
        if weight.val.size <= HALF_WEIGHTS or not np.array_equal(values, weight.val):
            continue
        wide = mb.constexpr_cast(
            source_val=values, output_dtype="fp32", before_op=operation, name=f"{weight.name}_wide"
        )
        block.replace_uses_of_var_after_op(anchor_op=wide.op, old_var=weight, new_var=wide, no_check_var_types=True)
        if not weight.child_ops:
            block.remove_ops([weight.op])
