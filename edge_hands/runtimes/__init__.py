"""Runtimes by name, in the order in which ``Session.open(runtime="auto")`` tries them.

A row names a class; its module is imported when it is asked for, and no runtime imports its library before that.
"""

from __future__ import annotations

from importlib import import_module

from edge_hands.errors import RuntimeUnavailable
from edge_hands.runtimes.base import Availability, Runtime, RuntimeOptions

_CLASSES = {
    "litert": "edge_hands.runtimes.litert:LiteRT",
    "executorch": "edge_hands.runtimes.executorch:ExecuTorch",
    "onnx": "edge_hands.runtimes.onnx:OnnxRuntime",
    "torch": "edge_hands.runtimes.torch_eager:TorchEager",
    "coreml": "edge_hands.runtimes.coreml:CoreML",
}
NAMES: tuple[str, ...] = tuple(_CLASSES)


def get(name: str) -> type[Runtime]:
    """The runtime class called ``name``; RuntimeUnavailable if there is none."""
    if name not in _CLASSES:
        raise RuntimeUnavailable(f"There is no runtime {name!r}: choose one of {', '.join(NAMES)}, or auto.")
    module, attribute = _CLASSES[name].split(":")
    return getattr(import_module(module), attribute)


__all__ = ["NAMES", "Availability", "Runtime", "RuntimeOptions", "get"]
