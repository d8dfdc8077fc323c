"""LiteRT (TensorFlow Lite) with its XNNPACK delegate: the default runtime, a pip wheel of a few megabytes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

from edge_hands.bundle import Bundle, Tensor, Variant
from edge_hands.errors import BundleError
from edge_hands.runtimes.base import Availability, Runtime, RuntimeOptions, unreadable

_PACKAGE = "ai-edge-litert"


class LiteRT(Runtime):
    """A .tflite file run through its one signature."""

    name = "litert"

    def __init__(self, interpreter: Any, runner: Any, variant: Variant) -> None:
        self._interpreter, self._runner, self._variant = interpreter, runner, variant

    @classmethod
    def availability(cls) -> Availability:
        try:
            if find_spec("ai_edge_litert") is not None:
                return Availability(version=version(_PACKAGE))
        except (PackageNotFoundError, ValueError):
            pass
        return Availability(reason=f"{_PACKAGE} is not installed: pip install {_PACKAGE}")

    @classmethod
    def load(cls, bundle: Bundle, variant: Variant, options: RuntimeOptions) -> LiteRT:
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(model_content=bundle.contents[variant.path], num_threads=options.threads)
            interpreter.allocate_tensors()  # packs the weights now rather than in the first frame
            runner = interpreter.get_signature_runner()
            inputs, outputs = runner.get_input_details(), runner.get_output_details()
        except (ValueError, RuntimeError, TypeError) as error:
            raise unreadable(bundle, variant, "LiteRT", error) from error
        manifest, where = bundle.manifest, bundle.folder / variant.path
        if len(inputs) != len(manifest.inputs):
            raise BundleError(f"{where} has {len(inputs)} inputs where the manifest has {len(manifest.inputs)}.")
        for tensor in manifest.inputs:
            _agree(tensor, variant.input_names[tensor.name], inputs, f"{where}: input {tensor.name}")
        for tensor in manifest.outputs:
            _agree(tensor, variant.output_names[tensor.name], outputs, f"{where}: output {tensor.name}")
        return cls(interpreter, runner, variant)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self._runner(**{self._variant.input_names[name]: array for name, array in inputs.items()})
        return {name: found[theirs] for name, theirs in self._variant.output_names.items()}

    def close(self) -> None:
        self._runner = self._interpreter = None


def _agree(tensor: Tensor, theirs: str, details: dict[str, dict[str, Any]], what: str) -> None:
    if theirs not in details:
        raise BundleError(f"{what} is called {theirs!r} in the manifest; the model has {', '.join(details)}.")
    shape, dtype = tuple(int(side) for side in details[theirs]["shape"]), np.dtype(details[theirs]["dtype"]).name
    if (shape, dtype) != (tensor.shape, tensor.dtype):
        raise BundleError(
            f"{what} is {dtype} {list(shape)} in the model, {tensor.dtype} {list(tensor.shape)} in the manifest."
        )
