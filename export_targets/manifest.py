"""The manifest of a bundle: what an exported model is, as ``edge_hands.bundle`` reads it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch

from edge_hands.bundle import Manifest, Tensor, Variant, describe_variant
from edge_hands.quantization import checkpoint, qat
from edge_hands.quantization.quantizer import Scheme

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


def make_manifest(
    model: qat.QuantizedModel,
    meta: checkpoint.Meta,
    device: str,
    variants: Iterable[Variant],
    tools: dict[str, str],
    out: Path,
) -> Manifest:
    """Of the bundle ``out``, whose variants' files are there. ``tools`` are the packages that wrote them: versions."""
    size, variants = model.config.image_size, tuple(variants)
    with torch.inference_mode():
        outputs = model(torch.zeros(1, size, size, 3))
    stages = {
        stage: {name: round(found[name], 4) for name in _HEADLINES if name in found}
        for stage, found in meta.metrics.items()
        if isinstance(found, dict)
    }
    story = {"stages": stages, "samples": meta.samples, "date": meta.date, "command": meta.command}
    return Manifest(
        name=model.name,
        kind=model.kind,
        device=device,
        created=now(),
        tools={"edge-hands": version("edge-hands"), **tools},
        files=tuple(file for variant in variants for file in describe_variant(out, variant)),
        variants=variants,
        inputs=(Tensor(name="image", shape=(1, size, size, 3), layout="NHWC", range=(0.0, 1.0), unit="RGB"),),
        outputs=tuple(
            Tensor(name=name, shape=tuple(tensor.shape), range=_OUTPUTS[name][0], unit=_OUTPUTS[name][1])
            for name, tensor in outputs.items()
        ),
        quantization=_scheme(Scheme.of(meta.scheme)),
        accuracy=story if stages else {},
    )


def _scheme(chosen: Scheme) -> dict[str, str]:
    """How a model was quantised: the rules, and what was chosen beside them."""
    found = dict(_SCHEME)
    if chosen.keep_float:
        found["layers"] += f", but for {', '.join(chosen.keep_float)}"
    if chosen.int8_scans:
        found["activations"] += "; x and y of the scans as well"
    return found


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
