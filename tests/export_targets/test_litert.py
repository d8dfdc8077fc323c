"""A quantised model through the whole export: what is in the file, what it computes, what its manifest says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from edge_hands import models  # noqa: E402
from edge_hands.cli.main import main  # noqa: E402
from edge_hands.errors import ExportError  # noqa: E402
from edge_hands.export_targets.devices import Device, Limits  # noqa: E402
from edge_hands.export_targets.exporter import SAMPLES, export_bundle  # noqa: E402
from edge_hands.export_targets.gate import Report  # noqa: E402
from edge_hands.quantization import checkpoint, qat  # noqa: E402
from edge_hands.quantization.data.shards import Pool  # noqa: E402
from edge_hands.session import Session  # noqa: E402

#: Both kinds of block, and no more than needed: the converter's time grows with the graph.
SMALL = {"depths": [1, 0, 1, 1, 0, 0]}
BOARD = Device(
    name="board",
    title="A test board",
    abi="any",
    runtimes=("litert", "torch", "executorch"),
    limits=Limits(accuracy_mm=1.0, mean_mm=None, mean_px=0.05, sqnr_db=30.0, size_mb=1.0),
)


@dataclass(frozen=True)
class Exported:
    checkpoint: Path
    model: qat.QuantizedModel
    bundle: Path
    report: Report


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A calibrated test_dfmamba with both runtimes in one bundle."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("export")
    model = models.create("test_dfmamba", **SMALL)
    with torch.no_grad():
        model.head.maps.weight.mul_(40)  # maps with peaks, as after training
        for key, parameter in model.named_parameters():
            if ".offset." in key or ".weight_proj." in key:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    graph = qat.prepare(model.eval())
    qat.observe(graph, observers=True, fake_quant=False)
    pool = Pool(SAMPLES / "crop", "val", "crop")
    images = np.stack([pool.image(index)[16:144:2, 16:144:2] for index in range(16)])
    with torch.no_grad():
        graph(torch.from_numpy(images).float() / 255)
    qat.observe(graph, observers=False, fake_quant=True)
    meta = checkpoint.Meta(
        "test_dfmamba",
        SMALL,
        step=3,
        stage=qat.STAGE,
        metrics={"ptq": {"pa_mpjpe_mm": 12.3456}},
        command="/a/b/edge-hands quantize --model /c/run",
    )
    checkpoint.save(folder / "qat", graph, meta)
    report = export_bundle(folder / "qat", BOARD, folder / "bundle", ("litert", "torch"), count=12)
    return Exported(folder / "qat", qat.load_quantized(folder / "qat"), folder / "bundle", report)


def test_litert_computes_what_the_fake_quant_model_computes(exported: Exported) -> None:
    assert exported.report.passed, exported.report.broken
    assert exported.report.samples == 12
    values = {check.name: check.value for check in exported.report.checks}
    assert values["joints, mean"] < 0.05
    assert values["presence SQNR"] > 40


def test_both_runtimes_open_the_bundle_and_agree(exported: Exported, rng: np.random.Generator) -> None:
    image = rng.uniform(0, 1, (1, 64, 64, 3)).astype(np.float32)
    with (
        Session.open(exported.bundle, runtime="litert") as lite,
        Session.open(exported.bundle, runtime="torch") as eager,
    ):
        ours, reference = lite.run({"image": image}), eager.run({"image": image})
    assert ours.keys() == reference.keys() == set(exported.model.outputs.names)
    assert np.abs(ours["joints_uv"] - reference["joints_uv"]).max() < 2e-3


def test_the_file_holds_the_graphs_weights_and_scales(exported: Exported) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    content = (exported.bundle / "model.tflite").read_bytes()
    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    tensors = [tensor for tensor in file.subgraphs[0].tensors if tensor.type == schema.TensorType.INT8]
    constant = [tensor for tensor in tensors if file.buffers[tensor.buffer].data is not None]
    scales = {
        (float(np.float32(tensor.quantization.scale[0])), int(tensor.quantization.zeroPoint[0]))
        for tensor in tensors
        if file.buffers[tensor.buffer].data is None
    }
    graph = exported.model.body
    wanted = {(float(np.float32(scale)), zero) for scale, zero in qat.activation_scales(graph)}
    assert scales <= wanted  # strict mode invents none
    assert len(scales) > 0.8 * len(wanted)

    stored = [np.frombuffer(bytes(file.buffers[t.buffer].data), np.int8) for t in constant]
    quantise = torch.ops.quantized_decomposed.quantize_per_channel
    for node in graph.graph.nodes:
        if node.target is quantise.default:
            weight, scale, zero = (_attribute(graph, argument.target) for argument in node.args[:3])
            integers = quantise(weight, scale, zero, *node.args[3:]).numpy()
            orders = (integers.transpose(0, 2, 3, 1), integers.transpose(1, 2, 3, 0))  # depth-wise weights lie turned
            nearest = min(
                np.abs(have.astype(int) - order.ravel()).max()
                for have in stored
                for order in orders
                if have.size == order.size
            )
            assert nearest <= 1, node.args[0].target


def _attribute(graph: torch.nn.Module, name: str) -> torch.Tensor:
    found = graph
    for part in name.split("."):
        found = getattr(found, part)
    return found.detach()


def test_the_manifest_tells_the_whole_story(exported: Exported) -> None:
    with Session.open(exported.bundle) as session:
        manifest = session.manifest
    assert (manifest.name, manifest.kind, manifest.device) == ("test_dfmamba", "landmarks", "board")
    assert [(variant.runtime, variant.scan) for variant in manifest.variants] == [
        ("litert", "portable"),
        ("torch", "native"),
    ]
    assert manifest.inputs[0].shape == (1, 64, 64, 3)
    assert {output.name: output.shape for output in manifest.outputs}["joints_xyz"] == (1, 21, 3)
    assert manifest.accuracy["stages"] == {"ptq": {"pa_mpjpe_mm": 12.3456}}
    assert manifest.accuracy["command"] == "edge-hands quantize --model run"  # no paths of the machine
    assert manifest.gate["passed"] is True
    assert {"torch", "torchao", "litert-torch"} <= manifest.tools.keys()


def test_a_runtime_that_the_device_or_we_lack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot export executorch for board: expected one of litert, torch"):
        export_bundle(tmp_path, BOARD, tmp_path / "out", ("executorch",))
    elsewhere = Device(name="elsewhere", title="", abi="any", runtimes=("warp",))
    with pytest.raises(ExportError, match="elsewhere takes warp, and this version exports litert, .*torch only"):
        export_bundle(tmp_path, elsewhere, tmp_path / "out")


def _type(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of ``edge-hands`` with these arguments."""
    monkeypatch.setattr("sys.argv", ["edge-hands", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_the_command_exits_with_1_when_a_limit_is_broken(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    device = tmp_path / "tight.toml"
    device.write_text(
        'title = "t"\nabi = "a"\nruntimes = ["torch"]\n[limits]\nsize_mb = 0.01\n[sources]\nabi = "none"\n'
    )
    arguments = ("--model", str(exported.checkpoint), "--out", str(tmp_path / "out"), "--count", "3")
    assert _type(monkeypatch, "export", *arguments, "--device", str(device)) == 1
    printed = capfd.readouterr()
    assert "gate of tight, 3 samples" in printed.out
    assert "does not pass the gate of tight: size of the files is" in printed.err
    with Session.open(tmp_path / "out") as session:
        assert session.manifest.gate["passed"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--device": "quest-9"}, "no device is called 'quest-9'"),
        ({"--model": "nowhere"}, "nowhere is no checkpoint"),
        ({"--data": "nowhere"}, "no shard val-*.tar in nowhere"),
        ({"--runtime": "coreml"}, "cannot export coreml for linux-x86_64"),
    ],
)
def test_the_command_says_what_is_wrong(
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    options = {"--model": str(exported.checkpoint), "--out": str(tmp_path / "out"), **change}
    assert _type(monkeypatch, "export", *[word for option in options.items() for word in option]) == 2
    assert message in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out").exists()
