"""The coreml runtime: a bundle whose model is a folder, verified whole and run from verified bytes only."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_hands import bundle as bundles
from edge_hands import runtimes
from edge_hands.errors import BundleError, RuntimeUnavailable
from edge_hands.session import Session

pytest.importorskip("torch")
ct = pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'edge-hands[coreml]'")

IMAGE = np.linspace(0, 1, 64 * 64 * 3, dtype=np.float32).reshape(1, 64, 64, 3)
MODEL = "m.mlpackage/Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "m.mlpackage/Data/com.apple.CoreML/weights/weight.bin"


def gains(shape: tuple[int, ...]) -> np.ndarray:
    return np.linspace(0.1, 0.9, int(np.prod(shape)), dtype=np.float32).reshape(shape)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the landmark interface whose outputs are the image's mean times known gains."""
    from coremltools.converters.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec((1, 64, 64, 3))], opset_version=ct.target.iOS17)
    def build(image):
        mean = mb.reduce_mean(x=image, axes=[1, 2, 3], keep_dims=False)
        return tuple(
            mb.mul(x=mb.reshape(x=mean, shape=[1] * len(shape)), y=gains(shape), name=name)
            for name, shape in bundles.OUTPUTS["landmarks"].items()
        )

    path = tmp_path_factory.mktemp("coreml") / "m.mlpackage"
    with contextlib.redirect_stderr(io.StringIO()):
        ct.convert(
            build,
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        ).save(str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path, package: Path, make_manifest) -> Path:
    """A sound bundle with that model."""
    shutil.copytree(package, tmp_path / "b" / "m.mlpackage")
    names = {name: name for name in bundles.OUTPUTS["landmarks"]}
    variant = bundles.Variant(runtime="coreml", path="m.mlpackage", input_names={"image": "image"}, output_names=names)
    files = bundles.describe_variant(tmp_path / "b", variant)
    bundles.write_manifest(tmp_path / "b", make_manifest("landmarks", files, variants=[variant.model_dump()]))
    return tmp_path / "b"


def change(folder: Path, how) -> None:
    """Change the manifest's JSON; ``how`` gets it."""
    content = json.loads((folder / "manifest.json").read_text())
    how(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def test_a_bundle_with_a_folder_runs(folder: Path) -> None:
    with Session.open(folder) as session:  # nothing else can run it, so auto takes it
        assert session.runtime == "coreml"
        found = session.run({"image": IMAGE})
    assert [file.path for file in session.manifest.files_of(session.variant)][:2] == [MODEL, WEIGHTS]
    for name, shape in bundles.OUTPUTS["landmarks"].items():
        np.testing.assert_allclose(found[name], IMAGE.mean() * gains(shape), rtol=1e-5)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs here")
def test_off_a_mac_it_is_called_reference() -> None:
    assert "reference" in runtimes.get("coreml").availability().version
    assert runtimes.NAMES[-1] == "coreml"  # auto comes to it last


def test_every_file_of_the_folder_is_verified(folder: Path) -> None:
    for path in (MODEL, WEIGHTS, "m.mlpackage/Manifest.json"):
        before = (folder / path).read_bytes()
        (folder / path).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(BundleError, match="SHA-256 differs"):
            Session.open(folder)
        (folder / path).write_bytes(before)
    Session.open(folder).close()


def test_only_verified_bytes_reach_the_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lies in the folder unlisted is not taken along, and the folder may go once the session is open."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (folder / "m.mlpackage" / "unlisted").write_bytes(b"x")
    session = Session.open(folder)
    (private,) = tmp_path.glob("edge_hands_*")
    listed = {file.path for file in session.manifest.files}
    assert {path.relative_to(private).as_posix() for path in private.rglob("*") if path.is_file()} == listed
    assert private.stat().st_mode & 0o077 == 0
    shutil.rmtree(folder)
    assert session.run({"image": IMAGE})["presence"].shape == (1,)
    session.close()
    assert not private.exists()


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64, b"\x08\x08"])
def test_a_model_that_is_none_although_its_hash_is_right(folder: Path, damage: bytes) -> None:
    (folder / MODEL).write_bytes(damage)
    new = bundles.describe_file(folder, MODEL).model_dump()
    change(folder, lambda content: content["files"].__setitem__(0, new))
    with pytest.raises(BundleError, match="m.mlpackage is not a model that Core ML can load"):
        Session.open(folder)


def test_a_manifest_that_disagrees_with_the_model(folder: Path) -> None:
    change(folder, lambda content: content["variants"][0]["output_names"].update(presence="absence"))
    with pytest.raises(BundleError, match="presence is called 'absence' in the manifest; the model has joints_uv"):
        Session.open(folder)


def test_a_function_that_the_package_has_not(folder: Path) -> None:
    change(folder, lambda content: content["variants"][0].update(config={"function": "gpu"}))
    with pytest.raises(BundleError, match="has no function 'gpu': expected one of main"):
        Session.open(folder)


@pytest.mark.parametrize("path", [MODEL, "other.mlpackage", "m.mlpackage/", "", "..", "m.ml"])
def test_a_variant_names_a_folder_of_listed_files(folder: Path, path: str) -> None:
    change(folder, lambda content: content["variants"][0].update(path=path))
    with pytest.raises(BundleError, match="which is not among the files"):
        Session.open(folder)


def test_other_runtimes_take_files_only(folder: Path) -> None:
    change(folder, lambda content: content["variants"][0].update(runtime="litert"))
    with pytest.raises(BundleError, match="litert names 'm.mlpackage', which is not among the files"):
        Session.open(folder)


def test_without_coremltools_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_hands.runtimes.coreml.find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match="coreml portable: coremltools is not installed: pip install 'edge-"):
        Session.open(folder)
