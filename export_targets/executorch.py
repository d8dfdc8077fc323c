"""ExecuTorch export of a quantised model: a .pte whose int8 layers, and what they allow of the rest, run in XNNPACK.

In the native form every scan calls our own kernels (``edge_hands.kernels.executorch``), in the portable one it is
made of ExecuTorch's own operators, so that a stock runtime runs the file. What was written is always executed once:
faults of the delegate pass lowering and show at the first run only.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from edge_hands.bundle import Variant
from edge_hands.errors import ExportError, RuntimeUnavailable
from edge_hands.export_targets import executorch_graph, portable
from edge_hands.export_targets.coverage import Coverage, scan_macs
from edge_hands.kernels import executorch as kernels
from edge_hands.kernels import torch_ops  # noqa: F401  (registers torch.ops.edge_hands)
from edge_hands.quantization.qat import QuantizedModel

#: The forms that ``export`` can write, and their files.
FILES = {"portable": "model.pte", "native": "model.native.pte"}
SCANS = tuple(FILES)
#: Packages whose version decides what is written.
TOOLS = ("executorch", "torch", "torchao")

_OPS = torch.ops.edge_hands
#: Operators that become ``.out`` forms with the same arguments, as ExecuTorch calls them.
_NATIVE = ("selective_scan", "deformable_scan", "selective_scan_int8", "deformable_scan_int8")
_SCAN_NAMES = tuple(f"edge_hands::{name}" for name in _NATIVE)


@dataclass(frozen=True)
class Program:
    """A lowered program: its bytes, what its delegates take, and the memory planned ahead for its tensors."""

    content: bytes
    coverage: Coverage
    planned_bytes: int


def export(model: QuantizedModel, source: Path, out: Path, scan: str = "portable") -> Variant:
    """Writes one of FILES (batch 1) to ``out`` and returns its entry for the manifest. Raises ExportError."""
    program = convert(model, scan)
    (out / FILES[scan]).write_bytes(program.content)
    return Variant(
        runtime="executorch",
        scan=scan,
        path=FILES[scan],
        input_names={"image": "0"},
        output_names={name: str(place) for place, name in enumerate(model.outputs.names)},
        config={
            "backend": "xnnpack",
            "planned_bytes": program.planned_bytes,
            **program.coverage.as_config(),
        },
    )


def convert(model: QuantizedModel, scan: str = "portable") -> Program:
    """The program of a converted model, executed once. Raises ExportError, also when the kernels cannot be built."""
    image = torch.rand(
        1, model.config.image_size, model.config.image_size, 3, generator=torch.Generator().manual_seed(0)
    )
    try:
        with _quiet():
            edge = _lower(_trace(model, image, scan))
            finished = edge.to_executorch()
    except Exception as error:  # lowering raises whatever its passes meet
        raise ExportError(f"ExecuTorch cannot lower {model.name}: {type(error).__name__}: {error}") from error
    _execute(finished.buffer, image, model.name, scan)
    sizes = finished.executorch_program.execution_plan[0].non_const_buffer_sizes
    return Program(finished.buffer, coverage(edge.exported_program()), sum(sizes))


class _Outputs(nn.Module):
    """A model with a tuple for its dictionary, in the order of the names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(image)
        return tuple(found[name] for name in self.model.outputs.names)


def _trace(model: QuantizedModel, image: torch.Tensor, scan: str) -> ExportedProgram:
    model = copy.deepcopy(model)
    executorch_graph.prepare(model.body)
    executorch_graph.plain_memory(model)
    program = torch.export.export(_Outputs(model), (image,))
    if scan == "native":
        return program
    # The portable scans hold constants and splits of their own.
    graph = program.run_decompositions(portable.FORMS).module(check_guards=False)
    executorch_graph.prepare(graph)
    return torch.export.export(graph, (image,))


def _lower(program: ExportedProgram) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    define_out_forms()
    return to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),  # slow, and the program is executed anyway
    )


@cache
def define_out_forms() -> torch.library.Library:
    """Schemas of ``edge_hands::*.out``, without which ExecuTorch cannot name our operators."""
    library = torch.library.Library("edge_hands", "FRAGMENT")
    for name in _NATIVE:
        if hasattr(_OPS, name):
            arguments = str(getattr(_OPS, name).default._schema).split("(", 1)[1].split(") ->")[0]
            library.define(f"{name}.out({arguments}, *, Tensor(a!) out) -> Tensor(a!)")
    return library


def _execute(content: bytes, image: torch.Tensor, name: str, scan: str) -> None:
    from executorch.runtime import Runtime, Verification

    try:
        if scan == "native":
            kernels.load()
        program = Runtime.get().load_program(content, verification=Verification.InternalConsistency)
        outputs = program.load_method("forward").execute([image])
    except RuntimeUnavailable as error:
        raise ExportError(f"{name} was lowered with native scans, but cannot be executed here: {error}") from error
    except RuntimeError as error:
        raise ExportError(f"ExecuTorch lowered {name} to a program that it cannot run: {error}") from error
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise ExportError(f"ExecuTorch lowered {name} to a program that gives values that are not finite")


def coverage(program: ExportedProgram) -> Coverage:
    """What the delegates of a lowered program (``EdgeProgramManager.exported_program()``) take."""
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    inside, pieces = 0, get_lowered_submodules(program.graph_module)
    for _, piece, _ in pieces:
        inside += sum(_macs(node) for node in piece.original_module.graph.nodes)
    own, outside, fallbacks = 0, 0, Counter()
    for node in program.graph.nodes:
        name = _operator(node)
        if name is None:
            continue
        if name.startswith("edge_hands::"):
            own += _macs(node)
            continue
        outside += _macs(node)
        fallbacks[name] += 1
    whole = max(1, inside + own + outside)
    return Coverage(inside / whole, own / whole, dict(sorted(fallbacks.items())), len(pieces))


def _operator(node: Node) -> str | None:
    """Name of the operator that a node calls, None for what is none: a delegate, a tuple's item, memory."""
    name = getattr(node.target, "name", None)
    if node.op != "call_function" or not callable(name) or "executorch_call_delegate" in str(node.target):
        return None
    return name().split(".")[0]


def _macs(node: Node) -> int:
    """Multiply-accumulates of a layer, matrix product or scan, counted as ``edge_hands.models.macs`` does; else 0."""
    name = _operator(node)
    if name not in ("aten::convolution", "aten::linear", "aten::addmm", "aten::mm", "aten::bmm", *_SCAN_NAMES):
        return 0
    shapes = [tuple(a.meta["val"].shape) for a in node.args if isinstance(a, Node) and hasattr(a.meta["val"], "shape")]
    size = prod(node.meta["val"].shape)
    if name == "aten::convolution":
        return size * prod(shapes[1][1:])
    if name in _SCAN_NAMES:
        states = next(shape[1] for shape in shapes if len(shape) == 2)
        points = int(node.args[-1]) if "deformable" in name else 0
        return scan_macs(size, states, points)
    inner = {"aten::linear": shapes[0][-1], "aten::addmm": shapes[-1][0]}.get(name, shapes[0][-1])
    return size * inner


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the warnings of ExecuTorch's passes out of our output."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
