"""Bundles: what a damaged, hostile or newer one is answered with. No runtime is involved."""

from __future__ import annotations

import json
import os

import pytest

from edge_hands import bundle as bundles
from edge_hands.errors import BundleError


def test_a_sound_bundle_gives_the_bytes_that_were_checked(bundle_dir):
    loaded = bundles.load(bundle_dir)
    (bundle_dir / "model.tflite").write_bytes(b"changed later")
    assert loaded.contents == {"model.tflite": b"not really"}
    assert loaded.size == 10
    assert loaded.manifest.input_shape == (1, 64, 64, 3)


def test_manifest_survives_the_way_to_disk_and_back(bundle_dir, make_manifest):
    file = bundles.describe_file(bundle_dir, "model.tflite")
    results = {"joints_mm": 0.04, "date": "2026-11-20", "by_device": {"linux": None}}
    written = make_manifest("landmarks", (file,), gate=results)
    bundles.write_manifest(bundle_dir, written)
    assert bundles.load(bundle_dir).manifest == written
    assert json.loads((bundle_dir / "manifest.json").read_text())["schema"] == 1
    assert sorted(path.name for path in bundle_dir.iterdir()) == ["manifest.json", "model.tflite"]


def test_a_result_that_json_cannot_hold_leaves_the_old_manifest(bundle_dir, make_manifest):
    before = (bundle_dir / "manifest.json").read_bytes()
    file = bundles.describe_file(bundle_dir, "model.tflite")
    with pytest.raises(BundleError, match="JSON cannot"):
        bundles.write_manifest(bundle_dir, make_manifest("landmarks", (file,), gate={"ratio": float("inf")}))
    assert (bundle_dir / "manifest.json").read_bytes() == before


def test_missing_folder_manifest_and_file(tmp_path, bundle_dir):
    with pytest.raises(BundleError, match="is not a folder"):
        bundles.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        bundles.load(tmp_path)
    (bundle_dir / "model.tflite").unlink()
    with pytest.raises(BundleError, match=r"model\.tflite is missing"):
        bundles.load(bundle_dir)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not reallX", "SHA-256 differs"), (b"not", "3 bytes where the manifest says 10"), (b"", "0 bytes")],
)
def test_a_changed_file(bundle_dir, content, message):
    (bundle_dir / "model.tflite").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        bundles.load(bundle_dir)


def test_a_newer_schema_says_so_whatever_else_it_holds(bundle_dir):
    (bundle_dir / "manifest.json").write_text('{"schema": 2, "all": "different"}')
    with pytest.raises(BundleError, match=r"schema 2, this edge_hands reads up to 1: .* newer version; upgrade"):
        bundles.load(bundle_dir)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a manifest in JSON"),
        ("\x00\x01", "not a manifest in JSON"),
        ("[1, 2]", "no whole number 'schema'"),
        ('{"schema": true}', "no whole number 'schema'"),
        ('{"schema": 1, "schema": 1}', "a key occurs twice"),
        ('{"schema": 1, "gate": {"x": NaN}}', "NaN is not a number"),
        ('{"schema": 1, "gate": {"x": 1e999}}', "1e999 is not a number"),
        ('{"schema": 1, "name": ["\\u001b[2J"]}', "holds control characters"),
        ("[" * 200_000, "not a manifest in JSON"),
        ('{"schema": 1}', "name: Field required"),
    ],
)
def test_what_is_not_a_manifest(bundle_dir, text, message):
    (bundle_dir / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        bundles.load(bundle_dir)


def test_a_manifest_that_is_not_utf8_or_too_large(bundle_dir):
    path = bundle_dir / "manifest.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(BundleError, match="utf-8"):
        bundles.load(bundle_dir)
    path.write_bytes(b" " * (bundles.MAX_MANIFEST_BYTES + 1))
    with pytest.raises(BundleError, match="more than the 1048576 allowed"):
        bundles.load(bundle_dir)


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/passwd",
        "a/../../outside",
        "a\\..\\b",
        "C:model",
        "",
        ".",
        "./model.tflite",
        "a//b",
        "manifest.json",
    ],
)
def test_a_path_that_leaves_the_bundle(edit, path):
    folder = edit(lambda content: content["files"][0].update(path=path))
    with pytest.raises(BundleError, match=r"files\.0\.path: "):
        bundles.load(folder)


def test_links_are_not_followed(bundle_dir, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"not really")
    (bundle_dir / "model.tflite").unlink()
    os.symlink(tmp_path / "elsewhere", bundle_dir / "model.tflite")
    with pytest.raises(BundleError, match="symbolic link"):
        bundles.load(bundle_dir)


def test_a_linked_folder_inside_is_not_followed(bundle_dir, tmp_path, edit):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.tflite").write_bytes(b"not really")
    os.symlink(tmp_path / "weights", bundle_dir / "weights")

    def move(content):
        content["files"][0]["path"] = content["variants"][0]["path"] = "weights/model.tflite"

    with pytest.raises(BundleError, match="weights is a symbolic link"):
        bundles.load(edit(move))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(bundle_dir):
    (bundle_dir / "model.tflite").unlink()
    os.mkfifo(bundle_dir / "model.tflite")
    with pytest.raises(BundleError, match="not a plain file"):
        bundles.load(bundle_dir)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda c: c.update(kind="gestures"), "kind: Input should be 'landmarks' or 'detector'"),
        (lambda c: c.update(colour="BGR"), "colour: Extra inputs"),
        (lambda c: c["files"][0].update(size=bundles.MAX_FILE_BYTES + 1), r"files\.0\.size"),
        (lambda c: c["files"][0].update(size=-1), r"files\.0\.size"),
        (lambda c: c["files"][0].update(sha256="0" * 63), r"files\.0\.sha256"),
        (lambda c: c["files"].append(c["files"][0]), "a file is listed twice"),
        (lambda c: c["variants"][0].update(path="other.tflite"), "'other.tflite', which is not among the files"),
        (lambda c: c["variants"][0]["output_names"].pop("presence"), "must name every input and output"),
        (lambda c: c["outputs"].pop(), "must have the output handedness"),
        (lambda c: c["outputs"][0].update(shape=[1, 20, 2]), r"joints_uv must be \[1, 21, 2\], not \[1, 20, 2\]"),
        (lambda c: c["inputs"][0].update(shape=[1, 3, 64, 64]), "input must be image"),
        (lambda c: c["inputs"][0].update(shape=[1, 1 << 20, 1 << 20, 3]), "sane size"),
        (lambda c: c["inputs"][0].update(shape=[1, 0, 64, 3]), "must be positive"),
        (lambda c: c["inputs"][0].update(layout="NCHW"), "layout must be NHWC"),
        (lambda c: c["outputs"][0].update(dtype="int8"), "float32"),
        (lambda c: c.update(variants=[]), "variants"),
    ],
)
def test_a_manifest_that_contradicts_itself(edit, how, message):
    with pytest.raises(BundleError, match=message):
        bundles.load(edit(how))


def test_a_detector_s_outputs_agree_on_their_count(bundle_dir, make_manifest):
    file = bundles.describe_file(bundle_dir, "model.tflite")
    good = make_manifest("detector", (file,))
    bundles.write_manifest(bundle_dir, good)
    outputs = [tensor.model_dump() for tensor in good.outputs]
    outputs[1]["shape"] = (1, 63, 4)
    with pytest.raises(ValueError, match="boxes must be"):
        make_manifest("detector", (file,), outputs=outputs)
