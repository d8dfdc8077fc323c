"""ExecuTorch: a .pte program run by the runtime of the executorch wheel, which needs torch, and the delegates it has.

A bundle's native form calls our own scan kernels, compiled on first use for the installed release; where they cannot
be, the portable form runs, which is made of ExecuTorch's own operators only.
"""

from __future__ import annotations

import ctypes
import re
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

from edge_hands.bundle import Bundle, Variant
from edge_hands.errors import BundleError, RuntimeUnavailable
from edge_hands.runtimes.base import Availability, Found, Runtime, RuntimeOptions, check_tensors, unreadable

_METHOD = "forward"
#: Delegates as the exporter and a variant's ``config["backend"]`` name them, and as a .pte does.
DELEGATES = {
    "xnnpack": "XnnpackBackend",
    "vulkan": "VulkanBackend",
    "coreml": "CoreMLBackend",
    "qnn": "QnnBackend",
}
#: Libraries that a delegate opens when it loads a program. The wheel registers QnnBackend, but has none of Qualcomm's.
_LIBRARIES = {"QnnBackend": ("libQnnSystem.so", "libQnnHtp.so")}


class _Pool:
    """ExecuTorch's one thread pool. A loaded program keeps a pointer to it, so it never changes under an open one."""

    def __init__(self) -> None:
        self._lock, self._open, self._threads = threading.Lock(), 0, 0

    def take(self, threads: int) -> None:
        """Count a program in. Warns if it must share the pool of open ones that have another number of threads."""
        from executorch.extension.pybindings import portable_lib

        with self._lock:
            if not self._open:
                if portable_lib._threadpool_get_thread_count() != threads:
                    portable_lib._unsafe_reset_threadpool(threads)
                self._threads = threads
            self._open += 1
            shared = self._threads
        if shared != threads:
            warnings.warn(
                f"ExecuTorch has one thread pool in a process: this session runs on the {shared} thread(s) of those "
                f"that are open, not on {threads}. Close them first to change it.",
                RuntimeWarning,
                stacklevel=4,
            )

    def give(self) -> None:
        """Count a program out."""
        with self._lock:
            self._open -= 1


_pool = _Pool()


class ExecuTorch(Runtime):
    """The method "forward" of a .pte file; its inputs and outputs go by their places."""

    name = "executorch"

    def __init__(self, program: Any, kernels: Any, variant: Variant) -> None:
        # The program owns the bytes that its method reads.
        self._program, self._method, self._kernels = program, program.load_method(_METHOD), kernels
        self._inputs = sorted(variant.input_names, key=lambda name: int(variant.input_names[name]))
        self._outputs = {name: int(place) for name, place in variant.output_names.items()}

    @classmethod
    def availability(cls) -> Availability:
        install = "pip install 'edge-hands[executorch]'"
        for package in ("executorch", "torch"):
            if find_spec(package) is None:
                return Availability(reason=f"{package} is not installed: {install}")
        try:
            return Availability(version=version("executorch"))
        except PackageNotFoundError:
            return Availability(reason=f"executorch is not installed as a package: {install}")

    @classmethod
    def native(cls) -> Availability:
        try:
            from edge_hands.kernels import executorch as kernels

            first = None if kernels.ready() else "its kernels are compiled, some seconds"
        except ImportError:
            return Availability(
                reason="our kernels were not built: install edge-hands again with a C++ compiler at hand"
            )
        except RuntimeUnavailable as error:
            return Availability(reason=str(error))
        return Availability(version=f"{cls.availability().version}, our kernels", first=first)

    @classmethod
    def readiness(cls, variant: Variant) -> Availability:
        state, backend = super().readiness(variant), variant.config.get("backend", "xnnpack")
        if not state or backend == "xnnpack":  # every wheel has that one; of others its library is asked
            return state
        if backend not in DELEGATES:
            return Availability(reason=f"this version of edge_hands has no delegate {backend!r}: upgrade edge_hands")
        try:
            reason = lacking(DELEGATES[backend])
        except (ImportError, OSError, RuntimeError) as error:
            reason = f"executorch cannot be imported ({error}): install it again"
        return Availability(reason=reason) if reason else state

    @classmethod
    def load(cls, bundle: Bundle, variant: Variant, options: RuntimeOptions) -> ExecuTorch:
        kernels = None
        if variant.scan == "native":
            from edge_hands.kernels import executorch

            kernels = executorch.load()
            kernels.set_threads(options.threads)
        _pool.take(options.threads)
        try:
            program = _load_program(bundle, variant)
            found = program.metadata(_METHOD)
            inputs = _tensors(found.num_inputs(), found.input_tensor_meta)
            outputs = _tensors(found.num_outputs(), found.output_tensor_meta)
            check_tensors(bundle, variant, inputs, outputs)
            return cls(program, kernels, variant)
        except BaseException:
            _pool.give()
            raise

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        tensors = [torch.from_numpy(inputs[name]) for name in self._inputs]
        try:
            found = self._method.execute(tensors)
        except RuntimeError as error:
            reason = self._kernels.error() if self._kernels else ""
            raise BundleError(f"ExecuTorch cannot run this model: {reason or error}") from error
        return {name: found[place].numpy() for name, place in self._outputs.items()}

    def close(self) -> None:
        self._method = self._program = None
        _pool.give()


