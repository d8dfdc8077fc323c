"""The other verbs, ``--help``, and missing extras."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_hands.cli import main

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"


def test_help_lists_every_verb_fast_and_without_heavy_imports(edge_hands):
    done = edge_hands("--help")
    assert done.returncode == 0
    for verb in main.VERBS:
        assert f" {verb} " in done.stdout
    code = (
        "import sys, time, edge_hands.cli.main\n"
        "print(time.process_time(), *{'torch', 'cv2', 'ai_edge_litert', 'numpy', 'rich.progress'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *heavy = loaded.stdout.split()
    assert heavy == []
    assert float(seconds) < 0.7


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_has_help_and_is_usable(called, verb):
    code, out, _ = called(verb, "--help")
    assert code == 0
    assert "Usage:" in out
    assert "Not usable here" not in out


def test_version_and_unknown_verb(called):
    assert called("--version")[1].startswith("edge-hands ")
    assert called("dance")[0] == 2


@pytest.mark.parametrize("verb", main.VERBS)
def test_a_missing_package_is_one_sentence(called, monkeypatch, verb):
    def command():
        raise ModuleNotFoundError("No module named 'torch'")

    for registered in main.app.registered_commands:
        monkeypatch.setattr(registered, "callback", command)
    code, out, err = called(verb)
    extra = main.VERBS[verb]
    wanted = f"needs the {extra} extra: pip install 'edge-hands[{extra}]'" if extra else "Install again: pip install"
    assert (code, out) == (2, "")
    assert wanted in err
    assert len(err.strip().splitlines()) == 1


def test_training_without_torch(tmp_path):
    code = "import sys\nsys.modules['torch'] = None\nfrom edge_hands.cli.main import main\nmain()"
    command = [
        sys.executable,
        "-c",
        code,
        "train",
        "--model",
        "test_dfmamba",
        "--data",
        tmp_path,
        "--out",
        tmp_path / "o",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "edge-hands train needs the train extra: pip install 'edge-hands[train]'" in done.stderr


def test_inspect_verifies_and_describes(edge_hands, tmp_path):
    done = edge_hands("inspect", BUNDLES / "test_dfmamba", BUNDLES / "test_detector")
    assert done.returncode == 0, done.stderr
    for word in ("verified", "joints_xyz", "landmarks model", "detector model", "litert"):
        assert word in done.stdout
    folder = shutil.copytree(BUNDLES / "test_dfmamba", tmp_path / "b")
    (folder / "manifest.json").write_text('{"schema": 9}')
    done = edge_hands("inspect", folder)
    assert done.returncode == 2
    assert "newer version" in done.stderr


def test_inspect_says_what_a_session_takes_and_what_keeps_the_rest_from_it(called, tmp_path, monkeypatch):
    from edge_hands import bundle, runtimes
    from edge_hands.kernels import delegate

    folder = shutil.copytree(BUNDLES / "test_dfmamba", tmp_path / "b")
    manifest = bundle.load(folder).manifest
    portable = next(variant for variant in manifest.variants if variant.runtime == "litert")
    changes = ({"scan": "native"}, {}, {"runtime": "executorch", "scan": "native"}, {"runtime": "abacus"})
    variants = tuple(portable.model_copy(update=change) for change in changes)
    bundle.write_manifest(folder, manifest.model_copy(update={"variants": variants}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(delegate, "_LIBRARY", "libnot_there.so")
    monkeypatch.setattr("edge_hands.cli.console.out.width", 300)
    delegate.delegate_path.cache_clear()
    try:
        code, out, _ = called("inspect", folder)
        assert code == 0
        assert "no: its scans need libedge_hands_tflite.so, which is not there or does not load: install" in out
        assert "A session here takes litert portable." in out
        assert "no: this version of edge_hands has no such runtime" in out
        if runtimes.get("executorch").availability():
            assert "our kernels; first its kernels are compiled, some seconds" in out
            bundle.write_manifest(folder, manifest.model_copy(update={"variants": variants[2:]}))
            out = called("inspect", folder)[1]
            assert "takes executorch native; first its kernels are compiled, some seconds, and if that fails" in out
        bundle.write_manifest(folder, manifest.model_copy(update={"variants": variants[:1]}))
        assert "A session here takes none of them" in called("inspect", folder)[1]
    finally:
        delegate.delegate_path.cache_clear()


def test_doctor_names_runtimes_kernels_and_models(edge_hands):
    done = edge_hands("doctor")
    assert done.returncode in (0, 1)
    for word in (
        "Python",
        "kernels",
        "native forms",
        "runtime litert",
        "runtime torch",
        "model landmarks",
        "model detector",
    ):
        assert word in done.stdout


def test_devices_are_listed_and_described(called):
    code, out, _ = called("devices")
    assert code == 0
    assert "linux-x86_64" in out
    assert "runtimes" in called("devices", "linux-x86_64")[1]
    code, _, err = called("devices", "toaster")
    assert code == 2
    assert "toaster" in err


def test_a_fault_of_ours_is_still_one_sentence(called, monkeypatch):
    def broken():
        raise KeyError("surprise")

    monkeypatch.setattr(main, "app", broken)
    code, _, err = called("run")
    assert code == 2
    assert "A fault in edge_hands itself: KeyError: 'surprise'" in err
    assert "Traceback" not in err
