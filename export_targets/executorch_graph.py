"""What a converted graph needs before ExecuTorch's XNNPACK delegate takes it whole.

Every operation that the delegate lacks cuts the model in two, and tensors are copied and turned at each cut. Two such
operations have equals that it does take: a mean over channels is a 1 x 1 convolution with equal weights, a mean over
positions one that keeps its dimensions and is reshaped, a split is slices. All compute the same but for the order of
the channel mean's sum, in which ``integer.in_file`` adds too.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edge_hands.export_targets import portable
from edge_hands.kernels import torch_ops  # noqa: F401  (registers torch.ops.edge_hands)
from edge_hands.quantization.qat import fits_half

_ATEN, _QUANT, _OURS = torch.ops.aten, torch.ops.quantized_decomposed, torch.ops.edge_hands
#: Scans and their int8 forms.
_SCANS = {
    _OURS.selective_scan.default: _OURS.selective_scan_int8.default,
    _OURS.deformable_scan.default: _OURS.deformable_scan_int8.default,
}


def prepare(graph: GraphModule) -> None:
    """Rewrites a converted graph in place: what is constant is computed now, int8 weights too; no mean or
    split that the delegate lacks, and a dequantize node for every reader."""
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and _is_constant(node):
            arguments = map_arg((node.args, node.kwargs), partial(_value, graph))
            value = node.target(*arguments[0], **arguments[1])
            _replace(graph, node, _store(graph, node, f"{node.name}_constant", value))
    portable.means_as_layers(graph)
    for node in graph.graph.find_nodes(op="call_function", target=_ATEN.mean.dim):
        dims, keep = sorted(dim % 4 for dim in node.args[1]), len(node.args) > 2 and node.args[2]
        if node.args[0].meta["val"].dim() == 4 and (dims, keep) == ([2, 3], False):
            _mean_as_view(graph, node)
    for target in (_ATEN.split_with_sizes.default, _ATEN.split.Tensor):
        for node in graph.graph.find_nodes(op="call_function", target=target):
            _split_as_slices(graph, node)
    for node in graph.graph.find_nodes(op="call_function", target=_QUANT.dequantize_per_tensor.default):
        _split_readers(graph, node)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()


def fold_scans(graph: GraphModule) -> None:
    """Rewrites a converted graph in place: dequantize, scan, quantize become one scan of int8 x and y.

    Only where nothing else reads what is between. The int8 kernel's decays are coarser than the float32 one's, so that
    a value now and then is a step away.
    """
    for node in [node for node in graph.graph.nodes if node.op == "call_function" and node.target in _SCANS]:
        before, readers = node.args[0], list(node.users)
        if before.target is not _QUANT.dequantize_per_tensor.default or len(readers) != 1:
            continue
        (after,) = readers
        if after.target is not _QUANT.quantize_per_tensor.default:
            continue
        left_out = [argument.default_value for argument in node.target._schema.arguments[len(node.args) :]]
        inputs = (before.args[0], *before.args[1:3], *node.args[1:], *left_out, *after.args[1:3])
        with graph.graph.inserting_before(after):
            new = graph.graph.call_function(_SCANS[node.target], inputs)
        _replace(graph, after, new)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def halve_weights(graph: GraphModule) -> None:
    """Rewrites a converted graph in place: a 1 x 1 convolution whose float32 weights are float16 numbers keeps them so.

    XNNPACK takes no float16 weights for a float32 layer. So the program widens them outside of the delegate when they
    are needed, and the layer becomes a product of matrices, the only one whose second factor need not be a constant.
    """
    for node in graph.graph.find_nodes(op="call_function", target=_ATEN.conv2d.default):
        x, weight, *rest = node.args
        if weight.op != "get_attr" or not fits_half(values := _value(graph, weight)) or values.shape[2:] != (1, 1):
            continue
        (height, width), (channels, inner) = node.meta["val"].shape[2:], values.shape[:2]
        turned = values.reshape(1, channels, inner).transpose(1, 2).half().contiguous()
        stored = _store(graph, node, f"{node.name}_half", turned)
        with graph.graph.inserting_before(node):
            wide = graph.graph.call_function(_ATEN._to_copy.default, (stored,), {"dtype": torch.float32})
            rows = graph.graph.call_function(_ATEN.permute.default, (x, [0, 2, 3, 1]))
            rows = graph.graph.call_function(_ATEN.reshape.default, (rows, [1, height * width, inner]))
            product = graph.graph.call_function(_ATEN.bmm.default, (rows, wide))
            if rest and rest[0] is not None:
                product = graph.graph.call_function(_ATEN.add.Tensor, (product, rest[0]))
            image = graph.graph.call_function(_ATEN.reshape.default, (product, [1, height, width, channels]))
            new = graph.graph.call_function(_ATEN.permute.default, (image, [0, 3, 1, 2]))
        _replace(graph, node, new)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def plain_memory(module: nn.Module) -> None:
    """Every tensor in the strides of its shape: the delegate takes a 1 x 1 kernel of other strides for turned."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.data)


def _value(graph: GraphModule, node: Node) -> torch.Tensor:
    """The stored tensor of a get_attr node."""
    found = graph
    for part in node.target.split("."):
        found = getattr(found, part)
    return found.detach()


def _is_constant(node: Node) -> bool:
    """Whether a tensor depends on stored ones only. A weight stays int8, so its dequantize node stays."""
    if node.target is _QUANT.quantize_per_channel.default:  # these nodes carry no ``val``
        return node.args[0].op == "get_attr"
    sources, value = node.all_input_nodes, node.meta.get("val")
    return (
        isinstance(value, torch.Tensor)
        and node.target is not _QUANT.dequantize_per_channel.default
        and all(source.op == "get_attr" for source in sources)
    )


def _store(graph: GraphModule, node: Node, name: str, value: torch.Tensor) -> Node:
    graph.register_buffer(name, value)
    with graph.graph.inserting_before(node):
        return graph.graph.get_attr(name)


def _replace(graph: GraphModule, node: Node, new: Node) -> None:
    new.meta.update({key: value for key, value in node.meta.items() if key != "val"})
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)


def _mean_as_view(graph: GraphModule, node: Node) -> None:
    with graph.graph.inserting_before(node):
        mean = graph.graph.call_function(_ATEN.mean.dim, (*node.args[:2], True))
        new = graph.graph.call_function(_ATEN.reshape.default, (mean, [-1, node.args[0].meta["val"].shape[1]]))
    _replace(graph, node, new)


def _split_as_slices(graph: GraphModule, node: Node) -> None:
    value, sizes, *rest = node.args
    dim, whole = rest[0] if rest else 0, value.meta["val"].shape
    if isinstance(sizes, int):
        sizes = [min(sizes, int(whole[dim]) - at) for at in range(0, int(whole[dim]), sizes)]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    for reader in list(node.users):
        index = reader.args[1]
        with graph.graph.inserting_before(reader):
            end = starts[index] + sizes[index]
            new = graph.graph.call_function(_ATEN.slice.Tensor, (value, dim, starts[index], end))
        _replace(graph, reader, new)


def _split_readers(graph: GraphModule, node: Node) -> None:
    """One dequantize node per reader: where readers of one want both layouts, the delegate's layout pass gives all of
    them the last one's (executorch 1.5.1), which fails at run time."""
    for reader in list(node.users)[1:]:
        with graph.graph.inserting_before(reader):
            reader.replace_input_with(node, graph.graph.node_copy(node))