def _load_program(bundle: Bundle, variant: Variant) -> Any:
    """The program with its method loaded."""
    from executorch.runtime import Runtime, Verification

    content = bundle.contents[variant.path]
    try:
        # ExecuTorch's message quotes another mark, and aborts the process if that is not text.
        if content[4:6] != b"ET" or not content[6:8].isdigit():
            raise RuntimeError("it does not begin as a program does")
        # Release builds check nothing of a program unless they are told to.
        program = Runtime.get().load_program(content, verification=Verification.InternalConsistency)
        if _METHOD not in program.method_names:
            raise RuntimeError(f"it has no method {_METHOD}")
        program.load_method(_METHOD)
        return program
    except (RuntimeError, ValueError, TypeError) as error:
        named = sorted(name.decode() for name in set(re.findall(rb"[A-Z]\w{1,40}Backend\b", content)))
        if missing := list(filter(None, map(lacking, named))):
            raise RuntimeUnavailable(f"{variant.path}: {missing[0]}") from error
        raise unreadable(bundle, variant, "ExecuTorch", error) from error


def lacking(delegate: str) -> str | None:
    """What to do about a delegate, as a .pte names it, that the installed ExecuTorch does not have, or that lacks
    libraries of its own; None if it can run.

    Imports executorch and torch, and opens the libraries.
    """
    from executorch.runtime import Runtime

    registry = Runtime.get().backend_registry
    if registry.is_available(delegate):
        if missing := next((name for name in _LIBRARIES.get(delegate, ()) if not _opens(name)), None):
            return (
                f"its delegate {delegate} opens {missing}, which is not found: unpack the Qualcomm AI Runtime SDK and "
                "put the folder of it that has the library for this system (lib/x86_64-linux-clang, "
                "lib/aarch64-android) on LD_LIBRARY_PATH before Python starts, or export for xnnpack"
            )
        return None
    return (
        f"it needs the delegate {delegate}, which the installed ExecuTorch does not have (it has "
        f"{', '.join(filter(registry.is_available, registry.registered_backend_names))}): export it for one of these, "
        f"or run it on a device whose ExecuTorch is built with {delegate}"
    )


def _opens(library: str) -> bool:
    """Whether the system's loader finds and loads a library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _tensors(count: int, meta: Callable[[int], Any]) -> Found:
    """By their places."""
    found: Found = {}
    for place in range(count):
        try:
            tensor = meta(place)
        except (RuntimeError, IndexError):  # a number, say
            found[str(place)] = ("no tensor", ())
        else:
            found[str(place)] = (_SCALAR_TYPES.get(tensor.dtype(), "another type"), tuple(tensor.sizes()))
    return found


#: Types that a tensor may have, by ExecuTorch's numbers.
_SCALAR_TYPES = dict(enumerate(("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")))
_SCALAR_TYPES |= {11: "bool", 15: "bfloat16"}
