"""LiteRT (TensorFlow Lite) with its XNNPACK delegate: the default runtime, a pip wheel of a few megabytes.

``ai-edge-litert``, or its predecessor ``tflite-runtime`` where only that is installed. Our delegate
(``edge_hands.kernels.delegate``) runs a native form's scans and, on CPUs where it is quicker, the int8 layers of every
form, with the same results; LiteRT runs the rest.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edge_hands.bundle import Bundle, Variant
from edge_hands.errors import RuntimeUnavailable
from edge_hands.runtimes.base import (
    Availability,
    Found,
    Runtime,
    RuntimeOptions,
    check_tensors,
    needs_library,
    unreadable,
)

#: Packages that hold an interpreter, the first that is installed is used: what pip calls them, and their module.
_PACKAGES = {"ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}


class LiteRT(Runtime):
    """A .tflite file run through its one signature."""

    name = "litert"

    def __init__(self, interpreter: Any, runner: Any, variant: Variant) -> None:
        self._interpreter, self._runner, self._variant = interpreter, runner, variant

    @classmethod
    def availability(cls) -> Availability:
        package = _package()
        if package is None:
            return Availability(reason="ai-edge-litert is not installed: pip install ai-edge-litert")
        found = version(package)
        if package == "tflite-runtime" and int(np.__version__.split(".")[0]) > 1:
            return Availability(
                reason=f"tflite-runtime {found} needs numpy below 2, found {np.__version__}: pip install ai-edge-litert"
            )
        return Availability(version=f"{package} {found}")

    @classmethod
    def native(cls) -> Availability:
        return needs_library("libedge_hands_tflite.so", cls.availability().version, _delegate_path())

    @classmethod
    def load(cls, bundle: Bundle, variant: Variant, options: RuntimeOptions) -> LiteRT:
        package = import_module(f"{_PACKAGES[_package() or 'ai-edge-litert']}.interpreter")
        delegate = _load_delegate(package, options.threads, needed=variant.scan == "native")
        try:
            interpreter = package.Interpreter(
                model_content=bundle.contents[variant.path],
                num_threads=options.threads,
                experimental_delegates=[delegate] if delegate else None,
            )
            interpreter.allocate_tensors()  # packs the weights now rather than in the first frame
            runner = interpreter.get_signature_runner()
            inputs, outputs = _tensors(runner.get_input_details()), _tensors(runner.get_output_details())
        except (ValueError, RuntimeError, TypeError) as error:
            raise unreadable(bundle, variant, "LiteRT", error) from error
        check_tensors(bundle, variant, inputs, outputs)
        return cls(interpreter, runner, variant)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self._runner(**{self._variant.input_names[name]: array for name, array in inputs.items()})
        return {name: found[theirs] for name, theirs in self._variant.output_names.items()}

    def close(self) -> None:
        self._runner = self._interpreter = None


def _package() -> str | None:
    """The first of _PACKAGES that is installed."""
    for package, module in _PACKAGES.items():
        try:
            if find_spec(module) is not None and version(package):
                return package
        except (PackageNotFoundError, ValueError):
            continue
    return None


def _delegate_path() -> Path | None:
    try:
        from edge_hands.kernels.delegate import delegate_path
    except ImportError:  # the kernels were not built
        return None
    return delegate_path()


def _load_delegate(package: Any, threads: int, needed: bool) -> Any:
    """Our delegate; None where there is none and it is not ``needed``."""
    path = _delegate_path()
    if path is None:
        if needed:  # ``native`` said so, and was not asked
            raise RuntimeUnavailable(str(LiteRT.native().reason))
        return None
    try:
        return package.load_delegate(str(path), {"threads": threads})
    except (ValueError, OSError) as error:  # EDGE_HANDS_ISA names a row that this CPU lacks, say
        if needed:
            reason = " ".join(str(error).split())
            raise RuntimeUnavailable(f"the delegate of our scans does not start: {reason}") from error
        return None


def _tensors(details: dict[str, dict[str, Any]]) -> Found:
    return {
        name: (np.dtype(part["dtype"]).name, tuple(int(side) for side in part["shape"]))
        for name, part in details.items()
    }
