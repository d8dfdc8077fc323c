"""Loading a package and running it: constants and weights once, the other operations in the program's order."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edge_hands.errors import ExportError
from edge_hands.export_targets.mil_reference.arguments import Arguments, Value, constant
from edge_hands.export_targets.mil_reference.table import OPERATIONS

_WEIGHTS = Path("Data", "com.apple.CoreML", "weights")


class ProgramError(ExportError):
    """A package is no ML Program, or does not compute what it declares."""


class UnknownOperation(ProgramError):
    """A program has an operation that this interpreter does not know."""


@dataclass(frozen=True)
class Step:
    """One operation: what computes it, where its arguments come from, and the declared type of each result."""

    kind: str
    name: str
    compute: Callable[[Arguments], Any]
    arguments: dict[str, Any]
    results: tuple[Any, ...]


class Program:
    """One function of an ML Program. ``inputs`` gives the shape of every input, ``outputs`` of every output.

    Floating-point outputs are float32 at the end.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._known: dict[Any, Value] = {}
        self._steps: list[Step] = []
        for operation in function.operations:
            self._add(operation)
        self.inputs = {name: _shape(variable) for name, variable in function.inputs.items()}
        self.outputs = {variable.name: _shape(variable) for variable in function.outputs}

    def __call__(
        self, inputs: dict[str, np.ndarray], trace: Callable[[str, str, Tensor], None] | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name; ``trace`` is told of every result: operation, name, value.

        Raises ProgramError when an operation gives another shape than the program declares, or cannot be computed.
        """
        values = dict(self._known)
        for name, variable in self._function.inputs.items():
            values[variable] = torch.from_numpy(np.array(inputs[name])).to(_torch_type(variable))
        with torch.inference_mode():
            for step in self._steps:
                for variable, result in zip(step.results, _run(step, values), strict=True):
                    values[variable] = result
                    if trace is not None:
                        trace(step.kind, variable.name, result)
        found = {variable.name: _read(variable, values) for variable in self._function.outputs}
        return {name: (v.float() if v.is_floating_point() else v).numpy() for name, v in found.items()}

    @property
    def operations(self) -> list[str]:
        """Kinds of the operations in order, without constants and weights."""
        return [step.kind for step in self._steps]

    def _add(self, operation: Any) -> None:
        kind = operation.op_type
        if kind == "const":
            return
        if kind not in OPERATIONS:
            raise UnknownOperation(
                f"operation {kind} ({operation.name}) is not in the reference interpreter: "
                "add it to export_targets/mil_reference, or run the package on a Mac"
            )
        arguments = {name: value for name, value in operation.inputs.items() if not name.startswith("_")}
        step = Step(kind, operation.name, OPERATIONS[kind], arguments, tuple(operation.outputs))
        if kind.startswith("constexpr_"):
            self._known.update(zip(step.results, _run(step, self._known), strict=True))
        else:
            self._steps.append(step)


def load(package: str | Path, function: str = "") -> Program:
    """The program of an .mlpackage, or its function of that name (its default one). Raises ProgramError."""
    try:
        with quiet():
            import coremltools as ct
            from coremltools.converters.mil.frontend.milproto.load import load as parse

            spec = ct.utils.load_spec(str(package))
            if spec.WhichOneof("Type") != "mlProgram":
                raise ProgramError(f"{package} holds a {spec.WhichOneof('Type')}, not an ML Program")
            program = parse(spec, spec.specificationVersion, str(Path(package) / _WEIGHTS))
    except ProgramError:
        raise
    except Exception as error:  # protobuf, the blob reader and the type inference of every operation
        raise ProgramError(f"{package} is no ML Program that coremltools can read: {error}") from error
    name = function or spec.description.defaultFunctionName or "main"
    if name not in program.functions:
        raise ProgramError(f"{package} has no function {name!r}: expected one of {', '.join(program.functions)}")
    return Program(program.functions[name])


def _run(step: Step, values: dict[Any, Value]) -> list[Value]:
    """Results of one operation, in the types and shapes that the program declares for them."""
    arguments = {name: _read(value, values) for name, value in step.arguments.items()}
    try:
        found = step.compute(Arguments(arguments, _shape(step.results[0])))
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ProgramError(f"operation {step.kind} ({step.name}): {type(error).__name__}: {error}") from error
    found = list(found) if isinstance(found, (list, tuple)) else [found]
    if len(found) != len(step.results):
        raise ProgramError(f"operation {step.kind} ({step.name}) gives {len(found)} results, not {len(step.results)}")
    return [_declared(step, variable, result) for variable, result in zip(step.results, found, strict=True)]


def _declared(step: Step, variable: Any, result: Value) -> Value:
    if not isinstance(result, Tensor):
        return result
    result, shape = result.to(_torch_type(variable)), _shape(variable)
    if shape is None:
        return result
    if result.numel() == 1 and shape in ((), (1,)):
        return result.reshape(shape)  # MIL's scalars are of either rank
    if tuple(result.shape) != shape:
        raise ProgramError(
            f"operation {step.kind} ({step.name}) gives {list(result.shape)} where the program declares {list(shape)}"
        )
    return result


def _read(value: Any, values: dict[Any, Value]) -> Value:
    """The value of a variable of the program, or of a list of them."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_read(item, values) for item in value]
    if value not in values:
        if value.op is None or value.op.op_type != "const":
            raise ProgramError(f"{value.name} is read before it is computed")
        values[value] = constant(value.val)
    return values[value]


def _shape(variable: Any) -> tuple[int, ...] | None:
    shape = getattr(variable, "shape", None)
    if shape is None or not all(isinstance(side, (int, np.integer)) for side in shape):
        return None
    return tuple(int(side) for side in shape)


def _torch_type(variable: Any) -> torch.dtype:
    from coremltools.converters.mil.mil import types

    name = types.builtin_to_string(variable.dtype)
    if name not in TYPES:
        raise ProgramError(f"{variable.name} is of type {name}: expected one of {', '.join(TYPES)}")
    return TYPES[name]


#: MIL's types; those of fewer than eight bits and the larger unsigned ones lie in what torch computes with, and float32
#: is not rounded to.
TYPES = {
    "fp16": torch.float16,
    "fp32": torch.float64,
    "bool": torch.bool,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps coremltools' progress bars, and its remarks on versions and a missing Core ML, out of our output."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
