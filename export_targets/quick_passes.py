"""Passes over graphs without what torch and ExecuTorch do at every one of them, most often for nothing.

A conversion passes over its graph some hundreds of times. Each pass copies where every node came from, which torch
keeps for debuggers, and writes the graph as Python and compiles it, though the next pass reads the graph itself. A
decomposition traces a graph anew that holds nothing to decompose. ExecuTorch's passes ask torch for the shape that
every operator gives, of the same inputs each time, and trace graphs anew that have nothing of what they look for.

What is written is the same byte by byte (torch 2.13 and ExecuTorch 1.5.1, both of which are pinned;
tests/export_targets/test_quick_passes.py).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._export.utils import _is_preservable_cia_op
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.traceback import NodeSource
from torch.utils import _pytree as pytree


@contextmanager
def quick_passes() -> Iterator[None]:
    """Copies of a graph share the records of its history, a graph becomes Python when it is called, and a decomposition
    of nothing gives the program itself."""
    with (
        _replaced(NodeSource, "__deepcopy__", _itself),
        _replaced(GraphModule, "recompile", _recompile_later),
        _replaced(ExportedProgram, "run_decompositions", _decompose_if_needed),
    ):
        yield


#: Passes of ExecuTorch's XNNPACK delegate, and the operator without which one changes nothing.
_LOOKS_FOR = {
    "ConvertToUpsampleBilinear2d": "upsample_bilinear2d",
    "ConvertToSDPAPass": "softmax",
    "FuseBatchNormPass": "batch_norm",
    "DecomposeBatchNorm": "batch_norm",
    "InsertPadQDQPass": "constant_pad",
    "PReLUReshapePass": "prelu",
}


@contextmanager
def needed_passes() -> Iterator[None]:
    """ExecuTorch's XNNPACK delegate leaves out the passes that look for an operator which a graph has not."""
    from executorch.backends.xnnpack._passes import XNNPACKPassManager

    begin = XNNPACKPassManager.__init__

    def choose(self: Any, program: ExportedProgram, passes: list[type] | None = None) -> None:
        begin(self, program, passes)
        found = " ".join({str(node.target) for node in program.graph.nodes})
        self.passes = [kind for kind in self.passes if _LOOKS_FOR.get(kind.__name__, "") in found]

    with _replaced(XNNPACKPassManager, "__init__", choose):
        yield


@contextmanager
def remembered_results() -> Iterator[None]:
    """ExecuTorch's passes take the shape and type of an operator's result from the last time that it had such inputs,
    and do not describe every node for errors. Nodes then share a fake tensor, which has no values."""
    from executorch.exir.pass_base import EdgeOpOverload, ProxyValue, _ExportPassBase

    compute, known = _ExportPassBase._fx, {}

    def remember(
        self: Any, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: Any
    ) -> ProxyValue:
        key, (values, named) = None, pytree.tree_map_only(ProxyValue, lambda value: value.data, (args, kwargs))
        if isinstance(target, EdgeOpOverload | OpOverload):
            mode = self.fake_tensor_mode
            parts = [_looks(value, mode) for value in (*values, *named.values())]
            if None not in parts:
                key = (mode, target, tuple(parts), tuple(named))
        if key not in known:
            result = compute(self, kind, target, args, kwargs, meta)
            if key is not None and isinstance(result.data, FakeTensor) and result.data.constant is None:
                known[key] = result.data
            return result
        args, kwargs = pytree.tree_map_only(ProxyValue, lambda value: value.proxy, (args, kwargs))
        name = None
        if isinstance(target, OpOverload):
            name = self.tracer.graph._target_to_str(target.overloadpacket.__name__)
        proxy = self.tracer.create_proxy(kind, target, args, kwargs, name=name)
        proxy.node.meta.update(meta.data)
        self.tracer.set_metadata(proxy.node, known[key])
        return ProxyValue(known[key], proxy)

    def run_node(self: Interpreter, node: Node) -> Any:
        self.node = node
        return Interpreter.run_node(self, node)

    passes = _ExportPassBase.ExportInterpreter
    with _replaced(_ExportPassBase, "_fx", remember), _replaced(passes, "run_node", run_node):
        yield


#: Arguments that decide a result's shape and type by what they are.
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.layout, torch.device, torch.memory_format)


def _looks(value: Any, mode: FakeTensorMode | None) -> tuple[Any, ...] | None:
    """What of an argument decides the shape and type of a result; None for what may decide them in another way, such
    as a tensor with values."""
    if type(value) is FakeTensor:
        if value.fake_mode is not mode or value.constant is not None:
            return None
        shape = (*value.shape, *value.stride(), value.storage_offset())
        kind = (value.dtype, value.device, value.requires_grad, value.dim())
        return (*kind, *shape) if all(type(size) is int for size in shape) else None
    if type(value) in _PLAIN:
        return type(value), value
    if isinstance(value, list | tuple):
        parts = [_looks(part, mode) for part in value]
        return None if None in parts else (type(value), *parts)
    return None


_decompose = ExportedProgram.run_decompositions


def _decompose_if_needed(program: ExportedProgram, table: dict | None = None, **options: Any) -> ExportedProgram:
    """``ExportedProgram.run_decompositions``, or the program if that would change nothing in it, nor its dialect."""
    if table is None or program.dialect == "TRAINING" or not all(_stays(node, table) for node in program.graph.nodes):
        return _decompose(program, table, **options)
    return program


def _stays(node: Node, table: dict) -> bool:
    """Whether a decomposition by ``table`` leaves a node as it is: an operator that changes none of its inputs, and is
    no composition of others unless of the sort that decompositions keep."""
    target = node.target
    if node.op != "call_function" or target is operator.getitem:
        return True
    if not isinstance(target, OpOverload):
        return False
    composed = torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd")
    return target not in table and not target._schema.is_mutable and (not composed or _is_preservable_cia_op(target))


def _itself(source: NodeSource, memo: dict[int, Any]) -> NodeSource:
    """A copy of a record, which nothing changes once it is made."""
    return source


_recompile = GraphModule.recompile


class _WhenRead:
    """An attribute of a module that compiling its graph gives it, which is done when it is read."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, module: GraphModule | None, owner: type) -> Any:
        if module is None:
            return self
        _recompile(module)
        return getattr(module, self.name)


def _recompile_later(module: GraphModule) -> None:
    """``GraphModule.recompile`` put off until something reads the module's ``forward``, as a call does, or its code."""
    if isinstance(module.graph._codegen, _PyTreeCodeGen):  # what torch.export reads without a call
        module._in_spec = module.graph._codegen.pytree_info.in_spec
        module._out_spec = module.graph._codegen.pytree_info.out_spec
    module.__dict__.pop("_code", None)
    for name in ("forward", "_code"):
        setattr(type(module), name, _WhenRead(name))  # every GraphModule has a class of its own


@contextmanager
def _replaced(owner: type, name: str, function: Callable) -> Iterator[None]:
    before = owner.__dict__.get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
