"""Which form a session takes, said beforehand: the order, what is ready, would be compiled, or is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_hands import bundle as bundles
from edge_hands import runtimes
from edge_hands.choice import choices
from edge_hands.errors import RuntimeUnavailable
from edge_hands.session import Session

FORMS = [
    ("torch", "native"),
    ("executorch", "portable"),
    ("abacus", "native"),
    ("onnx", "portable"),
    ("onnx", "native"),
    ("litert", "portable"),
    ("litert", "native"),
    ("executorch", "native"),
]


@pytest.fixture
def folder(tmp_path: Path, make_manifest) -> Path:
    """A bundle for another device, with many forms of bytes that are no model."""
    (tmp_path / "model.tflite").write_bytes(b"not really")
    files = (bundles.describe_file(tmp_path, "model.tflite"),)
    one = make_manifest("landmarks", files).variants[0]
    variants = [one.model_copy(update={"runtime": runtime, "scan": scan}).model_dump() for runtime, scan in FORMS]
    bundles.write_manifest(tmp_path, make_manifest("landmarks", files, variants=variants, device="quest-3"))
    return tmp_path


def _names(found) -> list[str]:
    return [choice.name for choice in found]


def test_the_order_is_that_of_the_runtimes_and_native_comes_first(folder: Path) -> None:
    manifest = bundles.load(folder).manifest
    by_runtime = {name: [scan for runtime, scan in FORMS if runtime == name] for name in runtimes.NAMES}
    expected = [f"{name} {scan}" for name in runtimes.NAMES for scan in sorted(by_runtime[name])]
    assert _names(choices(manifest)) == [*expected, "abacus native"]
    assert _names(choices(manifest, "onnx")) == ["onnx native", "onnx portable"]
    assert _names(choices(manifest, scan="portable")) == ["litert portable", "executorch portable", "onnx portable"]
    assert choices(manifest, "coreml") == []
    for arguments in (("warp",), ("auto", "sideways")):
        with pytest.raises(RuntimeUnavailable, match="choose one of litert|must be auto, native or portable"):
            choices(manifest, *arguments)


def test_a_form_of_an_unknown_runtime_is_no_obstacle(folder: Path) -> None:
    (state,) = [choice.state for choice in choices(bundles.load(folder).manifest) if choice.name == "abacus native"]
    assert not state
    assert "upgrade edge_hands" in state.reason


@pytest.mark.parametrize(
    ("module", "cached", "runtime"),
    [
        ("edge_hands.kernels.delegate", "delegate_path", "litert"),
        ("edge_hands.kernels.onnx_library", "library_path", "onnx"),
    ],
)
def test_a_library_that_does_not_load_keeps_native_forms_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, cached: str, runtime: str
) -> None:
    from importlib import import_module

    if not runtimes.get(runtime).availability():
        pytest.skip(f"{runtime} is not installed")
    kernels = import_module(module)
    library = kernels._LIBRARY
    monkeypatch.setattr(kernels, "_LIBRARY", "libnot_there.so")
    getattr(kernels, cached).cache_clear()
    try:
        native, portable = choices(bundles.load(folder).manifest, runtime)
        assert f"its scans need {library}, which is not there or does not load: install" in native.state.reason
        assert portable.state
        with pytest.raises(RuntimeUnavailable, match=rf"for quest-3\) cannot run here: {runtime} native: its"):
            Session.open(folder, runtime, scan="native")
    finally:
        getattr(kernels, cached).cache_clear()


def test_nothing_is_compiled_and_nothing_heavy_imported(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom edge_hands import bundle, choice\n"
        "for one in choice.choices(bundle.load(sys.argv[1]).manifest): print(one.name, one.state.first)\n"
        "print(sorted({'torch', 'executorch', 'onnxruntime', 'ai_edge_litert', 'cv2'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(folder)]
    cache = tmp_path / "cache"
    environment = {"XDG_CACHE_HOME": str(cache), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    *lines, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    if runtimes.get("executorch").availability():
        assert "executorch native its kernels are compiled, some seconds" in lines
