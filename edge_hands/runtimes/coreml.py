"""Core ML, for Apple's devices: the real one on macOS, elsewhere a reference interpreter of the same package.

The reference runs the operations of the .mlpackage one by one in torch. It answers what the package computes, never
how fast; ``availability`` calls it "reference". Apple's hardware may add in another order, so rounding may differ.

Core ML reads a folder, not bytes. The verified bytes are written to a private temporary folder and opened there, so
what was checked is what runs; the bundle's own folder is not read again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edge_hands.bundle import Bundle, Variant
from edge_hands.errors import BundleError, EdgeHandsError
from edge_hands.runtimes.base import Availability, Found, Runtime, RuntimeOptions, check_tensors, unreadable

Arrays = dict[str, np.ndarray]
#: Inputs -> outputs by the package's names, and both as the package declares them.
Opened = tuple[Callable[[Arrays], Arrays], Found, Found]


class CoreML(Runtime):
    """An .mlpackage. ``config["function"]`` of the variant names one of its functions; without it the default runs."""

    name = "coreml"

    def __init__(
        self, predict: Callable[[Arrays], Arrays], variant: Variant, folder: tempfile.TemporaryDirectory
    ) -> None:
        self._predict, self._variant, self._folder = predict, variant, folder

    @classmethod
    def availability(cls) -> Availability:
        needed = ("coremltools",) if _on_a_mac() else ("coremltools", "torch")
        if missing := [package for package in needed if find_spec(package) is None]:
            return Availability(reason=f"{missing[0]} is not installed: pip install 'edge-hands[coreml]'")
        try:
            found = f"coremltools {version('coremltools')}"
        except PackageNotFoundError:
            found = "coremltools of unknown version"
        return Availability(version=found if _on_a_mac() else f"{found}, reference interpreter: not Core ML itself")

    @classmethod
    def timed(cls) -> bool:
        return _on_a_mac()

    @classmethod
    def load(cls, bundle: Bundle, variant: Variant, options: RuntimeOptions) -> CoreML:
        folder = tempfile.TemporaryDirectory(prefix="edge_hands_")  # readable by this user only
        try:
            package = _write(bundle, variant, Path(folder.name))
            function = str(variant.config.get("function", ""))
            predict, inputs, outputs = (_open_on_mac if _on_a_mac() else _open_reference)(package, function, options)
            check_tensors(bundle, variant, inputs, outputs)
        except BundleError:
            folder.cleanup()
            raise
        except Exception as error:  # coremltools raises whatever it meets: protobuf's, the compiler's, its own
            folder.cleanup()
            if folder.name in str(error):  # the user's bundle, not our copy of it
                error = RuntimeError(str(error).replace(folder.name, str(bundle.folder)))
            raise unreadable(bundle, variant, "Core ML", error) from error
        return cls(predict, variant, folder)

    def run(self, inputs: Arrays) -> Arrays:
        try:
            found = self._predict({self._variant.input_names[name]: array for name, array in inputs.items()})
        except (EdgeHandsError, RuntimeError) as error:
            raise BundleError(f"{self._variant.path} cannot run: {error}") from error
        return {name: np.array(found[theirs], np.float32) for name, theirs in self._variant.output_names.items()}

    def close(self) -> None:
        self._predict = None
        self._folder.cleanup()


def _on_a_mac() -> bool:
    return sys.platform == "darwin"


def _write(bundle: Bundle, variant: Variant, folder: Path) -> Path:
    """The verified files of the variant below ``folder``; the package's path."""
    for file in bundle.manifest.files_of(variant):
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bundle.contents[file.path])
    return folder / variant.path


def _open_on_mac(package: Path, function: str, options: RuntimeOptions) -> Opened:
    """Core ML on the CPU and the Neural Engine: a headset's GPU draws. It has no setting for threads."""
    import coremltools as ct

    model = ct.models.MLModel(str(package), compute_units=ct.ComputeUnit.CPU_AND_NE, function_name=function or None)
    if getattr(model, "_framework_error", None) is not None:  # coremltools would say so in the first call only
        raise model._framework_error
    whole = model.get_spec().description
    name = function or whole.defaultFunctionName
    described = next((one for one in whole.functions if one.name == name), whole)
    return model.predict, *(
        {feature.name: ("float32", tuple(feature.type.multiArrayType.shape)) for feature in features}
        for features in (described.input, described.output)
    )


def _open_reference(package: Path, function: str, options: RuntimeOptions) -> Opened:
    import torch

    from edge_hands.export_targets import mil_reference

    program = mil_reference.load(package, function)

    def predict(inputs: Arrays) -> Arrays:
        before = torch.get_num_threads()
        torch.set_num_threads(options.threads)
        try:
            return program(inputs)
        finally:
            torch.set_num_threads(before)

    return predict, *(
        {name: ("float32", tuple(shape or ())) for name, shape in tensors.items()}
        for tensors in (program.inputs, program.outputs)
    )
