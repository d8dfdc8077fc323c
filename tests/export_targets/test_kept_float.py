"""Layers that a scheme keeps in float32, through every exporter: the gate passes, and the file holds their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for _package in ("litert_torch", "executorch", "onnx", "coremltools"):
    pytest.importorskip(_package)

from edge_hands import models  # noqa: E402
from edge_hands.export_targets.devices import load_device  # noqa: E402
from edge_hands.export_targets.exporter import export_bundle  # noqa: E402
from edge_hands.quantization import checkpoint, qat  # noqa: E402
from edge_hands.quantization.quantizer import layer_name  # noqa: E402

from .conftest import SMALL, _calibrated  # noqa: E402

pytestmark = pytest.mark.slow

#: A 3 x 3 convolution and a 1 x 1 one, whose weights have one order in every format.
KEPT = ("backbone.stem.1.0", "backbone.stage3.0.enter")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, crops) -> tuple[Path, bytes]:
    """A quantised checkpoint with KEPT in float32, and the bytes of the second one's weights."""
    torch.manual_seed(5)
    network = models.create("test_dfmamba", **SMALL)
    with torch.no_grad():
        network.head.maps.weight.mul_(40)  # maps with peaks, as after training
    scheme = qat.Scheme(KEPT)
    graph = _calibrated(qat.prepare(network.eval(), scheme), crops(16))
    folder = tmp_path_factory.mktemp("kept")
    meta = checkpoint.Meta("test_dfmamba", SMALL, step=1, stage=qat.STAGE, scheme=scheme.as_dict())
    checkpoint.save(folder, graph, meta)
    body = qat.load_quantized(folder).body
    convolutions = body.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    (layer,) = (node for node in convolutions if layer_name(node) == KEPT[1])
    weight = body.get_parameter(layer.args[1].target).detach().numpy()
    assert weight.dtype == np.float32 and weight.shape[2:] == (1, 1)
    return folder, weight.tobytes()


@pytest.mark.parametrize(
    ("device", "runtime", "scan"),
    [
        ("linux-x86_64", "litert", "both"),
        ("android-arm64", "executorch", "both"),
        ("linux-x86_64", "onnx", "portable"),  # its native form is held to 0.1 mm: docs/quantization.md
        ("iphone", "coreml", None),
    ],
)
def test_every_exporter_keeps_them(source: tuple[Path, bytes], tmp_path: Path, device, runtime, scan) -> None:
    folder, weight = source
    report = export_bundle(folder, load_device(device), tmp_path, (runtime,), count=8, scan=scan)
    assert report.passed, report.broken
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".tflite", ".pte", ".onnx", ".bin")]
    assert len(files) == (2 if scan == "both" else 1)
    for path in files:
        assert weight in path.read_bytes(), f"{path.name} has {KEPT[1]} in another form than float32"
