"""Signatures: what a changed, foreign or unsigned bundle is answered with, and that keys are handled with care."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cryptography")

from edge_hands import bundle as bundles  # noqa: E402
from edge_hands import signing  # noqa: E402
from edge_hands.errors import BundleError, DataError  # noqa: E402
from edge_hands.session import Session  # noqa: E402
from edge_hands.tracker import HandTracker  # noqa: E402


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    private = tmp_path_factory.mktemp("keys") / "maker.pem"
    return private, signing.new_key(private)


@pytest.fixture
def signed(bundle_dir: Path, keys: tuple[Path, Path]) -> Path:
    signing.sign(bundle_dir, keys[0])
    return bundle_dir


def test_a_signed_bundle_is_accepted(signed: Path, keys: tuple[Path, Path]) -> None:
    checked = signing.verify(signed, keys[1])
    assert checked.contents == {"model.tflite": b"not really"}
    assert bundles.load(signed, keys[1].read_bytes()) == checked  # a key inside an app
    assert bundles.load(signed) == checked  # nobody asked


def test_the_signature_is_the_one_of_the_document(signed: Path, keys: tuple[Path, Path]) -> None:
    """Against the primitive itself, so that other languages can be written from the docstring alone."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    kind, key, encoded = (signed / "manifest.sig").read_text().split()
    public = load_pem_public_key(keys[1].read_bytes())
    assert (kind, key) == ("ed25519", signing.key_id(public.public_bytes_raw()))
    import base64

    message = b"edge_hands bundle manifest, version 1\n" + (signed / "manifest.json").read_bytes()
    public.verify(base64.b64decode(encoded), message)


def _change_manifest(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"device": "quest-3"}))


def _change_file_and_hash(folder: Path) -> None:
    """What an attacker does: another model, with the hashes to match."""
    (folder / "model.tflite").write_bytes(b"a bad model")
    content = json.loads((folder / "manifest.json").read_text())
    content["files"] = [bundles.describe_file(folder, "model.tflite").model_dump()]
    (folder / "manifest.json").write_text(json.dumps(content))


def _link(folder: Path) -> None:
    (folder / "manifest.sig").rename(folder / "elsewhere")
    (folder / "manifest.sig").symlink_to(folder / "elsewhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change_manifest, "manifest.json is not what .* signed: the manifest or manifest.sig was changed"),
        (_change_file_and_hash, "manifest.json is not what .* signed"),
        (lambda folder: (folder / "model.tflite").write_bytes(b"not realli"), "its SHA-256 differs"),
        (lambda folder: (folder / "model.tflite").write_bytes(b"short"), "5 bytes where the manifest says 10"),
        (lambda folder: (folder / "manifest.sig").unlink(), "is not signed: it has no manifest.sig"),
        (lambda folder: (folder / "manifest.sig").write_bytes(b""), "manifest.sig is not a signature"),
        (lambda folder: (folder / "manifest.sig").write_bytes(b"\xff" * 90), "manifest.sig is not a signature"),
        (lambda folder: (folder / "manifest.sig").write_bytes(b"x" * 5000), "5000 bytes, more than the 256 allowed"),
        (
            lambda folder: (folder / "manifest.sig").write_text("ed25519 0011223344556677 " + "A" * 84 + "\n"),
            "manifest.sig is not a signature",
        ),
        (
            lambda folder: (folder / "manifest.sig").write_text("ed25519 0011223344556677 " + "A" * 86 + "==\n"),
            "signed with the key 0011223344556677, not with .*maker.pem.pub",
        ),
        (_link, "manifest.sig is a symbolic link"),
    ],
)
def test_what_is_wrong_is_said(signed: Path, keys: tuple[Path, Path], change, message: str) -> None:
    change(signed)
    for check in (signing.verify, bundles.load):
        with pytest.raises(BundleError, match=message):
            check(signed, keys[1])
    with pytest.raises(BundleError, match=message):
        Session.open(signed, public_key=keys[1])


def test_every_bit_of_the_signature_counts(signed: Path, keys: tuple[Path, Path]) -> None:
    import base64

    kind, key, encoded = (signed / "manifest.sig").read_text().split()
    good = base64.b64decode(encoded)
    for position in range(0, 64, 7):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        (signed / "manifest.sig").write_text(f"{kind} {key} {base64.b64encode(bad).decode()}\n")
        with pytest.raises(BundleError, match="is not what .* signed"):
            bundles.load(signed, keys[1])


def test_another_key_is_named(signed: Path, tmp_path: Path) -> None:
    other = signing.new_key(tmp_path / "other.pem")
    with pytest.raises(BundleError, match=r"signed with the key [0-9a-f]{16}, not with .*other.pem.pub"):
        signing.verify(signed, other)


def test_a_new_manifest_drops_the_old_signature(signed: Path) -> None:
    bundles.write_manifest(signed, bundles.load(signed).manifest)
    assert not (signed / "manifest.sig").exists()


