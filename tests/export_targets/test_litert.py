"""A quantised model through the whole export: what is in the file, what it computes, what its manifest says."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from edge_hands import bundle as bundles  # noqa: E402
from edge_hands import models  # noqa: E402
from edge_hands.cli.main import main  # noqa: E402
from edge_hands.errors import ExportError, RuntimeUnavailable  # noqa: E402
from edge_hands.export_targets import litert  # noqa: E402
from edge_hands.export_targets.devices import Device, Limits  # noqa: E402
from edge_hands.export_targets.exporter import export_bundle  # noqa: E402
from edge_hands.export_targets.forms import SAMPLES  # noqa: E402
from edge_hands.export_targets.gate import Report  # noqa: E402
from edge_hands.kernels import delegate  # noqa: E402
from edge_hands.kernels.delegate import DEFORMABLE_SCAN  # noqa: E402
from edge_hands.quantization import checkpoint, qat  # noqa: E402
from edge_hands.quantization.data.shards import Pool  # noqa: E402
from edge_hands.session import Session  # noqa: E402

#: Both kinds of block, and no more than needed: the converter's time grows with the graph.
SMALL = {"depths": [1, 0, 1, 1, 0, 0]}
BOARD = Device(
    name="board",
    title="A test board",
    abi="any",
    runtimes=("litert", "torch", "warp"),
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
    """A calibrated test_dfmamba with both runtimes, and both forms for LiteRT, in one bundle."""
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
    report = export_bundle(folder / "qat", BOARD, folder / "bundle", ("litert", "torch"), count=12, scan="both")
    return Exported(folder / "qat", qat.load_quantized(folder / "qat"), folder / "bundle", report)


def test_litert_computes_what_the_fake_quant_model_computes(exported: Exported) -> None:
    assert exported.report.passed, exported.report.broken
    assert exported.report.samples == 12
    values = {check.name: check.value for check in exported.report.checks}
    for scan in ("portable", "native"):
        assert values[f"litert {scan}: joints, mean"] < 0.05
        assert values[f"litert {scan}: presence SQNR"] > 40
    assert values["torch native: joints, mean"] == 0


def test_the_gate_says_what_the_delegates_take(exported: Exported) -> None:
    checks = {check.name: check for check in exported.report.checks}
    shares = {scan: checks[f"litert {scan}: share of the work in delegates and our kernels"] for scan in litert.SCANS}
    assert all(check.value > 0.95 for check in shares.values())
    assert "our kernels 0.0%" in shares["portable"].note and "our kernels 0.0%" not in shares["native"].note
    config = next(v.config for v in Session.open(exported.bundle).manifest.variants if v.scan == "native")
    assert 0 < config["own_kernels_macs"] < 0.2


def test_both_runtimes_open_the_bundle_and_agree(exported: Exported, rng: np.random.Generator) -> None:
    image = rng.uniform(0, 1, (1, 64, 64, 3)).astype(np.float32)
    with (
        Session.open(exported.bundle, runtime="litert") as lite,
        Session.open(exported.bundle, runtime="torch") as eager,
    ):
        ours, reference = lite.run({"image": image}), eager.run({"image": image})
    assert ours.keys() == reference.keys() == set(exported.model.outputs.names)
    assert np.abs(ours["joints_uv"] - reference["joints_uv"]).max() < 2e-3


def test_the_native_and_the_portable_form_agree(exported: Exported, rng: np.random.Generator) -> None:
    with (
        Session.open(exported.bundle, runtime="litert") as native,
        Session.open(exported.bundle, runtime="litert", threads=3) as threaded,
        Session.open(exported.bundle, runtime="litert", scan="portable") as portable,
    ):
        assert [session.variant.scan for session in (native, threaded, portable)] == ["native", "native", "portable"]
        for _ in range(3):
            image = rng.uniform(0, 1, (1, 64, 64, 3)).astype(np.float32)
            ours, theirs, others = (session.run({"image": image}) for session in (native, portable, threaded))
            for name, value in theirs.items():
                assert np.abs(ours[name] - value).mean() < 1e-3, name
                assert np.abs(ours[name] - others[name]).max() < 1e-5, name


def test_each_scan_of_the_native_form_is_one_operation(exported: Exported) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    portable, native = (
        schema.ModelT.InitFromObj(schema.Model.GetRootAs((exported.bundle / name).read_bytes()))
        for name in litert.FILES.values()
    )
    custom = [
        (file.operatorCodes[operator.opcodeIndex].customCode, operator)
        for file in (portable, native)
        for operator in file.subgraphs[0].operators
        if file.operatorCodes[operator.opcodeIndex].customCode
    ]
    target = torch.ops.edge_hands.deformable_scan.default
    scans = [node for node in exported.model.body.graph.nodes if node.target is target]
    assert [name for name, _ in custom] == [DEFORMABLE_SCAN.encode()] * len(scans)
    for (_, operator), node in zip(custom, scans, strict=True):
        height, width = node.args[8:10]
        assert bytes(operator.customOptions) == struct.pack("<4i", 1, height, width, 9)
        assert operator.customOptionsFormat == schema.CustomOptionsFormat.FLEXBUFFERS  # the only value of the schema
    assert len(native.subgraphs[0].operators) < len(portable.subgraphs[0].operators) - 20 * len(scans)


def test_a_native_form_alone_needs_the_delegate(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    folder = shutil.copytree(exported.bundle, tmp_path / "native")
    manifest = bundles.load(folder).manifest
    native = tuple(variant for variant in manifest.variants if (variant.runtime, variant.scan) == ("litert", "native"))
    bundles.write_manifest(folder, manifest.model_copy(update={"variants": native}))
    image = rng.uniform(0, 1, (1, 64, 64, 3)).astype(np.float32)
    with Session.open(folder) as session:
        expected = session.run({"image": image})
    with pytest.raises(RuntimeUnavailable, match="has no portable litert form, only litert native"):
        Session.open(folder, runtime="litert", scan="portable")

    monkeypatch.setattr(delegate, "_LIBRARY", "libnot_there.so")
    delegate.delegate_path.cache_clear()
    try:
        with pytest.raises(RuntimeUnavailable, match="litert native: .*libedge_hands_tflite.so.*--scan both"):
            Session.open(folder)
        with Session.open(exported.bundle, runtime="litert") as session:
            assert session.variant.scan == "portable"
            assert np.abs(session.run({"image": image})["joints_uv"] - expected["joints_uv"]).mean() < 1e-3
    finally:
        delegate.delegate_path.cache_clear()


@pytest.mark.slow
def test_tflite_runtime_runs_both_forms_with_the_same_delegate(
    exported: Exported, tflite_runtime_python: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """In its own environment: tflite-runtime 2.14 and numpy 1 instead of ai-edge-litert."""
    image = rng.uniform(0, 1, (1, 64, 64, 3)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    code = """
