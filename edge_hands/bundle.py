"""Bundles: a folder with ``manifest.json`` and the model files that it names.

The manifest is the only description of a model: nothing about names, shapes, layouts or ranges is guessed. ``load``
reads every file once, checks the whole bundle, and hands out the checked bytes: a runtime executes those, so what was
verified is what runs. No format in a bundle can execute code while it is read (no pickle).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edge_hands import signing
from edge_hands.errors import BundleError

MANIFEST = "manifest.json"
SCHEMA = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 512 << 20
MAX_BUNDLE_BYTES = 1 << 30
MAX_INPUT_SIDE = 4096

#: Runtimes whose models are folders (.mlpackage): the manifest lists every file in them, a variant names the folder.
FOLDER_RUNTIMES = ("coreml",)

#: What a model of each kind must give: name -> shape, N any number. See ``decode`` and design "Model interface".
OUTPUTS: dict[str, dict[str, tuple[int | str, ...]]] = {
    "landmarks": {
        "joints_uv": (1, 21, 2),
        "joints_xyz": (1, 21, 3),
        "confidence": (1, 21),
        "presence": (1,),
        "handedness": (1,),
    },
    "detector": {
        "scores": (1, "N"),
        "boxes": (1, "N", 4),
        "points": (1, "N", 2, 2),
        "centers": (1, "N", 2),
        "sides": (1, "N"),
        "handedness": (1, "N"),
    },
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class File(_Part):
    """A file of the bundle: path relative to the folder with forward slashes, SHA-256 in hex, size in bytes."""

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, le=MAX_FILE_BYTES)

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        plain = path and "\\" not in path and "\0" not in path and ":" not in path
        if not plain or path.startswith("/") or ".." in parts or str(PurePosixPath(path)) != path or path == ".":
            raise ValueError(f"file path {path!r} must be relative, inside the bundle and in its plain form")
        if path in (MANIFEST, signing.SIGNATURE):
            raise ValueError("the manifest cannot list itself or its signature")
        return path


class Variant(_Part):
    """One executable form of the model: which runtime reads which file, and what it calls the tensors.

    ``path`` is a file, or for the runtimes in FOLDER_RUNTIMES a folder. ``input_names`` and ``output_names`` map this
    project's names to the file's. ``config`` is the runtime's own.
    """

    runtime: str = Field(min_length=1, max_length=32)
    scan: Literal["portable", "native"] = "portable"
    path: str
    input_names: dict[str, str]
    output_names: dict[str, str]
    config: dict[str, Any] = {}


class Tensor(_Part):
    """A tensor of the model: ``range`` is (low, high), either may be None for unbounded; ``layout`` as in "NHWC"."""

    name: str = Field(min_length=1, max_length=64)
    shape: tuple[int, ...] = Field(min_length=1, max_length=8)
    dtype: Literal["float32"] = "float32"
    layout: str | None = None
    range: tuple[float | None, float | None] | None = None
    unit: str = ""

    @field_validator("shape")
    @classmethod
    def _positive(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if min(shape) < 1 or math.prod(shape) > 3 * MAX_INPUT_SIDE**2:
            raise ValueError(f"shape {list(shape)} must be positive and of a sane size")
        return shape


class Manifest(_Part):
    """``manifest.json``. ``quantization``, ``accuracy`` and ``gate`` are free-form results with date and machine."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    name: str = Field(min_length=1, max_length=128)
    kind: Literal["landmarks", "detector"]
    device: str = Field(min_length=1, max_length=64)
    created: str
    tools: dict[str, str] = {}
    files: tuple[File, ...] = Field(min_length=1, max_length=64)
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=16)
    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1, max_length=32)
    quantization: dict[str, Any] = {}
    accuracy: dict[str, Any] = {}
    gate: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        paths = [file.path for file in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError("a file is listed twice")
        if sum(file.size for file in self.files) > MAX_BUNDLE_BYTES:
            raise ValueError(f"the files add up to more than {MAX_BUNDLE_BYTES >> 20} MiB")
        image, names = self.inputs[0], [tensor.name for tensor in self.outputs]
        if image.name != "image" or len(image.shape) != 4 or image.shape[0] != 1 or image.shape[3] != 3:
            raise ValueError(f"the input must be image (1, H, W, 3), not {image.name} {list(image.shape)}")
        if max(image.shape[1:3]) > MAX_INPUT_SIDE:
            raise ValueError(f"an input of {image.shape[1]}x{image.shape[2]} is larger than {MAX_INPUT_SIDE}")
        if image.layout not in (None, "NHWC"):
            raise ValueError(f"the input's layout must be NHWC, not {image.layout}")
        if len(set(names)) != len(names):
            raise ValueError("an output is listed twice")
        self._check_outputs()
        for variant in self.variants:
            if not self.files_of(variant):
                raise ValueError(f"variant {variant.runtime} names {variant.path!r}, which is not among the files")
            if set(variant.input_names) != {"image"} or set(variant.output_names) != set(names):
                raise ValueError(f"variant {variant.runtime} must name every input and output of the manifest")
        return self

    def _check_outputs(self) -> None:
        found = {tensor.name: tensor.shape for tensor in self.outputs}
        count: int | None = None
        for name, shape in OUTPUTS[self.kind].items():
            if name not in found:
                raise ValueError(f"a {self.kind} model must have the output {name}")
            have = found[name]
            if "N" in shape and len(have) == len(shape):
                count = count or have[shape.index("N")]
            want = tuple(count if side == "N" else side for side in shape)
            if have != want:
                raise ValueError(f"output {name} must be {list(shape)}, not {list(have)}")

    def files_of(self, variant: Variant) -> tuple[File, ...]:
        """The files that a variant is made of: the one it names, or all in the folder that it names."""
        if variant.runtime in FOLDER_RUNTIMES:
            return tuple(file for file in self.files if file.path.startswith(f"{variant.path}/"))
        return tuple(file for file in self.files if file.path == variant.path)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(1, H, W, 3) of the input ``image``."""
        return self.inputs[0].shape


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its folder, its manifest and the bytes of its files by path."""

    folder: Path
    manifest: Manifest
    contents: dict[str, bytes]

    @property
    def size(self) -> int:
        """Bytes of all model files."""
        return sum(len(data) for data in self.contents.values())


def load(folder: str | os.PathLike[str], public_key: signing.PublicKey | None = None) -> Bundle:
    """Read and verify the bundle in ``folder``: manifest, then every file's place, size and hash.

    With ``public_key`` (a PEM file or its bytes) the manifest must be signed by its owner, which is checked before
    the manifest is parsed; without one, a signature is not looked at. Files that the manifest does not list are
    never read. Raises BundleError, naming the file and what is wrong with it, before any runtime has seen a byte.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder: a bundle is a folder with a {MANIFEST}; name one.")
    text = _read(folder, MANIFEST, MAX_MANIFEST_BYTES)
    if public_key is not None:
        signed = os.path.lexists(folder / signing.SIGNATURE)
        line = _read(folder, signing.SIGNATURE, signing.MAX_SIGNATURE_BYTES) if signed else None
        signing.check(folder, text, line, public_key)
    manifest = _parse(folder / MANIFEST, text)
    contents = {}
    for file in manifest.files:
        data = _read(folder, file.path, file.size, exact=True)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise BundleError(
                f"{folder / file.path} is not the file that the manifest describes: its SHA-256 differs. "
                "It was damaged or changed; export or download the bundle again."
            )
        contents[file.path] = data
    return Bundle(folder, manifest, contents)


def describe_file(folder: str | os.PathLike[str], path: str) -> File:
    """The manifest's entry for the file ``folder``/``path``."""
    data = _read(Path(folder), path, MAX_FILE_BYTES)
    return File(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def describe_variant(folder: str | os.PathLike[str], variant: Variant) -> tuple[File, ...]:
    """The manifest's entries for the file that ``variant`` names, or for all files in its folder, in order."""
    if variant.runtime not in FOLDER_RUNTIMES:
        return (describe_file(folder, variant.path),)
    inside = (Path(folder) / variant.path).rglob("*")
    paths = sorted(path.relative_to(folder).as_posix() for path in inside if not path.is_dir())
    return tuple(describe_file(folder, path) for path in paths)


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Write ``manifest`` to ``folder``, whole or not at all, and verify the bundle as ``load`` does; its path.

    A manifest that cannot be read back (a NaN among the results, say) raises BundleError and leaves the old one. A
    signature of the old one is removed: it would be refused.
    """
    path = Path(folder) / MANIFEST
    try:
        content = manifest.model_dump(by_alias=True)
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (ValueError, TypeError) as error:
        raise BundleError(f"{path}: the manifest holds a value that JSON cannot: {error}.") from error
    _parse(path, text.encode())
    new = path.with_name(f".{MANIFEST}.new")
    new.write_text(text, encoding="utf-8")
    (path.parent / signing.SIGNATURE).unlink(missing_ok=True)
    os.replace(new, path)
    load(folder)
    return path


def _parse(path: Path, data: bytes) -> Manifest:
    try:
        content = json.loads(
            data.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique
        )
        _check_text(content)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BundleError(f"{path} is not a manifest in JSON: {reason}.") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int:
        raise BundleError(f"{path} is not a manifest: it has no whole number 'schema'.")
    if schema > SCHEMA:
        raise BundleError(
            f"{path} has schema {schema}, this edge_hands reads up to {SCHEMA}: the bundle was written by a newer "
            "version; upgrade edge_hands or export the bundle again."
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}.") from error


def _read(folder: Path, path: str, limit: int, *, exact: bool = False) -> bytes:
    """The bytes of a regular file inside ``folder``, reached without a link; ``exact``: of ``limit`` bytes."""
    full = folder
    for part in PurePosixPath(path).parts:
        full = full / part
        try:
            mode = os.lstat(full).st_mode
        except OSError as error:
            raise BundleError(
                f"{full} is missing: {folder} is not a complete bundle. Export or download it again."
            ) from error
        if stat.S_ISLNK(mode):
            raise BundleError(f"{full} is a symbolic link: a bundle holds plain files only. Copy the file itself.")
    if not stat.S_ISREG(mode):
        raise BundleError(f"{full} is not a plain file.")
    try:
        with open(full, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NOFOLLOW", 0))) as file:
            size = os.fstat(file.fileno()).st_size
            if exact and size != limit:
                raise BundleError(
                    f"{full} has {size} bytes where the manifest says {limit}: it is not whole. Export or download the "
                    "bundle again."
                )
            if size > limit:
                raise BundleError(f"{full} has {size} bytes, more than the {limit} allowed.")
            data = file.read(limit + 1)
    except OSError as error:
        raise BundleError(f"{full} cannot be read: {error.strerror}.") from error
    if len(data) > limit or exact and len(data) != limit:
        raise BundleError(f"{full} changed while it was read.")
    return data


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number that a manifest may hold")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_constant(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _check_text(content: Any) -> None:
    """ValueError for a control character: a manifest is printed, and must not steer the terminal."""
    if isinstance(content, str) and not content.replace("\n", "").isprintable():
        raise ValueError(f"the text {content[:40]!r} holds control characters")
    for part in content if isinstance(content, list) else ():
        _check_text(part)
    for key, value in content.items() if isinstance(content, dict) else ():
        _check_text(key)
        _check_text(value)


def bundled(kind: str) -> Path:
    """The folder of the model of this kind that the package ships: ``landmarks`` or ``detector``."""
    return Path(__file__).parent / "bundled" / kind
