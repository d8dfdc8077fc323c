"""Passes over graphs without what torch does at every one of them and almost nobody looks at.

A conversion passes over its graph some hundreds of times. Each pass copies where every node came from, which torch
keeps for debuggers, and writes the graph as Python and compiles it, though the next pass reads the graph itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.traceback import NodeSource


@contextmanager
def quick_passes() -> Iterator[None]:
    """Copies of a graph share the records of its history, and a graph becomes Python when it is called.

    What is written is the same byte by byte (torch 2.13, ExecuTorch's portable form of the bundled landmarks).
    """
    with _replaced(NodeSource, "__deepcopy__", _itself), _replaced(GraphModule, "recompile", _recompile_later):
        yield


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
