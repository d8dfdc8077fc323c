"""Which form of a bundle runs here: what a session tries, in which order, and why the other forms would not do.

``choices`` opens nothing and compiles nothing, so ``edge-hands inspect`` can say what ``Session.open`` would do.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_hands import runtimes
from edge_hands.bundle import Bundle, Manifest, Variant
from edge_hands.errors import RuntimeUnavailable
from edge_hands.runtimes.base import Availability, Runtime, RuntimeOptions


@dataclass(frozen=True)
class Choice:
    """A form of a bundle, and whether it runs here."""

    variant: Variant
    state: Availability

    @property
    def name(self) -> str:
        return f"{self.variant.runtime} {self.variant.scan}"


def choices(manifest: Manifest, runtime: str = "auto", scan: str = "auto") -> list[Choice]:
    """The forms that ``Session.open`` tries with these arguments, in its order: runtimes as in ``runtimes.NAMES``, of
    each the native forms first. Forms for runtimes that this version does not know stand last.

    Raises RuntimeUnavailable for a ``runtime`` or ``scan`` that is none.
    """
    if scan not in ("auto", "native", "portable"):
        raise RuntimeUnavailable(f"scan must be auto, native or portable, not {scan!r}.")
    names = runtimes.NAMES if runtime == "auto" else (runtime,)
    kinds = {name: runtimes.get(name) for name in names}
    found = [
        Choice(variant, kind.readiness(variant))
        for name, kind in kinds.items()
        for wanted in ("native", "portable")
        for variant in manifest.variants
        if (variant.runtime, variant.scan) == (name, wanted) and scan in ("auto", wanted)
    ]
    unknown = Availability(reason="this version of edge_hands has no such runtime: upgrade edge_hands")
    others = [variant for variant in manifest.variants if variant.runtime not in runtimes.NAMES]
    return found + [
        Choice(variant, unknown) for variant in others if runtime == "auto" and scan in ("auto", variant.scan)
    ]


def open_first(bundle: Bundle, runtime: str, scan: str, options: RuntimeOptions) -> tuple[Variant, Runtime]:
    """The first of the ``choices`` that loads, loaded. RuntimeUnavailable, with every form's reason, if none does."""
    reasons = []
    for choice in choices(bundle.manifest, runtime, scan):
        reason = choice.state.reason
        if choice.state:
            try:
                return choice.variant, runtimes.get(choice.variant.runtime).load(bundle, choice.variant, options)
            except RuntimeUnavailable as error:  # kernels that do not compile, say: the next form may need none
                reason = str(error)
        reasons.append(f"{choice.name}: {reason.rstrip('.')}")
    advice = "Install what is missing"
    if not reasons:
        asked = " ".join(word for word in (scan, runtime) if word != "auto")
        there = ", ".join(f"{variant.runtime} {variant.scan}" for variant in bundle.manifest.variants)
        reasons, advice = [f"it has no {asked} form, only {there}"], "Ask for one of these"
    raise RuntimeUnavailable(
        f"{bundle.folder} ({bundle.manifest.name} for {bundle.manifest.device}) cannot run here: {'; '.join(reasons)}. "
        f"{advice}, or export the model for this machine: edge-hands export --device NAME."
    )
