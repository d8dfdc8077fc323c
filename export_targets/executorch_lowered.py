"""A lowered program computed by torch, for delegates that this machine cannot run.

By default each piece that a delegate took is computed by the graph that the delegate was given: all that ExecuTorch and
we did to the graph is in the outputs, and nothing that the delegate makes of it, neither its own rewriting nor its
kernels. What Core ML was given is in the file as a package, which its reference interpreter runs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from edge_hands.errors import ExportError


def as_given(piece: Any) -> nn.Module:
    """A delegate's piece, a ``LoweredBackendModule``, as it was before the delegate's compiler saw it."""
    return piece.original_module.module(check_guards=False)


def in_torch(program: ExportedProgram, compute: Callable[[Any], nn.Module] = as_given) -> nn.Module:
    """``EdgeProgramManager.exported_program()`` as a module from the program's inputs to the tuple of its outputs.

    ``compute`` makes of a delegate's piece the module that computes it.
    """
    from executorch.exir.delegate import executorch_call_delegate

    graph = program.module(check_guards=False)
    for node in graph.graph.find_nodes(op="call_function", target=executorch_call_delegate):
        piece, *inputs = node.args
        name = f"{piece.target}_in_torch"
        graph.add_submodule(name, compute(getattr(graph, piece.target)))
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.call_module(name, tuple(inputs)))
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


class CoreMLPackage(nn.Module):
    """The Core ML package that a piece was compiled to, run by ``mil_reference``: the bytes that are in the file."""

    def __init__(self, piece: Any) -> None:
        from executorch.backends.apple.coreml import executorchcoreml

        from edge_hands.export_targets import mil_reference

        super().__init__()
        with tempfile.TemporaryDirectory(prefix="edge_hands_") as folder:
            if not executorchcoreml.unflatten_directory_contents(piece.processed_bytes, folder):
                raise ExportError("what ExecuTorch wrote for Core ML is no folder with a package: export it again")
            (found,) = Path(folder).rglob("metadata.json")
            names = json.loads(found.read_text())
            self._inputs, self._outputs = names["inputNames"], names["outputNames"]
            self._program = mil_reference.load(found.parent / "model.mlpackage")

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arrays = {name: tensor.numpy() for name, tensor in zip(self._inputs, inputs, strict=True)}
        found = self._program(arrays)
        return tuple(torch.from_numpy(found[name]) for name in self._outputs)
