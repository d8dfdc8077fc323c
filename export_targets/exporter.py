"""A quantised checkpoint -> a bundle for a device that has passed its gate.

An exporter is a module with ``export(model, source, out) -> Variant`` and ``TOOLS``; ``EXPORTERS`` names them. One that
can write a form with built-in operations only and one with our kernels says so by ``SCANS = ("portable", "native")``,
and its ``export`` takes ``scan``, one of them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from edge_hands.bundle import Manifest, Tensor, Variant, describe_variant, load, write_manifest
from edge_hands.errors import ExportError
from edge_hands.export_targets import coreml, executorch, gate, litert, onnx, torch_eager
from edge_hands.export_targets.devices import Device
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

#: What ``scan`` may be, and the forms that it asks for.
_SCANS = {"portable": ("portable",), "native": ("native",), "both": ("portable", "native")}

#: Real crops and frames that travel with the package, for a gate without --data.
SAMPLES = Path(__file__).parent / "samples"

#: Range and unit of every output.
_OUTPUTS: dict[str, tuple[tuple[float | None, float | None] | None, str]] = {
    "joints_uv": ((0.0, 1.0), "sides of the crop, x right, y down"),
    "joints_xyz": (None, "metres from the wrist, camera axes"),
    "confidence": ((0.0, 1.0), "probability"),
    "presence": ((0.0, 1.0), "probability of a hand"),
    "handedness": ((0.0, 1.0), "probability of a right hand"),
    "scores": ((0.0, 1.0), "probability of a hand"),
    "boxes": (None, "sides of the input, x0 y0 x1 y1"),
    "points": (None, "sides of the input; wrist, middle MCP"),
    "centers": (None, "sides of the input; of the aligned crop"),
    "sides": ((0.0, None), "sides of the input; of the aligned crop"),
}

_SCHEME = {
    "weights": "int8, symmetric, per output channel",
    "activations": "int8, affine, per tensor, static",
    "layers": "convolutions and linears, with their ReLU",
    "float32": "scan, offsets, sampling weights, dt, B, C, sums, products, head maps, decode",
}

#: Metrics of a checkpoint that the manifest repeats, of each stage.
_HEADLINES = (
    "error_2d_percent",
    "pa_mpjpe_mm",
    "presence_accuracy",
    "handedness_accuracy",
    "average_precision",
    "recall",
)


def export_bundle(
    source: str | Path,
    device: Device,
    out: str | Path,
    runtimes: tuple[str, ...] = (),
    data: str | Path | None = None,
    count: int = 200,
    step: Callable[[str], None] = lambda text: None,
    scan: str | None = None,
) -> gate.Report:
    """Exports the quantised checkpoint ``source`` to the bundle ``out`` and puts it through the gate of ``device``.

    ``runtimes`` default to the device's first one that we can export to; the gate runs the first of them, in every
    form. ``scan``, by default the device's, is "portable", "native" or "both", for runtimes that can have both. Crops
    or frames come from the val shards in ``data``, else from the package; ``step`` is told what is being done. The
    bundle is written whatever the gate says, its verdict is in the manifest. Raises ExportError or DataError.
    """
    source, out = Path(source), Path(out)
    exporters, scan = _exporters(device, runtimes), scan or device.scan
    if scan not in _SCANS:
        raise ExportError(f"scan is {scan!r}, expected one of {', '.join(_SCANS)}")
    step("rebuilding the quantised graph")
    model, meta = qat.load_quantized(source), checkpoint.load_meta(source)
    samples = _samples(model, data, count)
    out.mkdir(parents=True, exist_ok=True)
    variants = []
    for name, exporter in exporters.items():
        forms = [{"scan": form} for form in _SCANS[scan] if form in getattr(exporter, "SCANS", ())]
        for form in forms or [{}]:
            step(" ".join((f"converting to {name}", *form.values())))
            variants.append(exporter.export(model, source, out, **form))
    manifest = _manifest(model, meta, device, exporters, variants, out)
    write_manifest(out, manifest)
    step(f"gate: {len(samples['image'])} {'crops' if model.kind == 'landmarks' else 'frames'}")
    report = _gate(model, out, next(iter(exporters)), samples, device, step)
    machine = {"date": _now(), "machine": f"{platform.system()} {platform.machine()}, 1 thread"}
    write_manifest(out, manifest.model_copy(update={"gate": report.as_dict() | machine}))
    return report


def _exporters(device: Device, runtimes: tuple[str, ...]) -> dict[str, ModuleType]:
    known = [name for name in device.runtimes if name in EXPORTERS]
    wanted = runtimes or tuple(known[:1])
    if not wanted:
        raise ExportError(
            f"{device.name} takes {', '.join(device.runtimes)}, and this version exports {', '.join(EXPORTERS)} only"
        )
    for name in wanted:
        if name not in known:
            raise ExportError(f"cannot export {name} for {device.name}: expected one of {', '.join(known)}")
    return {name: EXPORTERS[name] for name in wanted}


def _samples(model: qat.QuantizedModel, data: str | Path | None, count: int) -> dict[str, np.ndarray]:
    """Val samples spread over the shards: image (n, H, W, 3) uint8 and the truth."""
    task = TASKS[model.kind]
    pool = Pool(data or SAMPLES / task.shards, "val", task.shards)
    chosen = np.linspace(0, len(pool) - 1, min(count, len(pool))).round().astype(int)
    return task.batches(pool, model.config.image_size, None)(chosen, np.random.default_rng(0))


def _gate(
    model: qat.QuantizedModel,
    out: Path,
    runtime: str,
    samples: dict[str, np.ndarray],
    device: Device,
    step: Callable[[str], None],
) -> gate.Report:
    limits, images = device.limits, samples["image"]

    @torch.inference_mode()
    def fake_quant(image: np.ndarray) -> dict[str, np.ndarray]:
        return {name: tensor.numpy() for name, tensor in model(torch.from_numpy(image)).items()}

    first = images[:1].astype(np.float32) / 255
    limit = limits.latency_ms if device.local else None
    loaded, checks = load(out), []
    forms = [variant.scan for variant in loaded.manifest.variants if variant.runtime == runtime]
    for form in forms:
        with Session.open(out, runtime=runtime, threads=1, scan=form) as session:
            bundle = lambda image: session.run({"image": image})  # noqa: B023, E731
            found = gate.parity(model.kind, images, bundle, fake_quant, limits, samples)
            own = gate.latency(bundle, first)
        found.append(gate.Check("latency on the exporting machine", own, "ms", limit))
        if (memory := session.stats.resident_bytes) is not None:
            budget = limits.memory_mb if device.local else None
            found.append(gate.Check("memory of loading and running", memory / 1e6, "MB", budget))
        several = len(forms) > 1
        checks += [replace(check, name=f"{form}: {check.name}") if several else check for check in found]
    checks.append(gate.Check("size of the files", loaded.size / 1e6, "MB", limits.size_mb))
    if runtime == "litert" and limits.latency_ratio is not None:
        step("converting the float32 network, to compare its latency")
        other = gate.latency(litert.predictor(litert.convert(_float_twin(model), quantized=False)), first)
        checks.append(gate.Check("latency over that of float32", own / other, "", limits.latency_ratio))
    return gate.Report(tuple(checks), len(images))


def _float_twin(model: qat.QuantizedModel) -> torch.nn.Module:
    """The same network unquantised, with fresh weights: only its speed is of interest."""
    twin = model.config.build()
    twin.name = model.name
    return fold_batch_norms(twin)


def _manifest(
    model: qat.QuantizedModel,
    meta: checkpoint.Meta,
    device: Device,
    exporters: dict[str, ModuleType],
    variants: list[Variant],
    out: Path,
) -> Manifest:
    size = model.config.image_size
    with torch.inference_mode():
        outputs = model(torch.zeros(1, size, size, 3))
    stages = {
        stage: {name: round(found[name], 4) for name in _HEADLINES if name in found}
        for stage, found in meta.metrics.items()
        if isinstance(found, dict)
    }
    return Manifest(
        name=model.name,
        kind=model.kind,
        device=device.name,
        created=_now(),
        tools={tool: version(tool) for exporter in exporters.values() for tool in ("edge-hands", *exporter.TOOLS)},
        files=tuple(file for variant in variants for file in describe_variant(out, variant)),
        variants=tuple(variants),
        inputs=(Tensor(name="image", shape=(1, size, size, 3), layout="NHWC", range=(0.0, 1.0), unit="RGB"),),
        outputs=tuple(
            Tensor(name=name, shape=tuple(tensor.shape), range=_OUTPUTS[name][0], unit=_OUTPUTS[name][1])
            for name, tensor in outputs.items()
        ),
        quantization=_SCHEME,
        accuracy={
            "stages": stages,
            "samples": meta.samples,
            "date": meta.date,
            "command": meta.command,
        }
        if stages
        else {},
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