def test_a_broken_bundle_is_not_signed(bundle_dir: Path, keys: tuple[Path, Path]) -> None:
    (bundle_dir / "model.tflite").write_bytes(b"not realli")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        signing.sign(bundle_dir, keys[0])
    assert not (bundle_dir / "manifest.sig").exists()


def test_a_manifest_cannot_list_its_signature(signed: Path, edit) -> None:
    with pytest.raises(BundleError, match="cannot list itself or its signature"):
        bundles.load(edit(lambda content: content["files"][0].update(path="manifest.sig")))


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_private_key_is_its_owners(keys: tuple[Path, Path], bundle_dir: Path, tmp_path: Path) -> None:
    assert keys[0].stat().st_mode & 0o777 == 0o600
    copy = tmp_path / "copy.pem"
    copy.write_bytes(keys[0].read_bytes())
    copy.chmod(0o644)
    with pytest.raises(DataError, match="others than its owner may use this private key. Run chmod 600"):
        signing.sign(bundle_dir, copy)


def test_keys_are_never_overwritten(keys: tuple[Path, Path], tmp_path: Path) -> None:
    before = keys[0].read_bytes()
    with pytest.raises(DataError, match="is there already"):
        signing.new_key(keys[0])
    assert keys[0].read_bytes() == before
    (tmp_path / "half.pem").write_text("mine")
    with pytest.raises(DataError, match="half.pem is there already"):
        signing.new_key(tmp_path / "half.pem")
    assert not (tmp_path / "half.pem.pub").exists()


def test_what_is_not_a_key_is_refused(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    with pytest.raises(DataError, match="it is a private one; give its .pub file"):
        signing.verify(signed, keys[0])
    with pytest.raises(DataError, match="is not a private key in PEM"):
        public = tmp_path / "public.pem"
        public.write_bytes(keys[1].read_bytes())
        public.chmod(0o600)
        signing.sign(signed, public)
    with pytest.raises(DataError, match="the given key is not a public key: it is no PEM"):
        signing.verify(signed, b"nonsense")
    with pytest.raises(DataError, match="nowhere.pem cannot be read"):
        signing.verify(signed, tmp_path / "nowhere.pem")
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(DataError, match="another kind: expected Ed25519"):
        signing.verify(signed, pem)


def test_a_tracker_wants_both_of_its_bundles_signed(
    keys: tuple[Path, Path], real_bundles: Path, tmp_path: Path
) -> None:
    landmarks, detector = (
        Path(shutil.copytree(real_bundles / name, tmp_path / name)) for name in ("test_dfmamba", "test_detector")
    )
    for signed, unsigned in ((landmarks, detector), (detector, landmarks)):
        signing.sign(signed, keys[0])
        with pytest.raises(BundleError, match=f"{unsigned.name} is not signed: it has no manifest.sig"):
            HandTracker(landmarks, detector, public_key=keys[1])
        signing.sign(unsigned, keys[0])
        with HandTracker(landmarks, detector, public_key=keys[1].read_bytes()) as tracker:
            assert tracker.track(np.zeros((64, 64, 3), np.uint8)) == []
        (unsigned / "manifest.sig").unlink()
        (signed / "manifest.sig").unlink()
    with pytest.raises(BundleError, match="bundled.landmarks is not signed"):
        HandTracker(public_key=keys[1])


def test_a_tracker_cannot_check_an_open_session(keys: tuple[Path, Path], real_bundles: Path) -> None:
    with Session.open(real_bundles / "test_dfmamba") as session:
        with pytest.raises(BundleError, match="test_dfmamba is an open session, .* give its folder"):
            HandTracker(session, real_bundles / "test_detector", public_key=keys[1])
        session.run({"image": np.zeros((1, 64, 64, 3), np.float32)})  # still its caller's


def test_without_the_package_it_says_what_to_install(signed: Path, keys: tuple[Path, Path]) -> None:
    code = (
        "import sys\nsys.modules['cryptography'] = None\nfrom edge_hands import bundle, errors\n"
        f"bundle.load({str(signed)!r})\n"
        f"try: bundle.load({str(signed)!r}, {str(keys[1])!r})\n"
        "except errors.RuntimeUnavailable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'edge-hands[sign]'" in done.stdout


def test_the_commands(signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from edge_hands.cli.main import main

    def type_(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["edge-hands", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), " ".join((printed.out + printed.err).split())

    monkeypatch.setenv("COLUMNS", "400")
    key = tmp_path / "cli.pem"
    code, said = type_("sign", "--new-key", key)
    assert (code, "keep it secret" in said, key.stat().st_mode & 0o777) == (0, True, 0o600)
    assert type_("sign", signed, "--key", key)[0] == 0
    code, said = type_("verify", signed, "--key", f"{key}.pub")
    assert (code, "is whole and signed with" in said) == (0, True)
    _change_manifest(signed)
    code, said = type_("verify", signed, "--key", f"{key}.pub")
    assert (code, "was changed afterwards" in said) == (2, True)
    assert type_("sign", signed)[0] == 2
    assert type_("sign")[0] == 2
    assert type_("sign", signed, "--key", key, "--new-key", tmp_path / "x.pem")[0] == 2