import sys
import numpy as np
from edge_hands.runtimes.litert import LiteRT
from edge_hands.session import Session
bundle, folder = sys.argv[1:]
image = np.load(folder + "/image.npy")
for scan in ("auto", "portable"):
    with Session.open(bundle, runtime="litert", threads=2, scan=scan) as session:
        np.savez(f"{folder}/{session.variant.scan}.npz", **session.run({"image": image}))
print(LiteRT.availability().version)
print(sorted({"torch", "ai_edge_litert"} & set(sys.modules)), session.runtime)
"""
    command = [str(tflite_runtime_python), "-c", code, str(exported.bundle), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["tflite-runtime 2.14.0", "[] litert"]
    for scan in litert.SCANS:
        with Session.open(exported.bundle, runtime="litert", scan=scan) as session:
            expected = session.run({"image": image})
        with np.load(tmp_path / f"{scan}.npz") as found:
            for name, value in expected.items():
                assert np.abs(found[name] - value).mean() < 1e-3, (scan, name)


@pytest.mark.parametrize("name", litert.FILES.values())
def test_the_file_holds_the_graphs_weights_and_scales(exported: Exported, name: str) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    content = (exported.bundle / name).read_bytes()
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
        ("litert", "native"),
        ("torch", "native"),
    ]
    assert manifest.inputs[0].shape == (1, 64, 64, 3)
    assert {output.name: output.shape for output in manifest.outputs}["joints_xyz"] == (1, 21, 3)
    assert manifest.accuracy["stages"] == {"ptq": {"pa_mpjpe_mm": 12.3456}}
    assert manifest.accuracy["command"] == "edge-hands quantize --model run"  # no paths of the machine
    assert manifest.gate["passed"] is True
    assert {"torch", "torchao", "litert-torch"} <= manifest.tools.keys()


def test_a_runtime_that_the_device_or_we_lack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot export onnx for board: expected one of litert, torch"):
        export_bundle(tmp_path, BOARD, tmp_path / "out", ("onnx",))
    elsewhere = Device(name="elsewhere", title="", abi="any", runtimes=("warp",))
    with pytest.raises(ExportError, match="elsewhere takes warp, and this version exports litert, .* only"):
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
        ({"--scan": "sideways"}, "scan is 'sideways', expected one of portable, native, both"),
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
