"""What a converted graph needs before ExecuTorch's Vulkan delegate takes it whole.

Two operations of the portable scans have no shader (executorch 1.5.1), and each would send its tensor from the GPU to
the CPU and back. Both have equals that have one: a reciprocal is a division of 1, and a sum that drops its dimension
one that keeps it, reshaped.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

_ATEN = torch.ops.aten

#: Operators that the delegate takes and then cannot run, by their name in the file: what is wrong with them.
FAULTS = {
    b"et_vk.linear_q8ta_q8csw": (
        "a linear with int8 input and float output is lowered to an operator whose shader does not exist, and ends at "
        "the first inference (pytorch/executorch issue 22775); make it a 1 x 1 convolution, or keep it float32"
    )
}


def prepare(graph: GraphModule) -> None:
    """Rewrites a graph of ATen operators in place; it computes the same."""
    for node in graph.graph.find_nodes(op="call_function", target=_ATEN.reciprocal.default):
        graph.register_buffer(f"{node.name}_one", torch.ones(1))
        with graph.graph.inserting_before(node):
            one = graph.graph.get_attr(f"{node.name}_one")
            _replace(node, graph.graph.call_function(_ATEN.div.Tensor, (one, node.args[0])))
    for node in graph.graph.find_nodes(op="call_function", target=_ATEN.sum.dim_IntList):
        if not (len(node.args) > 2 and node.args[2]):
            shape = list(node.meta["val"].shape)
            with graph.graph.inserting_before(node):
                kept = graph.graph.call_function(_ATEN.sum.dim_IntList, (*node.args[:2], True))
                _replace(node, graph.graph.call_function(_ATEN.reshape.default, (kept, shape)))
    graph.graph.lint()
    graph.recompile()


def _replace(node: Node, new: Node) -> None:
    new.meta.update({key: value for key, value in node.meta.items() if key != "val"})
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
