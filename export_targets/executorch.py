"""ExecuTorch export of a quantised model: a .pte whose int8 layers, and what they allow of the rest, run in a delegate.

Which one, a device's ``delegates`` say (``executorch_backends``). In the native form, which is for XNNPACK only, every
scan calls our own kernels (``edge_hands.kernels.executorch``), in the portable one it is made of ExecuTorch's own
operators, so that a stock runtime runs the file. What was written is executed once: faults of a delegate pass lowering
and show at the first run only. What this machine has no delegate for is verified and, as lowered, computed by torch.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from edge_hands.bundle import Variant
from edge_hands.errors import ExportError, RuntimeUnavailable
from edge_hands.export_targets import executorch_graph, portable
from edge_hands.export_targets.coverage import Coverage, scan_macs
from edge_hands.export_targets.executorch_backends import BACKENDS, settings
from edge_hands.export_targets.executorch_lowered import in_torch
from edge_hands.export_targets.quick_passes import needed_passes, quick_passes, remembered_results
from edge_hands.kernels import executorch as kernels
from edge_hands.kernels import torch_ops  # noqa: F401  (registers torch.ops.edge_hands)
from edge_hands.models.dssm import POINTS
from edge_hands.quantization.qat import QuantizedModel
from edge_hands.runtimes.executorch import DELEGATES as _IN_FILES
from edge_hands.runtimes.executorch import lacking

__all__ = ["DELEGATES", "FILES", "SCANS", "TOOLS", "Program", "convert", "coverage", "export", "settings", "stand_in"]

#: The forms that ``export`` can write, and their files; those of other delegates than XNNPACK have its name in theirs.
FILES = {"portable": "model.pte", "native": "model.native.pte"}
SCANS = tuple(FILES)
DELEGATES = tuple(BACKENDS)
#: Packages whose version decides what is written.
TOOLS = ("executorch", "torch", "torchao")

_OPS = torch.ops.edge_hands
#: Operators that become ``.out`` forms with the same arguments, as ExecuTorch calls them.
_NATIVE = ("selective_scan", "deformable_scan", "selective_scan_int8", "deformable_scan_int8")
_SCAN_NAMES = tuple(f"edge_hands::{name}" for name in _NATIVE)
#: Layers and matrix products, decomposed or not: that is the delegate's choice.
_CONVOLUTIONS = ("aten::convolution", "aten::conv2d")
_PRODUCTS = ("aten::linear", "aten::addmm", "aten::mm", "aten::bmm", "aten::matmul")


@dataclass(frozen=True)
class Program:
    """A lowered program: its bytes, what its delegates take, and the memory planned ahead for its tensors outside of
    them.

    ``lowered`` computes in torch what it does, (1, H, W, 3) -> the outputs in the order of the model's names, where
    this machine lacks the delegate.
    """

    content: bytes
    coverage: Coverage
    planned_bytes: int
    lowered: nn.Module | None


#: The last program that was exported. ``stand_in`` computes it: a .pte does not hold what its delegates were given.
_last: Program | None = None


def export(
    model: QuantizedModel, source: Path, out: Path, scan: str = "portable", backend: str = "xnnpack", target: str = ""
) -> Variant:
    """Writes one of FILES (batch 1) to ``out`` and returns its entry for the manifest. Raises ExportError.

    ``backend`` is one of DELEGATES, ``target`` what it is to be made for (see ``executorch_backends``).
    """
    global _last
    _last = program = convert(model, scan, backend, target)
    path = FILES[scan] if backend == "xnnpack" else f"model.{backend}.pte"
    (out / path).write_bytes(program.content)
    return Variant(
        runtime="executorch",
        scan=scan,
        path=path,
        input_names={"image": "0"},
        output_names={name: str(place) for place, name in enumerate(model.outputs.names)},
        config={
            "backend": backend,
            **({"target": target} if target else {}),
            **({"stand_in": BACKENDS[backend].stands_in} if program.lowered else {}),
            "planned_bytes": program.planned_bytes,
            **program.coverage.as_config(),
        },
    )


def stand_in(folder: Path, variant: Variant) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """What stands in for a file just exported to ``folder`` that cannot run here: its graph as lowered, in torch.

    The function takes (1, H, W, 3) float32 and gives the outputs by name. Raises ExportError for another file.
    """
    program, path = _last, folder / variant.path
    if program is None or program.lowered is None or program.content != path.read_bytes():
        raise ExportError(f"{path} is not the program that was exported last: export it again")
    names = sorted(variant.output_names, key=lambda name: int(variant.output_names[name]))

    @torch.inference_mode()
    def compute(image: np.ndarray) -> dict[str, np.ndarray]:
        outputs = program.lowered(torch.from_numpy(image))
        return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}

    return compute


@quick_passes()
def convert(model: QuantizedModel, scan: str = "portable", backend: str = "xnnpack", target: str = "") -> Program:
    """The program of a converted model, executed once where this machine has the delegate.

    Raises ExportError, also when the kernels cannot be built, or a delegate's compiler is not there.
    """
    if backend not in BACKENDS:
        raise ExportError(f"ExecuTorch has no delegate {backend!r} here: expected one of {', '.join(BACKENDS)}")
    chosen = BACKENDS[backend]
    if scan not in chosen.scans:
        raise ExportError(f"{backend} takes {' and '.join(chosen.scans)} scans only, not {scan}: set --scan")
    chosen.check(target)
    image = torch.rand(
        1, model.config.image_size, model.config.image_size, 3, generator=torch.Generator().manual_seed(0)
    )
    try:
        with _quiet(), remembered_results(), needed_passes():
            define_out_forms()
            edge = chosen.lower(_trace(model, image, scan, chosen.prepare), target)
            finished = edge.to_executorch()
    except Exception as error:  # lowering raises whatever its passes meet
        where = "" if backend == "xnnpack" else f" to {backend}"
        raise ExportError(f"ExecuTorch cannot lower {model.name}{where}: {type(error).__name__}: {error}") from error
    _refuse_faults(finished.buffer, backend, model.name)
    lowered = None
    if lacking(_IN_FILES[backend]):
        lowered = in_torch(edge.exported_program(), chosen.compute)
    _execute(finished.buffer, image, model.name, scan, lowered)
    sizes = finished.executorch_program.execution_plan[0].non_const_buffer_sizes
    return Program(finished.buffer, coverage(edge.exported_program()), sum(sizes), lowered)


class _Outputs(nn.Module):
    """A model with a tuple for its dictionary, in the order of the names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(image)
        return tuple(found[name] for name in self.model.outputs.names)


