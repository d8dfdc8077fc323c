"""The forms of one model: each runtime and way of scanning is converted once, and run once on the gate's samples.

Several devices share a form, so ``Forms`` keeps what it made; devices judge it by their own limits (``exporter``). An
exporter that has a Python of its own makes and runs its forms there (``isolated``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_hands import runtimes
from edge_hands.bundle import Variant, write_manifest
from edge_hands.export_targets import coreml, executorch, gate, isolated, litert, onnx, torch_eager
from edge_hands.export_targets.integer import DIVIDES, in_file
from edge_hands.export_targets.manifest import make_manifest
from edge_hands.quantization import checkpoint, qat
from edge_hands.quantization.data.shards import Pool
from edge_hands.quantization.train import TASKS
from edge_hands.session import Session

EXPORTERS: dict[str, ModuleType] = {
    "litert": litert,
    "executorch": executorch,
    "onnx": onnx,
    "torch": torch_eager,
    "coreml": coreml,
}
#: Real crops and frames that travel with the package, for a gate without --data.
SAMPLES = Path(__file__).parent / "samples"
#: Seconds that a runtime may spend on the samples; a slow one (a reference interpreter) sees fewer, but at least LEAST.
PATIENCE, LEAST = 30.0, 4
#: Seconds for which calls are timed, in so many turns.
_SECONDS, _TURNS = 1.0, 8


@dataclass(frozen=True)
class Form:
    """A converted model in ``folder``, and what its runtime gave here: ``outputs`` of the first ``seen`` samples.

    ``part`` names one function of a package that has several, each of which is a form; ``meant`` is what the form is to
    compute, None for the fake-quant model, and ``exact`` whether that is in the form's own arithmetic. ``latency_ms``
    is None for a reference interpreter, ``float_latency_ms`` that of the network unquantised, where both were timed in
    turns; ``version`` is the runtime's, ``tools`` are the packages that wrote the file, with their versions.
    ``instead`` is why the file does not run here, where the ``outputs`` are those of what stands in for it.
    """

    runtime: str
    scan: str
    part: str
    variant: Variant
    folder: Path
    outputs: gate.Arrays
    meant: gate.Reference | None
    seen: int
    latency_ms: float | None
    resident_bytes: int | None
    version: str
    tools: dict[str, str]
    exact: bool = False
    instead: str = ""
    float_latency_ms: float | None = None


class Forms:
    """The forms of the quantised checkpoint ``source``, made in ``folder`` when they are asked for.

    ``data`` is a folder of shards whose val samples the gate uses (default: those of the package), ``count`` of them;
    ``step`` is told what is being done. ``pythons`` names, for a runtime, the Python that makes and runs its forms,
    where that is not this one; ``patience`` is for how many seconds a form may run the samples. Raises ExportError or
    DataError.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        data: str | Path | None,
        count: int,
        step: Callable[[str], None],
        pythons: dict[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        step("rebuilding the quantised graph")
        self.source, self.folder, self.step, self._patience = source, folder, step, patience
        self.model, self.meta = qat.load_quantized(source), checkpoint.load_meta(source)
        self.samples = self._samples(data, count)
        #: These arguments, for a Python of its own.
        self.given, self._pythons = {"source": str(source), "data": data and str(data), "count": count}, pythons or {}
        self._made: dict[tuple, list[Form]] = {}
        self._exact: dict[tuple[str, str], gate.Reference] = {}
        self._twin: isolated.FloatTwin | None = None

    def get(self, runtime: str, scan: str, **settings: str) -> list[Form]:
        """A form, converted and measured: several if it is a package of several functions.

        ``scan`` is "portable" or "native", or "only" where there is one form; ``settings`` are what the exporter's own
        function ``settings`` says of a device.
        """
        key = (runtime, scan, *sorted(settings.items()))
        if key not in self._made:
            folder = self.folder / "-".join((runtime, scan, *settings.values()))
            folder.mkdir(parents=True, exist_ok=True)
            make = self._make_elsewhere if runtime in self._pythons else self.make
            self._made[key] = make(folder, runtime, scan, settings)
        return self._made[key]

    @cached_property
    def reference(self) -> gate.Reference:
        """What the fake-quant model gives for the samples."""
        self.step(f"the fake-quant model on {len(self.images)} samples")
        return gate.Reference.of(_in_torch(self.model), self.images)

    def _exact_reference(self, runtime: str, scan: str) -> gate.Reference:
        """What the fake-quant model gives for the samples in the arithmetic of a runtime and with the sums of its file:
        another order of sums rounds a value now and then to another integer."""
        if (runtime, scan) not in self._exact:
            self.step(f"the fake-quant model as {runtime} computes, {scan} scans, on {len(self.images)} samples")
            self._exact[runtime, scan] = gate.Reference.of(_in_torch(in_file(self.model, runtime, scan)), self.images)
        return self._exact[runtime, scan]

    def begin_float(self) -> None:
        """Has the same network unquantised converted in a process of its own, to be timed beside the int8 forms."""
        if self._twin is None:
            self.step("converting the float32 network meanwhile, to compare its latency")
            self._twin = isolated.FloatTwin(self._pythons.get("litert", sys.executable), self.source)

    def float_latency_ms(self, form: Form) -> float:
        """Of the same network unquantised, in LiteRT: timed in turns with ``form``, or now where that ran elsewhere."""
        self.begin_float()
        return form.float_latency_ms or self._twin.latency_ms()

    def close(self) -> None:
        """Ends what still works."""
        if self._twin is not None:
            self._twin.close()

    @property
    def images(self) -> np.ndarray:
        """(n, H, W, 3) uint8."""
        return self.samples["image"]

    @property
    def _first(self) -> np.ndarray:
        return self.images[:1].astype(np.float32) / 255

    def _samples(self, data: str | Path | None, count: int) -> dict[str, np.ndarray]:
        """Val samples spread over the shards: image (n, H, W, 3) uint8 and the truth."""
        task = TASKS[self.model.kind]
        pool = Pool(data or SAMPLES / task.shards, "val", task.shards)
        chosen = np.linspace(0, len(pool) - 1, min(count, len(pool))).round().astype(int)
        return task.batches(pool, self.model.config.image_size, None)(chosen, np.random.default_rng(0))

    def _make_elsewhere(self, folder: Path, runtime: str, scan: str, settings: dict[str, str]) -> list[Form]:
        asked = {"runtime": runtime, "scan": scan, "settings": settings}
        found = isolated.forms(self._pythons[runtime], self.given | asked, folder, self.step)
        return [Form(**form) for form in found]

    def make(self, folder: Path, runtime: str, scan: str, settings: dict[str, str]) -> list[Form]:
        exporter = EXPORTERS[runtime]
        choice = settings | ({"scan": scan} if scan != "only" else {})
        self.step(" ".join((f"converting to {runtime}", *(f"{key} {value}" for key, value in choice.items()))))
        variant = exporter.export(self.model, self.source, folder, **choice)
        tools = {tool: version(tool) for tool in exporter.TOOLS}
        parts = exporter.parts(self.model, variant) if hasattr(exporter, "parts") else {"": (variant, self.model)}
        made = []
        for part, (runnable, meant) in parts.items():
            part = part if len(parts) > 1 else ""
            self.step(f"running {runtime}, {part or f'{variant.scan} scans'}")
            write_manifest(folder, make_manifest(self.model, self.meta, "gate", [runnable], tools, folder))
            state, patience = runtimes.get(runtime).readiness(runnable), self._patience / len(parts)
            if not state and hasattr(exporter, "stand_in"):
                measured = self._on_samples(exporter.stand_in(folder, runnable), patience)
                measured |= {"latency_ms": None, "resident_bytes": None, "version": "not run here"}
                measured["instead"] = f"{state.reason}; compared: {runnable.config['stand_in']}"
            else:
                measured = self._measure(folder, runnable, patience)
            reference, numbers = None, _arithmetic(runtime, settings)
            if meant is not self.model:
                reference, numbers = gate.Reference.of(_in_torch(meant), self.images[: measured["seen"]]), ""
            elif numbers:
                reference = self._exact_reference(numbers, variant.scan).first(measured["seen"])
            # Around their integers come our kernels, or XNNPACK's operations, whose every rounding is known, or
            # float64. Of onnxruntime's own operations not all are known.
            measured["exact"] = bool(numbers) and (variant.scan == "native" or numbers != "onnx")
            form = Form(runtime, variant.scan, part, variant, folder, meant=reference, tools=tools, **measured)
            made.append(form)
        return made

    def _measure(self, folder: Path, variant: Variant, patience: float) -> dict[str, Any]:
        """What the gate wants to know of the bundle ``folder``, which has this variant only: fields of ``Form``."""
        kind = runtimes.get(variant.runtime)
        if self._twin is not None:
            self._twin.wait()  # a latency is of a machine with nothing else to do
        with Session.open(folder, runtime=variant.runtime, threads=1, scan=variant.scan) as session:
            run = lambda image: session.run({"image": image})  # noqa: E731
            measured = self._on_samples(run, patience) | {
                "resident_bytes": session.stats.resident_bytes,
                "version": kind.availability().version or "",
            }
            twin = self._twin if variant.runtime == "litert" else None
            return measured | (self._timed(run, twin) if kind.timed() else {"latency_ms": None})

    def _timed(self, run: gate.Predictor, twin: isolated.FloatTwin | None) -> dict[str, float]:
        """``latency_ms`` and, of a twin, ``float_latency_ms``. They take turns: what else the machine does, and
        how fast its clock is, then slows both alike."""
        least: dict[str, list[float]] = {"latency_ms": [], "float_latency_ms": []}
        for _ in range(_TURNS):
            least["latency_ms"].append(gate.latency(run, self._first, _SECONDS / _TURNS))
            if twin is not None:
                least["float_latency_ms"].append(twin.latency_ms(_SECONDS / _TURNS))
        return {name: min(found) for name, found in least.items() if found}

    def _on_samples(self, run: gate.Predictor, patience: float) -> dict[str, Any]:
        """``outputs`` and ``seen`` of a ``Form``: as many samples as ``patience`` seconds allow, but LEAST."""
        begun = time.perf_counter()
        run(self._first)
        took = max(time.perf_counter() - begun, 1e-6)
        seen = int(min(max(patience / took, LEAST), len(self.images)))
        return {"outputs": gate.outputs_of(run, self.images[:seen]), "seen": seen}


def _arithmetic(runtime: str, settings: dict[str, str]) -> str:
    """The runtime, as ``in_file`` takes it, that knows how a file's values are rounded; "" if none does."""
    backend = settings.get("backend", "xnnpack")
    name = runtime if backend == "xnnpack" else backend
    return name if name in (*DIVIDES, "coreml") else ""


def _in_torch(model: nn.Module) -> gate.Predictor:
    @torch.inference_mode()
    def predict(image: np.ndarray) -> gate.Arrays:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # of thousands of small operations, threads would wait for each other at each
        try:
            return {name: tensor.numpy() for name, tensor in model(torch.from_numpy(image)).items()}
        finally:
            torch.set_num_threads(threads)

    return predict
