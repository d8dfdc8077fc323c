"""What is wrong with a bundle, or missing on this machine, is one sentence that says what to do: on every runtime, in
Python and at the command line the same."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_hands import bundle as bundles
from edge_hands.cli import main
from edge_hands.errors import BundleError, EdgeHandsError, RuntimeUnavailable
from edge_hands.session import Session

from .conftest import forms


def _file(folder: Path, suffix: str = "") -> Path:
    """The largest model file."""
    files = [folder / file.path for file in bundles.load(folder).manifest.files if file.path.endswith(suffix)]
    return max(files, key=lambda path: path.stat().st_size)


def _manifest(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / bundles.MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _replace(folder: Path, change: Callable[[bytes], bytes]) -> None:
    """Another model file, with the hash and size to match; of a Core ML package, the program."""
    path = next(folder.rglob("*.mlmodel"), None) or _file(folder)
    data = change(path.read_bytes())
    path.write_bytes(data)
    name = path.relative_to(folder).as_posix()
    entry = {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    _manifest(folder, lambda content: content["files"].__setitem__(_place(content, name), entry))


def _place(content: dict, name: str) -> int:
    return next(i for i, file in enumerate(content["files"]) if file["path"] == name)


def _flip(folder: Path) -> None:
    path = _file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(folder: Path) -> None:
    path = _file(folder)
    path.write_bytes(path.read_bytes()[:-1])


def _another_device(folder: Path) -> None:
    """A headset's bundle, whose only form is for a runtime of that headset."""

    def change(content: dict) -> None:
        content["device"] = "vision-pro"
        for variant in content["variants"]:
            variant["runtime"] = "visionos"
        if any("/" in file["path"] for file in content["files"]):  # only Core ML's models are folders
            content["variants"][0]["path"] = content["files"][0]["path"]

    _manifest(folder, change)


def _shape(folder: Path) -> None:
    _manifest(folder, lambda content: content["inputs"][0].update(shape=[1, 32, 32, 3]))


def _name(folder: Path) -> None:
    _manifest(folder, lambda content: [one["output_names"].update(presence="nobody") for one in content["variants"]])


AGAIN = r"[Ee]xport (or download )?(the bundle|it) again"
#: What is done to a bundle, the error, and what it says.
DAMAGES = {
    "wrong hash": (_flip, BundleError, r"its SHA-256 differs\. .*; export or download the bundle again"),
    "cut short": (_cut, BundleError, rf"bytes where the manifest says \d+: it is not whole. {AGAIN}"),
    "file missing": (lambda folder: _file(folder).unlink(), BundleError, rf"is missing: .* {AGAIN}"),
    "newer schema": (
        lambda folder: _manifest(folder, lambda content: content.update(schema=2)),
        BundleError,
        "has schema 2, this edge_hands reads up to 1: .* upgrade edge_hands or export the bundle again",
    ),
    "another device": (
        _another_device,
        RuntimeUnavailable,
        r"for vision-pro\) cannot run here: .* upgrade edge_hands\. .* edge-hands export --device NAME",
    ),
    "another shape": (_shape, BundleError, rf"input image .*\[1, 32, 32, 3\] in the manifest: {AGAIN}"),
    "another name": (_name, BundleError, rf"output presence is called 'nobody' in the manifest; .*: {AGAIN}"),
    "no model": (
        lambda folder: _replace(folder, lambda data: b"dear diary"),
        BundleError,
        r"is not a model that \w[\w ]* can load: .* Export it again",
    ),
}


@pytest.fixture(params=forms(), ids="-".join)
def form(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def folder(form: tuple[str, str], bundle_of, tmp_path: Path) -> Path:
    """A bundle with this form only, to be damaged."""
    made = Path(shutil.copytree(bundle_of("test_dfmamba", *form), tmp_path / "bundle"))
    manifest = bundles.load(made).manifest
    only = tuple(one for one in manifest.variants if (one.runtime, one.scan) == form)
    files = tuple(file for one in only for file in manifest.files_of(one))
    bundles.write_manifest(made, manifest.model_copy(update={"variants": only, "files": files}))
    return made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path):
    """``said(folder)`` -> the error of ``Session.open``, which ``edge-hands run`` must say too, word for word."""

    def get(folder: Path) -> EdgeHandsError:
        with pytest.raises(EdgeHandsError) as caught:
            Session.open(folder)
        photo = tmp_path / "photo.png"
        cv2.imwrite(str(photo), np.zeros((32, 32, 3), np.uint8))
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["edge-hands", "run", str(photo), "--landmarks", str(folder)])
        with pytest.raises(SystemExit) as end:
            main.main()
        out, err = capsys.readouterr()
        assert (end.value.code, out) == (2, "")
        ours = re.sub(r"^\[\w+\.cpp:\d+\].*\n?", "", err, flags=re.MULTILINE)  # ExecuTorch's own lines
        assert ours.split() == str(caught.value).split()
        message = str(caught.value)
        assert message.startswith(str(folder)) and message.endswith(".") and "\n" not in message
        return caught.value

    return get


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_bundle(folder: Path, form: tuple[str, str], said, damage: str) -> None:
    change, kind, message = DAMAGES[damage]
    change(folder)
    error = said(folder)
    assert type(error) is kind
    assert re.search(message, str(error)), error


def _without_library(module: str, cached: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    kernels = import_module(f"edge_hands.kernels.{module}")
    monkeypatch.setattr(kernels, "_LIBRARY", "libnot_there.so")
    getattr(kernels, cached).cache_clear()
    request.addfinalizer(getattr(kernels, cached).cache_clear)


@pytest.mark.parametrize("form", [form for form in forms() if form[0] != "torch" and form[1] == "native"], ids="-".join)
def test_a_native_form_without_our_kernels(
    folder: Path, form: tuple[str, str], said, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if form[0] == "executorch":
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
        monkeypatch.setenv("CXX", "no-such-compiler")
        message = r".*no C\+\+ compiler was found: install one"
    else:
        names = {"litert": ("delegate", "delegate_path"), "onnx": ("onnx_library", "library_path")}
        _without_library(*names[form[0]], monkeypatch, request)
        message = r"its scans need libedge_hands_\w+\.so, which is not there or does not load: install"
    error = said(folder)
    assert type(error) is RuntimeUnavailable
    found = str(error)
    sentence = rf"cannot run here: {form[0]} native: {message}.*\. Install what is missing, or export"
    assert re.search(sentence, found), found


@pytest.mark.parametrize("form", [form for form in forms() if form[0] == "executorch"], ids="-".join)
def test_a_program_for_a_delegate_that_is_not_here(folder: Path, form: tuple[str, str], said) -> None:
    _replace(folder, lambda data: data.replace(b"XnnpackBackend", b"QuantumBackend"))
    error = said(folder)
    assert type(error) is RuntimeUnavailable
    assert "needs the delegate QuantumBackend, which the installed ExecuTorch does not have" in str(error)
