"""An exporter in a Python of its own: what comes back, and how it fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edge_hands import bundle as bundles  # noqa: E402
from edge_hands.cli.main import main  # noqa: E402
from edge_hands.errors import DataError, ExportError  # noqa: E402
from edge_hands.export_targets import isolated  # noqa: E402
from edge_hands.export_targets.devices import Device, Limits  # noqa: E402
from edge_hands.export_targets.exporter import export_bundle  # noqa: E402
from edge_hands.session import Session  # noqa: E402

BOARD = Device(
    name="board",
    title="A test board",
    abi="any",
    runtimes=("onnx", "torch"),
    limits=Limits(accuracy_mm=1.0, mean_mm=None, mean_px=0.1, sqnr_db=30.0, size_mb=2.0),
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of its own with our packages, and with another onnx, as far as its version tells."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    (site / "theirs.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    (site / "onnx-99.0.dist-info").mkdir()
    (site / "onnx-99.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: onnx\nVersion: 99.0\n")
    return python


def test_a_bundle_from_another_python(
    environment: Path, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    here, there, steps = tmp_path / "here", tmp_path / "there", []
    expected = export_bundle(stored, BOARD, here, count=2, scan="portable")
    for module in ("onnx", "edge_hands.export_targets.onnx_ops"):
        monkeypatch.setitem(sys.modules, module, None)  # this Python could not do it
    pythons = {"onnx": str(environment)}
    report = export_bundle(stored, BOARD, there, ("onnx", "torch"), None, 2, steps.append, "portable", pythons)
    assert report.passed, report.broken
    assert "converting to onnx scan portable" in steps and "converting to torch" in steps
    manifests = [bundles.load(folder).manifest for folder in (here, there)]
    assert (manifests[0].tools["onnx"] != "99.0", manifests[1].tools["onnx"]) == (True, "99.0")
    assert {variant.runtime for variant in manifests[1].variants} == {"onnx", "torch"}
    values = {check.name: check.value for check in report.checks}
    for check in expected.checks:
        if check.name.startswith("joints"):
            assert values[f"onnx portable: {check.name}"] == pytest.approx(check.value, abs=1e-4)
    image = rng.uniform(0, 1, (1, 64, 64, 3)).astype(np.float32)
    with Session.open(here, runtime="onnx") as ours, Session.open(there, runtime="onnx") as theirs:
        one, other = ours.run({"image": image}), theirs.run({"image": image})
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_bisection_goes_to_the_other_python(environment: Path, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_hands.export_targets.bisect import bisect_bundles

    for module in ("onnx", "edge_hands.export_targets.onnx_ops"):
        monkeypatch.setitem(sys.modules, module, None)  # this Python could not do it
    pythons, steps = {"onnx": str(environment)}, []
    ((form, found),) = bisect_bundles(stored, [BOARD], ("onnx",), None, steps.append, "native", pythons)
    assert form == "onnx, native scans"
    assert found.layer is None and found.cuts >= 1 and found.limit_db == 30.0
    assert found.lowest_db > 30 and found.layers > 20
    assert any(step.startswith("bisecting onnx, native form: cut 1") for step in steps)


def test_its_errors_keep_their_class(environment: Path, tmp_path: Path) -> None:
    request = {"source": str(tmp_path), "data": None, "count": 1, "runtime": "onnx", "scan": "portable", "settings": {}}
    with pytest.raises(DataError, match=rf"is no checkpoint.*\(in {environment}\)"):
        isolated.forms(str(environment), request, tmp_path, lambda text: None)


def test_the_float_twin_is_converted_beside_and_timed_as_often_as_asked(stored: Path) -> None:
    pytest.importorskip("litert_torch")
    with closing(isolated.FloatTwin(sys.executable, stored)) as twin:
        twin.wait()
        begun = time.monotonic()
        found = [twin.latency_ms(0.1) for _ in range(3)]
        assert all(0.01 < ms < 1000 for ms in found)
        assert time.monotonic() - begun >= 0.3  # measured anew each time


def test_a_float_twin_that_fails_says_why_when_it_is_asked(tmp_path: Path) -> None:
    with closing(isolated.FloatTwin(sys.executable, tmp_path)) as twin:
        twin.wait()
        with pytest.raises(DataError, match="is no checkpoint"):
            twin.latency_ms()


def test_a_float_twin_that_nobody_wants_any_more_is_ended(stored: Path) -> None:
    twin = isolated.FloatTwin(sys.executable, stored)
    process = twin._child._process
    assert process.poll() is None
    twin.close()
    assert process.returncode == -signal.SIGKILL


def test_another_version_is_refused(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "__version__", "0.0.1")
    with pytest.raises(ExportError, match="0.0.1 asks: install the same version"):
        isolated.finding(str(environment), {}, tmp_path, lambda text: None)


def test_a_python_without_edge_hands(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    with pytest.raises(ExportError, match="No module named 'edge_hands'; install edge_hands"):
        isolated.finding(python, {}, tmp_path, lambda text: None)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "gave no answer: it was ended by SIGSEGV"),
        ("echo full >&2; exit 3", "gave no answer: exit code 3: full"),
        ('echo \'{"error": "ExportError", "message": "no scale"}\'', "no scale .in "),
        ('echo \'{"error": "os", "message": "no class of ours"}\'', "no class of ours .in "),
        ("echo Segmentation fault", "gave no answer: .*Segmentation fault"),
    ],
)
def test_a_python_that_dies(tmp_path: Path, script: str, message: str) -> None:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    with pytest.raises(ExportError, match=message):
        isolated.finding(str(path), {}, tmp_path, lambda text: None)


def test_a_python_that_there_is_not(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nowhere/python cannot be started .No such file"):
        isolated.finding("/nowhere/python", {}, tmp_path, lambda text: None)
    with pytest.raises(ExportError, match="a Python is given for warp, which is no exporter: expected litert"):
        export_bundle(stored, BOARD, tmp_path / "out", pythons={"warp": "/nowhere/python"})


def test_the_command_line_asks_for_a_runtime_and_a_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["edge-hands", "export", "--model", str(tmp_path), "--out", str(tmp_path / "out"), "--python", "litert"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "'litert' is not RUNTIME=PATH" in " ".join(capsys.readouterr().err.split())
