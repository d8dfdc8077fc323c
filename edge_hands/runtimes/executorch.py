"""ExecuTorch with its XNNPACK delegate: a .pte program run by the runtime of the executorch wheel, which needs torch.

A bundle's native form calls our own scan kernels, compiled on first use for the installed release; where they cannot
be, the portable form runs, which is made of ExecuTorch's own operators only.
"""

from __future__ import annotations

import re
import threading
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

from edge_hands.bundle import Bundle, Tensor, Variant
from edge_hands.errors import BundleError, RuntimeUnavailable
from edge_hands.runtimes.base import Availability, Runtime, RuntimeOptions, unreadable

_METHOD = "forward"


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
    def load(cls, bundle: Bundle, variant: Variant, options: RuntimeOptions) -> ExecuTorch:
        kernels = None
        if variant.scan == "native":
            from edge_hands.kernels import executorch

            kernels = executorch.load()
            kernels.set_threads(options.threads)
        _pool.take(options.threads)
        try:
            program = _load_program(bundle, variant)
            _check_tensors(bundle, variant, program.metadata(_METHOD))
            return cls(program, kernels, variant)
        except BaseException:
            _pool.give()
            raise

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        arrays = (inputs[name] for name in self._inputs)
        tensors = [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in arrays]
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
        registry = Runtime.get().backend_registry
        named = sorted(name.decode() for name in set(re.findall(rb"[A-Z]\w{1,40}Backend\b", content)))
        if missing := [name for name in named if not registry.is_available(name)]:
            raise RuntimeUnavailable(
                f"{variant.path} needs the delegate {missing[0]}, which the installed ExecuTorch does not have (it has "
                f"{', '.join(filter(registry.is_available, registry.registered_backend_names))}): export it for one"
            ) from error
        raise unreadable(bundle, variant, "ExecuTorch", error) from error


def _check_tensors(bundle: Bundle, variant: Variant, found: Any) -> None:
    """The program's tensors against the manifest."""
    manifest, where = bundle.manifest, bundle.folder / variant.path
    for kind, tensors, names, count, meta in (
        ("input", manifest.inputs, variant.input_names, found.num_inputs(), found.input_tensor_meta),
        ("output", manifest.outputs, variant.output_names, found.num_outputs(), found.output_tensor_meta),
    ):
        if kind == "input" and count != len(tensors):
            raise BundleError(f"{where} has {count} inputs where the manifest has {len(tensors)}.")
        for tensor in tensors:
            _agree(tensor, names[tensor.name], count, meta, f"{where}: {kind} {tensor.name}")


def _agree(tensor: Tensor, place: str, count: int, meta: Any, what: str) -> None:
    index = -1
    with suppress(ValueError):
        index = int(place)
    if not 0 <= index < count:
        raise BundleError(f"{what} is number {place!r} in the manifest; the model has 0 to {count - 1}.")
    shape = tuple(meta(index).sizes())
    dtype = _SCALAR_TYPES.get(meta(index).dtype(), "another type")
    if (shape, dtype) != (tensor.shape, tensor.dtype):
        raise BundleError(
            f"{what} is {dtype} {list(shape)} in the model, {tensor.dtype} {list(tensor.shape)} in the manifest."
        )


#: ExecuTorch's numbers of the dtypes that a manifest knows.
_SCALAR_TYPES = {6: "float32"}
