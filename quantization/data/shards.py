"""Shards: WebDataset tars ``{train,val}-%05d.tar`` of ``KEY.jpg`` (or .png) and ``KEY.json`` pairs.

Two kinds, named by ``"kind"`` in every label:

* ``crop``: a 160 x 160 RGB image whose middle 128 x 128 is the base crop, of an upright right hand (left hands are
  mirrored): ``present``, ``side``, ``uv`` (21, 2) pixels of the 160 image, ``xyz`` (21, 3) metres in the crop's camera
  axes, ``visible`` (21,), ``depth_scale``. ``present`` 0 is background without a hand and has no joints.
* ``frame``: a whole frame with ``hands``, up to two of ``side``, ``uv``, ``xyz``, ``visible``.

Pixels are continuous: (0.5, 0.5) is the centre of the first one.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

from edge_hands.errors import DataError
from edge_hands.hands import NUM_JOINTS, WRIST

#: Side of a crop image and of the base crop in its middle, pixels.
CROP_IMAGE = 160
BASE_CROP = 128
MAX_HANDS = 2
_IMAGE_SUFFIXES = (".jpg", ".png")
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]


def shard_paths(directory: str | Path, split: str) -> list[Path]:
    """Shards of one split ("train" or "val") in order of name."""
    return sorted(Path(directory).glob(f"{split}-*.tar"))


def read(directory: str | Path, split: str) -> Iterator[tuple[str, bytes, dict]]:
    """Yield (key, encoded image, label) of every sample of a split, in the order of the shards.

    Raises DataError when there is no shard or one is damaged.
    """
    paths = shard_paths(directory, split)
    if not paths:
        raise DataError(f"no shard {split}-*.tar in {directory}; write some with `edge-hands synth`")
    for path in paths:
        blob = _read_finished(path)
        for key, (start, size), label in _index(path, blob):
            yield key, blob[start : start + size], label


def write_shard(path: Path, samples: Iterable[tuple[str, np.ndarray, dict]]) -> None:
    """Writes (key, RGB image, label) of each sample as a shard, which has its name when it is whole.

    Raises DataError when the folder cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(partial, "w") as tar:
            for key, image, label in samples:
                encoded = cv2.imencode(".jpg", image[..., ::-1], _JPEG)[1].tobytes()
                for suffix, data in (("jpg", encoded), ("json", json.dumps(label, separators=(",", ":")).encode())):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, BytesIO(data))
        partial.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def decode(encoded: bytes | np.ndarray) -> np.ndarray:
    """Encoded JPEG or PNG -> RGB (H, W, 3) uint8. Raises DataError when it is neither."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DataError(f"a sample of {len(encoded)} bytes is no JPEG or PNG image; write the shard again")
    return image


class Pool:
    """All samples of one split of one or more folders in memory, still encoded, for access in any order.

    ``labels`` maps a name to an array over samples. Crops: present (n,), right (n,) the true side, uv (n, 21, 2) pixels
    of the image, xyz (n, 21, 3) metres from the wrist, z (n, 21) depth from the wrist in sides of the base crop,
    visible (n, 21). Frames: count (n,), and right (n, 2), uv (n, 2, 21, 2), visible (n, 2, 21), padded with zeros.
    ``members`` are the samples of each folder, in the order of its shards. Of each shard, ``part`` (i, n) takes every
    n-th sample from the i-th on: the n processes of a run have none in common, and each keeps its own only.
    """

    def __init__(
        self, directories: str | Path | Sequence[str | Path], split: str, kind: str, part: tuple[int, int] = (0, 1)
    ) -> None:
        several = [directories] if isinstance(directories, str | Path) else directories
        self.directories, self.split, self.kind = tuple(map(Path, several)), split, kind
        self.labels: dict[str, np.ndarray] = {}
        self._part = slice(part[0], None, part[1])
        self.members = [np.empty(0, np.int64) for _ in self.directories]
        self._seen: set[Path] = set()
        self._blobs: list[np.ndarray] = []
        self._where = np.empty((0, 3), np.int64)  # blob, start, size
        for directory in self.directories:
            if not shard_paths(directory, split):
                raise DataError(f"no shard {split}-*.tar in {directory}; write some with `edge-hands synth`")
        self.refresh()
        for directory, members in zip(self.directories, self.members, strict=True):
            if not len(members):
                raise DataError(f"the shards {split}-*.tar in {directory} hold no sample; write them again")

    def __len__(self) -> int:
        return len(self._where)

    def image(self, index: int) -> np.ndarray:
        """RGB (H, W, 3) uint8 of one sample."""
        blob, start, size = self._where[index]
        return decode(self._blobs[blob][start : start + size])

    def refresh(self) -> int:
        """Load shards that have appeared since, behind those already there; returns how many samples came.

        A shard that is still being written is left for the next call, unless nothing else is there.
        """
        before, columns, where, owners = len(self), [], [], []
        for owner, directory in enumerate(self.directories):
            for path, blob in self._fresh(directory):
                images, size = [], 0
                for key, (start, length), label in list(_index(path, blob))[self._part]:
                    columns.append(_columns(path, key, label, self.kind))
                    where.append((len(self._blobs), size, length))
                    owners.append(owner)
                    images.append(memoryview(blob)[start : start + length])
                    size += length
                self._blobs.append(np.frombuffer(b"".join(images), np.uint8))
        if where:
            fresh = {name: np.stack([c[name] for c in columns]) for name in columns[0]}
            self.labels = {n: np.concatenate([self.labels[n], a]) if before else a for n, a in fresh.items()}
            self._where = np.concatenate([self._where, np.array(where, np.int64)])
            for owner, members in enumerate(self.members):
                self.members[owner] = np.concatenate([members, before + np.flatnonzero(np.equal(owners, owner))])
        return len(self) - before

    def _fresh(self, directory: Path) -> Iterator[tuple[Path, bytes]]:
        """Shards of a folder that have not been read yet, with their bytes."""
        known = self._seen.intersection(paths := shard_paths(directory, self.split))
        for path in paths:
            if path in known:
                continue
            try:
                blob = _read_finished(path)
            except DataError:
                if known:
                    continue
                raise
            known.add(path)
            self._seen.add(path)
            yield path, blob


def _read_finished(path: Path) -> bytes:
    blob = path.read_bytes()
    if len(blob) < 1024 or any(blob[-1024:]):  # a closed tar ends in two zero blocks
        raise DataError(f"{path} is not a finished tar ({len(blob)} bytes): write it again, or wait for its writer")
    return blob


def _index(path: Path, blob: bytes) -> Iterator[tuple[str, tuple[int, int], dict]]:
    """(key, (start, size) of the image, label) of each complete pair."""
    places: dict[str, tuple[int, int]] = {}
    labels: dict[str, dict] = {}
    try:
        with tarfile.open(fileobj=BytesIO(blob)) as tar:
            for member in tar:
                key, suffix = Path(member.name).stem, Path(member.name).suffix
                start, size = member.offset_data, member.size
                if suffix in _IMAGE_SUFFIXES:
                    places[key] = (start, size)
                elif suffix == ".json":
                    labels[key] = json.loads(blob[start : start + size])
    except (tarfile.TarError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); write it again") from error
    if places.keys() != labels.keys():
        odd = sorted(places.keys() ^ labels.keys())[0]
        raise DataError(f"{path}: sample {odd} lacks its image or its label; write the shard again")
    for key, place in places.items():
        yield key, place, labels[key]


def _columns(path: Path, key: str, label: dict, kind: str) -> dict[str, np.ndarray]:
    if label.get("kind") != kind:
        found = label.get("kind")
        raise DataError(f"{path}: sample {key} is of kind {found!r}, expected {kind!r}; use other shards")
    try:
        return _crop_columns(label) if kind == "crop" else _frame_columns(label)
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: the label of sample {key} is not a {kind} label ({error!r})") from error


def _crop_columns(label: dict) -> dict[str, np.ndarray]:
    uv, xyz = np.zeros((NUM_JOINTS, 2), np.float32), np.zeros((NUM_JOINTS, 3), np.float32)
    z, visible = np.zeros(NUM_JOINTS, np.float32), np.zeros(NUM_JOINTS, np.float32)
    if label["present"]:
        uv[:], visible[:] = label["uv"], label["visible"]
        absolute = np.array(label["xyz"])
        xyz[:] = absolute - absolute[WRIST]
        z[:] = xyz[:, 2] * (label["depth_scale"] / BASE_CROP)
    right = np.float32(label.get("side", "right") == "right")
    return {"present": np.float32(label["present"]), "right": right, "uv": uv, "xyz": xyz, "z": z, "visible": visible}


def _frame_columns(label: dict) -> dict[str, np.ndarray]:
    hands = label["hands"][:MAX_HANDS]
    columns = {
        "count": np.int64(len(hands)),
        "right": np.zeros(MAX_HANDS, np.float32),
        "uv": np.zeros((MAX_HANDS, NUM_JOINTS, 2), np.float32),
        "visible": np.zeros((MAX_HANDS, NUM_JOINTS), np.float32),
    }
    for i, hand in enumerate(hands):
        columns["right"][i] = hand["side"] == "right"
        columns["uv"][i], columns["visible"][i] = hand["uv"], hand["visible"]
    return columns
