"""Writes synthetic samples to WebDataset shards, several processes side by side, and draws contact sheets.

A shard ``{split}-{number:05d}.tar`` holds ``KEY.jpg`` and ``KEY.json`` a sample. Sample i of a split depends on
(seed, kind, split, i) only, so the number of processes does not matter and a stopped run goes on where it was.

Labels. Crops: ``present``; ``side`` of the person's hand before mirroring; ``uv`` 21 x (x, y) in pixels of the
stored 160-pixel picture; ``xyz`` metres in camera axes; ``visible`` 0/1; ``depth_scale`` pixels a metre at
the hand. Frames: ``hands``, a list of the same without ``present`` and ``depth_scale``.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import tarfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from edge_hands.draw import draw_skeleton
from edge_hands.errors import DataError
from edge_hands.quantization.data.synthetic.config import SceneConfig
from edge_hands.quantization.data.synthetic.scene import Sample, Scenes

KINDS, SPLITS = ("crop", "frame"), ("train", "val")
SAMPLES_PER_SHARD = 2000
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92]
_SHEET_ROWS, _SHEET_COLUMNS, _SHEET_CELL = 6, 10, 192


@dataclass(frozen=True)
class Shard:
    """``count`` samples of ``kind`` and ``split`` from number ``first`` on, in ``path``."""

    path: Path
    kind: str
    split: str
    seed: int
    first: int
    count: int


def sample(scenes: Scenes, kind: str, split: str, seed: int, index: int) -> Sample:
    """Sample ``index``: the same for the same arguments, whatever was made before."""
    rng = np.random.default_rng([seed, KINDS.index(kind), SPLITS.index(split), index])
    return scenes.crop(rng) if kind == "crop" else scenes.frame(rng)


def plan(out: Path, kind: str, split: str, count: int, seed: int) -> list[Shard]:
    """The shards of ``count`` samples, of which the last may be short."""
    return [
        Shard(out / f"{split}-{number:05d}.tar", kind, split, seed, first, min(SAMPLES_PER_SHARD, count - first))
        for number, first in enumerate(range(0, count, SAMPLES_PER_SHARD))
    ]


def write_shards(
    shards: list[Shard],
    assets: Path,
    workers: int,
    progress: Callable[[int], None],
    config: SceneConfig | None = None,
) -> None:
    """Renders ``shards``; those that exist are kept. ``progress(n)`` is called after every ``n`` samples.

    Raises DataError where the folder cannot be written or rendering is not possible.
    """
    missing = [shard for shard in shards if not shard.path.exists()]
    progress(sum(shard.count for shard in shards) - sum(shard.count for shard in missing))
    if not missing:
        return
    try:
        for folder in {shard.path.parent for shard in missing}:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"Cannot write to {error.filename}: {error.strerror}.") from error
    context = multiprocessing.get_context("spawn")  # an EGL context does not survive a fork
    with ProcessPoolExecutor(min(workers, len(missing)), context, _start_worker) as pool:
        pending = [pool.submit(_write_shard, shard, assets, config) for shard in missing]
        try:
            for done in as_completed(pending):
                progress(done.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    os.environ["LP_NUM_THREADS"] = "0"  # llvmpipe in the calling thread: processes are the parallelism
    cv2.setNumThreads(1)


@cache  # one renderer a process
def _scenes(assets: Path, config: SceneConfig | None) -> Scenes:
    return Scenes(assets, config)


def _write_shard(shard: Shard, assets: Path, config: SceneConfig | None) -> int:
    scenes = _scenes(assets, config)
    partial = shard.path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for index in range(shard.first, shard.first + shard.count):
            made = sample(scenes, shard.kind, shard.split, shard.seed, index)
            ok, encoded = cv2.imencode(".jpg", made.image[:, :, ::-1], _JPEG)
            if not ok:
                raise DataError(f"Sample {index} of {shard.path} could not be encoded as JPEG.")
            _add(tar, f"{index:07d}.jpg", encoded.tobytes())
            _add(tar, f"{index:07d}.json", json.dumps(made.label, separators=(",", ":")).encode())
    partial.rename(shard.path)  # a shard that has its name is whole
    return shard.count


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def contact_sheet(samples: list[Sample]) -> np.ndarray:
    """Samples in a grid, each beside itself with its joints drawn; (H, W, 3) uint8 RGB."""
    cells = []
    for made in samples[: _SHEET_ROWS * _SHEET_COLUMNS // 2]:
        zoom = _SHEET_CELL / made.image.shape[0]
        plain = cv2.resize(made.image, (_SHEET_CELL, _SHEET_CELL), interpolation=cv2.INTER_LINEAR)
        marked = plain.copy()
        hands = made.label["hands"] if made.label["kind"] == "frame" else [made.label] * made.label["present"]
        for hand in hands:
            uv = np.asarray(hand["uv"]) * zoom
            draw_skeleton(marked, uv, confidence=np.asarray(hand["visible"], float))
            if made.label["kind"] == "frame":
                spot = np.rint(uv[0]).astype(int).tolist()
                cv2.putText(marked, hand["side"][0].upper(), spot, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 0), 2)
        cells += [plain, marked]
    blank = np.zeros((_SHEET_CELL, _SHEET_CELL, 3), np.uint8)
    cells += [blank] * (-len(cells) % _SHEET_COLUMNS)
    rows = [np.hstack(cells[k : k + _SHEET_COLUMNS]) for k in range(0, len(cells), _SHEET_COLUMNS)]
    return np.vstack(rows)
