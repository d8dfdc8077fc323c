"""What every runtime is: a short class that turns the bytes of one variant of a bundle into a callable model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edge_hands.bundle import Bundle, Variant
from edge_hands.errors import BundleError, RuntimeUnavailable


@dataclass(frozen=True)
class RuntimeOptions:
    """How to run: ``threads`` of the CPU for one model call."""

    threads: int = 1


@dataclass(frozen=True)
class Availability:
    """Whether a runtime works here: its ``version`` when it does, else the ``reason`` with what to do."""

    version: str | None = None
    reason: str | None = None

    def __bool__(self) -> bool:
        return self.version is not None


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
    def choose(cls, bundle: Bundle) -> Variant | None:
        """The variant of the bundle that this runtime would run here, or None: portable forms, unless overridden.

        RuntimeUnavailable, with what to do, when there are variants for it that cannot run on this machine.
        """
        mine = [variant for variant in bundle.manifest.variants if variant.runtime == cls.name]
        return next((variant for variant in mine if variant.scan == "portable"), None)

    @classmethod
    @abstractmethod
    def load(cls, bundle: Bundle, variant: Variant, options: RuntimeOptions) -> Runtime:
        """A model from the verified bytes ``bundle.contents[variant.path]``; BundleError if they are not one."""

    @abstractmethod
    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call: arrays by the manifest's input names -> arrays by its output names, owned by the caller."""

    @abstractmethod
    def close(self) -> None:
        """Release the model. The session calls it once."""


def native_or_portable(bundle: Bundle, runtime: str, native: bool, library: str) -> Variant | None:
    """The native form of a runtime's two if ``native``, which says whether ``library`` loads, else the portable one.

    RuntimeUnavailable when the bundle has only a native form, which cannot run.
    """
    forms = {variant.scan: variant for variant in bundle.manifest.variants if variant.runtime == runtime}
    if "native" in forms and native:
        return forms["native"]
    if "native" in forms and "portable" not in forms:
        raise RuntimeUnavailable(
            f"the bundle has only a native form, whose scans need {library}, which is not there or does not load: "
            "install edge_hands with a C++ compiler at hand, or export with --scan both"
        )
    return forms.get("portable")


def unreadable(bundle: Bundle, variant: Variant, runtime: str, error: Exception) -> BundleError:
    """The BundleError for bytes that ``runtime`` cannot load."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return BundleError(f"{bundle.folder / variant.path} is not a model that {runtime} can load: {reason}")
