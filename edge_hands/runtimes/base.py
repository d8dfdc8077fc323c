"""What every runtime is: a short class that turns the bytes of one variant of a bundle into a callable model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edge_hands.bundle import Bundle, Variant
from edge_hands.errors import BundleError


@dataclass(frozen=True)
class RuntimeOptions:
    """How to run: ``threads`` of the CPU for one model call."""

    threads: int = 1


@dataclass(frozen=True)
class Availability:
    """Whether something works here: its ``version`` when it does, else the ``reason`` with what to do.

    ``first`` is what opening does before it works, which takes long and can fail.
    """

    version: str | None = None
    reason: str | None = None
    first: str | None = None

    def __bool__(self) -> bool:
        return self.version is not None


#: Tensors of a model by its own names: dtype and shape, which is empty where the model leaves it open.
Found = dict[str, tuple[str, tuple[int, ...]]]


class Runtime(ABC):
    """A loaded model. Instances come from ``load`` and belong to one thread at a time; ``Session`` guards that."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability:
        """Whether this runtime can be imported here. Never raises and imports nothing heavy."""

    @classmethod
    def timed(cls) -> bool:
        """Whether its times mean something: those of a reference interpreter do not."""
        return True

    @classmethod
    def native(cls) -> Availability:
        """Whether native forms, whose scans call our kernels, run here, as far as can be said without compiling."""
        return cls.availability()

    @classmethod
    def readiness(cls, variant: Variant) -> Availability:
        """Whether ``variant``, one for this runtime, runs here. Never raises, loads and compiles nothing of it."""
        return cls.native() if variant.scan == "native" and cls.availability() else cls.availability()

    @classmethod
    @abstractmethod
    def load(cls, bundle: Bundle, variant: Variant, options: RuntimeOptions) -> Runtime:
        """A model from the verified bytes ``bundle.contents[variant.path]``.

        BundleError if they are not one; RuntimeUnavailable if this machine lacks what they need.
        """

    @abstractmethod
    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call: arrays by the manifest's input names, in C order, aligned and writeable, but not to be written to
        -> arrays by its output names, owned by the caller."""

    @abstractmethod
    def close(self) -> None:
        """Release the model. The session calls it once."""


def needs_library(name: str, version: str | None, path: Path | None) -> Availability:
    """Of native forms that need our library ``name``, which is at ``path`` or does not load."""
    if path is not None:
        return Availability(version=f"{version}, {name}")
    return Availability(
        reason=f"its scans need {name}, which is not there or does not load: install edge_hands again with a C++ "
        "compiler at hand, or export with --scan both"
    )


def check_tensors(bundle: Bundle, variant: Variant, inputs: Found, outputs: Found) -> None:
    """BundleError when the tensors found in the model are not those of the manifest."""
    where, again = bundle.folder / variant.path, "export the bundle again"
    if len(inputs) != len(bundle.manifest.inputs):
        raise BundleError(
            f"{where} has {len(inputs)} inputs where the manifest has {len(bundle.manifest.inputs)}: {again}."
        )
    for way, tensors, names, found in (
        ("input", bundle.manifest.inputs, variant.input_names, inputs),
        ("output", bundle.manifest.outputs, variant.output_names, outputs),
    ):
        for tensor in tensors:
            theirs, what = names[tensor.name], f"{where}: {way} {tensor.name}"
            if theirs not in found:
                raise BundleError(
                    f"{what} is called {theirs!r} in the manifest; the model has {', '.join(found)}: {again}."
                )
            dtype, shape = found[theirs]
            if (dtype, shape or tensor.shape) != (tensor.dtype, tensor.shape):
                raise BundleError(
                    f"{what} is {dtype} {list(shape)} in the model, {tensor.dtype} {list(tensor.shape)} in the "
                    f"manifest: {again}."
                )


def unreadable(bundle: Bundle, variant: Variant, runtime: str, error: Exception) -> BundleError:
    """The BundleError for bytes that ``runtime`` cannot load."""
    reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    where = bundle.folder / variant.path
    return BundleError(f"{where} is not a model that {runtime} can load: {reason}. Export it again.")
