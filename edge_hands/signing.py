"""Ed25519 signatures of bundles: who made a bundle, where its hashes only say that it is whole.

``manifest.sig`` holds one line, ``ed25519 KEY SIGNATURE``: the id of the key (the first 16 hex digits of the SHA-256 of
its 32 bytes) and, in base64, the signature of ``CONTEXT`` and the bytes of ``manifest.json``. The manifest holds the
hash of every file, so one signature covers the bundle. Keys are PEM files: PKCS #8 and SubjectPublicKeyInfo.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_hands.errors import BundleError, DataError, RuntimeUnavailable

if TYPE_CHECKING:
    from edge_hands.bundle import Bundle

#: A public key: its PEM file, or the PEM itself.
PublicKey = str | os.PathLike[str] | bytes

SIGNATURE = "manifest.sig"
MAX_SIGNATURE_BYTES = 256
MAX_KEY_BYTES = 4096
#: Signed before the manifest, so that no signature made for something else fits.
CONTEXT = b"edge_hands bundle manifest, version 1\n"


def new_key(path: str | os.PathLike[str]) -> Path:
    """Write a new private key to ``path``, for its owner's eyes only, and the public one to ``path``.pub; the latter.

    Raises DataError when either file is there already.
    """
    private, public = Path(path), Path(f"{os.fspath(path)}.pub")
    serialization, ed25519 = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    open_ = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public.exists():
        raise DataError(f"{public} is there already: a key is never overwritten. Choose another name.")
    _write_new(private, secret, 0o600)
    _write_new(public, open_, 0o644)
    return public


def sign(folder: str | os.PathLike[str], private_key: str | os.PathLike[str]) -> Path:
    """Verify the bundle in ``folder`` and sign it with the PEM file ``private_key``; the path of the signature.

    Raises BundleError for a bundle that is not whole, DataError for a file that is no such key.
    """
    from edge_hands import bundle as bundles

    key = _private(Path(private_key))
    bundles.load(folder)
    manifest = (Path(folder) / bundles.MANIFEST).read_bytes()
    line = f"ed25519 {key_id(_raw(key.public_key()))} {base64.b64encode(key.sign(CONTEXT + manifest)).decode()}\n"
    path = Path(folder) / SIGNATURE
    new = path.with_name(f".{SIGNATURE}.new")
    new.write_text(line, encoding="ascii")
    os.replace(new, path)
    return path


def verify(folder: str | os.PathLike[str], public_key: PublicKey) -> Bundle:
    """The bundle in ``folder``, verified whole and signed with ``public_key``'s private one; BundleError otherwise."""
    from edge_hands import bundle as bundles

    return bundles.load(folder, public_key)


def check(folder: Path, manifest: bytes, line: bytes | None, public_key: PublicKey) -> None:
    """BundleError unless ``line``, the content of ``manifest.sig``, is the key's signature of ``manifest``."""
    key, called = _public(public_key)
    if line is None:
        raise BundleError(
            f"{folder} is not signed: it has no {SIGNATURE}, and a signature by {called} is required. "
            "Get the signed bundle from its maker, or sign it yourself: edge-hands sign."
        )
    theirs, signature = _parse(folder / SIGNATURE, line)
    ours = key_id(_raw(key))
    if theirs != ours:
        raise BundleError(
            f"{folder} is signed with the key {theirs}, not with {called} ({ours}): it comes from someone else, or "
            "this is the wrong key."
        )
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, CONTEXT + manifest)
    except InvalidSignature as error:
        raise BundleError(
            f"{folder / 'manifest.json'} is not what {called} ({ours}) signed: the manifest or {SIGNATURE} was changed "
            "afterwards. Do not use this bundle; get it again from its maker."
        ) from error


def key_id(raw: bytes) -> str:
    """What a public key of 32 bytes is called in a signature."""
    return hashlib.sha256(raw).hexdigest()[:16]


def _parse(path: Path, line: bytes) -> tuple[str, bytes]:
    try:
        kind, key, encoded = line.decode("ascii").removesuffix("\n").split(" ")
        signature = base64.b64decode(encoded, validate=True)
        if kind == "ed25519" and len(signature) == 64 and len(bytes.fromhex(key)) == 8:
            return key, signature
    except (ValueError, binascii.Error):
        pass
    raise BundleError(f"{path} is not a signature: expected one line, ed25519 KEY SIGNATURE. Sign the bundle again.")


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise RuntimeUnavailable(
            f"Signatures need the cryptography package: pip install 'edge-hands[sign]' ({error})"
        ) from error
    return serialization, ed25519


def _raw(key: Any) -> bytes:
    return key.public_bytes_raw()


def _private(path: Path) -> Any:
    serialization, ed25519 = _cryptography()
    data = _read_key(path)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise DataError(
            f"{path}: others than its owner may use this private key. Run chmod 600 {path}, or make a new one."
        )
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:  # TypeError: it has a password
        raise DataError(f"{path} is not a private key in PEM without a password: {error}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise DataError(f"{path} holds a private key of another kind: expected Ed25519. Run edge-hands sign --new-key.")
    return key


def _public(key: PublicKey) -> tuple[Any, str]:
    """A public key and what to call it."""
    serialization, ed25519 = _cryptography()
    called = "the given key" if isinstance(key, bytes) else os.fspath(key)
    data = key if isinstance(key, bytes) else _read_key(Path(key))
    try:
        found = serialization.load_pem_public_key(data)
    except ValueError as error:
        secret = "it is a private one; give its .pub file" if b"PRIVATE KEY" in data else "it is no PEM, or damaged"
        raise DataError(f"{called} is not a public key: {secret}.") from error
    if not isinstance(found, ed25519.Ed25519PublicKey):
        raise DataError(f"{called} holds a public key of another kind: expected Ed25519.")
    return found, called


def _read_key(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Give the PEM file of a key.") from error
    if len(data) > MAX_KEY_BYTES:
        raise DataError(f"{path} is not a key: it has more than {MAX_KEY_BYTES} bytes.")
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise DataError(f"{path} is there already: a key is never overwritten. Choose another name.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from error
    with os.fdopen(handle, "wb") as file:
        file.write(data)
