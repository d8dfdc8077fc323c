"""The forms of one model: each runtime and way of scanning is converted once, and run once on the gate's samples.

Several devices share a form, so ``Forms`` keeps what it made; devices judge it by their own limits (``exporter``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from edge_hands import runtimes
from edge_hands.bundle import Variant, write_manifest
from edge_hands.export_targets import coreml, executorch, gate, litert, onnx, torch_eager
from edge_hands.export_targets.manifest import make_manifest
from edge_hands.quantization import checkpoint, qat
from edge_hands.quantization.data.shards import Pool
from edge_hands.quantization.fold import fold_batch_norms
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


@dataclass(frozen=True)
class Form:
    """A converted model in ``folder``, and what its runtime gave here: ``outputs`` of the first ``seen`` samples.

    ``latency_ms`` is None for a reference interpreter, ``version`` the runtime's.
    """

    runtime: str
    scan: str
    variant: Variant
    folder: Path
    outputs: gate.Arrays
    seen: int
    latency_ms: float | None
    resident_bytes: int | None
    version: str


class Forms:
    """The forms of the quantised checkpoint ``source``, made in ``folder`` when they are asked for.

    ``data`` is a folder of shards whose val samples the gate uses (default: those of the package), ``count`` of them;
    ``step`` is told what is being done. Raises ExportError or DataError.
    """

    def __init__(
        self, source: Path, folder: Path, data: str | Path | None, count: int, step: Callable[[str], None]
    ) -> None:
        step("rebuilding the quantised graph")
        self.source, self.folder, self.step = source, folder, step
        self.model, self.meta = qat.load_quantized(source), checkpoint.load_meta(source)
        self.samples = self._samples(data, count)
        self._made: dict[tuple[str, str], Form] = {}

    def get(self, runtime: str, scan: str) -> Form:
        """One form, converted and measured. ``scan`` is "portable" or "native", or "only" where there is one form."""
        if (runtime, scan) not in self._made:
            self._made[runtime, scan] = self._make(runtime, scan)
        return self._made[runtime, scan]

    @cached_property
    def reference(self) -> gate.Reference:
        """What the fake-quant model gives for the samples."""
        self.step(f"the fake-quant model on {len(self.images)} samples")

        @torch.inference_mode()
        def fake_quant(image: np.ndarray) -> gate.Arrays:
            return {name: tensor.numpy() for name, tensor in self.model(torch.from_numpy(image)).items()}

        return gate.Reference.of(fake_quant, self.images)

    @cached_property
    def float_latency_ms(self) -> float:
        """Of the same network unquantised, with fresh weights, in LiteRT: only its speed is of interest."""
        self.step("converting the float32 network, to compare its latency")
        twin = self.model.config.build()
        twin.name = self.model.name
        return gate.latency(litert.predictor(litert.convert(fold_batch_norms(twin), quantized=False)), self._first)

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

    def _make(self, runtime: str, scan: str) -> Form:
        exporter, folder = EXPORTERS[runtime], self.folder / f"{runtime}-{scan}"
        folder.mkdir(parents=True, exist_ok=True)
        choice = {"scan": scan} if scan != "only" else {}
        self.step(f"converting to {runtime}, {scan} scans" if choice else f"converting to {runtime}")
        variant = exporter.export(self.model, self.source, folder, **choice)
        write_manifest(folder, make_manifest(self.model, self.meta, "gate", [variant], exporter.TOOLS, folder))
        self.step(f"running {runtime}, {variant.scan} scans")
        with Session.open(folder, runtime=runtime, threads=1, scan=variant.scan) as session:
            run = lambda image: session.run({"image": image})  # noqa: E731
            begun = time.perf_counter()
            run(self._first)
            took = max(time.perf_counter() - begun, 1e-6)
            seen = int(np.clip(PATIENCE / took, LEAST, len(self.images)))
            outputs = gate.outputs_of(run, self.images[:seen])
            kind = runtimes.get(runtime)
            latency = gate.latency(run, self._first) if kind.timed() else None
            resident = session.stats.resident_bytes
        found = kind.availability().version or ""
        return Form(runtime, variant.scan, variant, folder, outputs, seen, latency, resident, found)
