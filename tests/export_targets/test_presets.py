"""Every preset: the models pass its gate, each on the preset's first runtime. Minutes, as everything is converted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for _package in ("litert_torch", "executorch", "onnx", "coremltools"):
    pytest.importorskip(_package)

from safetensors import safe_open  # noqa: E402

from edge_hands import bundle as bundles  # noqa: E402
from edge_hands import models  # noqa: E402
from edge_hands.export_targets.devices import list_devices, load_device  # noqa: E402
from edge_hands.export_targets.exporter import export_bundles  # noqa: E402
from edge_hands.export_targets.forms import SAMPLES  # noqa: E402
from edge_hands.quantization import __file__ as _quantization  # noqa: E402
from edge_hands.quantization import checkpoint, qat  # noqa: E402
from edge_hands.quantization.data.shards import Pool  # noqa: E402
from edge_hands.quantization.train import TASKS  # noqa: E402

pytestmark = pytest.mark.slow

STORED = Path(__file__).parents[1] / "data" / "bundles"
CHECKPOINTS = Path(_quantization).parent / "checkpoints"
#: dfmamba_base at its own widths and image size, with one or no block a stage: all of it takes a quarter of an hour.
NARROW = {"depths": [1, 0, 1, 1, 0, 0]}


def source_of(name: str, folder: Path) -> Path:
    """A quantised checkpoint: the bundled ones' or, made from its stored bundle, a test model's."""
    if (CHECKPOINTS / name).is_dir():
        return CHECKPOINTS / name
    (folder / checkpoint.MODEL).write_bytes((STORED / name / "model.safetensors").read_bytes())
    with safe_open(folder / checkpoint.MODEL, "pt") as file:
        step = int(file.metadata()["step"])
    meta = checkpoint.Meta(name, step=step, stage=qat.STAGE, command="", date="2026-11-20T00:00:00+00:00")
    (folder / checkpoint.META).write_text(json.dumps(asdict(meta)))
    return folder


def passed(source: Path, names: list[str], out: Path, count: int) -> None:
    """Exports for these devices; fails with every broken check by device, and looks into the bundles."""
    devices = {out / name: load_device(name) for name in names}
    reports = list(export_bundles(source, devices, count=count))
    assert [device.name for device, _ in reports] == names
    broken = {device.name: report.broken for device, report in reports if not report.passed}
    assert not broken, broken
    for folder, device in devices.items():
        bundle = bundles.load(folder)
        assert bundle.manifest.gate["passed"] and bundle.manifest.device == device.name
        assert {variant.runtime for variant in bundle.manifest.variants} == {device.runtimes[0]}
        assert bundle.size <= device.limits.size_mb * 1e6


@pytest.mark.parametrize("name", ["test_dfmamba", "test_detector", "landmarks", "detector"])
def test_a_model_passes_every_preset(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    passed(source_of(name, tmp_path / "checkpoint"), list_devices(), tmp_path / "out", 8)


def test_the_base_model_passes_where_it_is_to_run(tmp_path: Path, rng: np.random.Generator) -> None:
    """docs/exporting.md has the commands for the whole of it."""
    torch.manual_seed(5)
    model = models.create("dfmamba_base", **NARROW)
    with torch.no_grad():
        model.head.maps.weight.mul_(40)  # maps with peaks, as after training
    graph = qat.prepare(model.eval())
    qat.observe(graph, observers=True, fake_quant=False)
    pool = Pool(SAMPLES / "crop", "val", "crop")
    batches = TASKS["landmarks"].batches(pool, model.config.image_size, None)
    images = torch.from_numpy(batches(np.arange(8), rng)["image"]).float() / 255
    with torch.no_grad():
        graph(images)
    qat.observe(graph, observers=False, fake_quant=True)
    meta = checkpoint.Meta("dfmamba_base", NARROW, step=1, stage=qat.STAGE, command="calibrated only")
    checkpoint.save(tmp_path / "checkpoint", graph, meta)
    passed(tmp_path / "checkpoint", ["linux-x86_64", "quest-3", "vision-pro"], tmp_path / "out", 4)
