"""onnxruntime on its CPU provider: the runtime of Windows devices, and a second opinion everywhere else.

A native form's scans are custom ops of our library (``edge_hands.kernels.onnx_library``).
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edge_hands.bundle import Bundle, Variant
from edge_hands.errors import BundleError, RuntimeUnavailable
from edge_hands.runtimes.base import (
    Availability,
    Found,
    Runtime,
    RuntimeOptions,
    check_tensors,
    needs_library,
    unreadable,
)

_PACKAGE = "onnxruntime"
#: ORT_LOGGING_LEVEL_FATAL: what goes wrong is raised, and says so once.
_QUIET = 4


class OnnxRuntime(Runtime):
    """An .onnx file in an inference session."""

    name = "onnx"

    def __init__(self, session: Any, variant: Variant) -> None:
        self._session, self._variant = session, variant
        self._outputs = list(variant.output_names.values())

    @classmethod
    def availability(cls) -> Availability:
        try:
            if find_spec(_PACKAGE) is not None:
                return Availability(version=version(_PACKAGE))
        except (PackageNotFoundError, ValueError):
            pass
        return Availability(reason=f"{_PACKAGE} is not installed: pip install 'edge-hands[onnx]'")

    @classmethod
    def native(cls) -> Availability:
        return needs_library("libedge_hands_onnx.so", cls.availability().version, _library())

    @classmethod
    def load(cls, bundle: Bundle, variant: Variant, options: RuntimeOptions) -> OnnxRuntime:
        data, where = bundle.contents[variant.path], bundle.folder / variant.path
        # Every reference to a file beside the model holds this word; onnxruntime would follow it to any file.
        if b"location" in data:
            raise BundleError(
                f"{where} keeps weights in another file: a bundle's model must be whole. Export it again."
            )
        try:
            session = _session(data, options.threads, native=variant.scan == "native")
            inputs, outputs = _tensors(session.get_inputs()), _tensors(session.get_outputs())
        except RuntimeUnavailable:
            raise
        except Exception as error:  # onnxruntime's own errors have no common base
            raise unreadable(bundle, variant, "onnxruntime", error) from error
        check_tensors(bundle, variant, inputs, outputs)
        return cls(session, variant)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        feeds = {self._variant.input_names[name]: array for name, array in inputs.items()}
        found = self._session.run(self._outputs, feeds)
        return dict(zip(self._variant.output_names, found, strict=True))

    def close(self) -> None:
        self._session = None


def _library() -> Path | None:
    try:
        from edge_hands.kernels.onnx_library import library_path
    except ImportError:  # the kernels were not built
        return None
    return library_path()


def _session(data: bytes, threads: int, native: bool = False) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    if native:
        library = _library()
        if library is None:  # ``native`` said so, and was not asked
            raise RuntimeUnavailable(str(OnnxRuntime.native().reason))
        options.register_custom_ops_library(str(library))
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _QUIET
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would drain the battery
    if platform.machine().lower() in ("x86_64", "amd64") and not _has_vnni():
        # Products of uint8 and int8 are added in pairs into int16 there, and clip; this asks for a wider sum.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _has_vnni() -> bool:
    """Whether this x86 CPU adds int8 products into int32; False where the system does not tell."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def _tensors(parts: list[Any]) -> Found:
    """A side that the model leaves open is none of a manifest's."""
    kinds = {"tensor(float)": "float32"}
    return {part.name: (kinds.get(part.type, part.type), tuple(part.shape) or ("?",)) for part in parts}