def _trace(
    model: QuantizedModel, image: torch.Tensor, scan: str, prepare: Callable[[GraphModule], None]
) -> ExportedProgram:
    model = copy.deepcopy(model)
    executorch_graph.prepare(model.body)
    if scan == "native":
        executorch_graph.fold_scans(model.body)
        prepare(model.body)
    executorch_graph.plain_memory(model)
    program = torch.export.export(_Outputs(model), (image,))
    if scan == "native":
        return program.run_decompositions(portable.ROOTS)
    # The portable scans hold constants and splits of their own.
    graph = program.run_decompositions(portable.FORMS).module(check_guards=False)
    executorch_graph.prepare(graph)
    prepare(graph)
    return torch.export.export(graph, (image,))


@cache
def define_out_forms() -> torch.library.Library:
    """Schemas of ``edge_hands::*.out``, without which ExecuTorch cannot name our operators."""
    library = torch.library.Library("edge_hands", "FRAGMENT")
    for name in _NATIVE:
        if hasattr(_OPS, name):
            arguments = str(getattr(_OPS, name).default._schema).split("(", 1)[1].split(") ->")[0]
            library.define(f"{name}.out({arguments}, *, Tensor(a!) out) -> Tensor(a!)")
    return library


def _refuse_faults(content: bytes, backend: str, name: str) -> None:
    for operator, fault in BACKENDS[backend].faults:
        if operator in content:
            raise ExportError(f"ExecuTorch lowered {name} to {backend}, where it cannot run: {fault}")


def _execute(content: bytes, image: torch.Tensor, name: str, scan: str, stand_in: nn.Module | None = None) -> None:
    """Verifies a program and runs it once, or what stands in for it."""
    from executorch.runtime import Runtime, Verification

    try:
        if scan == "native":
            kernels.load()
        program = Runtime.get().load_program(content, verification=Verification.InternalConsistency)
        if stand_in:
            with torch.inference_mode():
                outputs = stand_in(image)
        else:
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
    if name not in (*_CONVOLUTIONS, *_PRODUCTS, *_SCAN_NAMES):
        return 0
    shapes = [tuple(a.meta["val"].shape) for a in node.args if isinstance(a, Node) and hasattr(a.meta["val"], "shape")]
    size = prod(node.meta["val"].shape)
    if name in _CONVOLUTIONS:
        return size * prod(shapes[1][1:])
    if name in _SCAN_NAMES:
        states = next(shape[1] for shape in shapes if len(shape) == 2)
        names = [argument.name for argument in node.target._schema.arguments]
        points = int(dict(zip(names, node.args)).get("points", POINTS)) if "deformable" in name else 0
        return scan_macs(size, states, points)
    inner = {"aten::linear": shapes[0][-1], "aten::addmm": shapes[-1][0]}.get(name, shapes[0][-1])
    return size * inner


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the warnings of ExecuTorch's passes out of our output, and its hands off the root logger's level."""
    level, roots = logging.root.manager.disable, logging.root.level
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        logging.root.setLevel(roots)
