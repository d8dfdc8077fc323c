"""What ``edge-hands run`` writes: a JSON file, annotated pictures or an annotated video. Whole files or none.

JSON schema 1 (keys are only ever added)::

    {"schema": 1, "edge_hands": version, "source": str, "kind": "photo" | "folder" | "video" | "camera",
     "models": {"landmarks" | "detector": {"name", "device", "runtime", "scan"}},
     "images": [{"name": file or file#frame, "width", "height" (pixels), "time" (seconds, null for a photograph),
                 "ms": {"detect", "landmarks", "total"},
                 "hands": [{"id", "handedness": "left" | "right", "handedness_score", "score", "box": [x0, y0, x1, y1],
                            "joints": [{"name", "uv": [pixels], "xyz": [metres from the wrist], "confidence"} x 21]}]}],
     "errors": [{"name", "error"}]}
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_hands import __version__
from edge_hands.draw import draw_hands
from edge_hands.errors import DataError
from edge_hands.hand import Hand
from edge_hands.sources import PHOTO_SUFFIXES, VIDEO_SUFFIXES, Frame, Source
from edge_hands.tracker import HandTracker, Timing


class JsonOutput:
    """Collects results; ``write`` puts them into a file, or on stdout for "-"."""

    def __init__(self, target: str, name: str, source: Source, tracker: HandTracker) -> None:
        self._target = target
        if target != "-":
            path = Path(target)
            if path.is_dir() or path.suffix.lower() in PHOTO_SUFFIXES + VIDEO_SUFFIXES:
                raise DataError(f"--json {target}: expected the name of a JSON file, found a folder, picture or video.")
            _check_parent(path)
            refuse_source(path, source)
        sessions = {"landmarks": tracker.landmarks, "detector": tracker.detector}
        self._content: dict[str, Any] = {
            "schema": 1,
            "edge_hands": __version__,
            "source": name,
            "kind": source.kind,
            "models": {
                kind: {
                    "name": session.manifest.name,
                    "device": session.manifest.device,
                    "runtime": session.runtime,
                    "scan": session.variant.scan,
                }
                for kind, session in sessions.items()
            },
            "images": [],
            "errors": [],
        }

    def add(self, frame: Frame, hands: list[Hand], timing: Timing) -> None:
        ms = {"detect": timing.detect_ms, "landmarks": timing.landmarks_ms, "total": timing.total_ms}
        self._content["images"].append(
            {
                "name": frame.name,
                "width": frame.shape[1],
                "height": frame.shape[0],
                "time": None if frame.time is None else round(frame.time, 4),
                "ms": {part: round(value, 3) for part, value in ms.items()},
                "hands": [hand.to_dict() for hand in hands],
            }
        )

    def add_error(self, name: str, error: Exception) -> None:
        self._content["errors"].append({"name": name, "error": str(error)})

    def write(self) -> None:
        text = json.dumps(self._content, allow_nan=False, ensure_ascii=False) + "\n"
        if self._target == "-":
            sys.stdout.write(text)
            return
        with atomic(Path(self._target)) as path:
            path.write_text(text, encoding="utf-8")


class PictureOutput:
    """Annotated copies of photographs: ``folder``/NAME_hands.png."""

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder, self._source, self._taken = make_folder(folder), source, set()

    def add(self, frame: Frame, hands: list[Hand]) -> Path:
        name = Path(frame.name)
        path = self._folder / f"{name.stem}_hands.png"
        if path in self._taken:  # a.jpg and a.png in one folder
            path = self._folder / f"{name.stem}_{name.suffix[1:]}_hands.png"
        self._taken.add(path)
        refuse_source(path, self._source)
        good, data = cv2.imencode(".png", cv2.cvtColor(draw_hands(frame, hands), cv2.COLOR_RGB2BGR))
        if not good:
            raise DataError(f"{path}: the annotated picture could not be encoded as PNG.")
        with atomic(path) as temporary:
            temporary.write_bytes(data.tobytes())
        return path

    def close(self) -> None:
        pass


class VideoOutput:
    """One annotated video: ``folder``/NAME_hands.mp4, there once ``close`` has been called."""

    def __init__(self, folder: Path, source: Source) -> None:
        name = source.paths[0].stem if source.paths else f"camera{source.camera}"
        self.path = make_folder(folder) / f"{name}_hands.mp4"
        refuse_source(self.path, source)
        self._fps = source.fps or 30.0
        self._stack, self._writer, self._size = contextlib.ExitStack(), None, None

    def add(self, frame: Frame, hands: list[Hand]) -> None:
        image = cv2.cvtColor(draw_hands(frame, hands), cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._size = image.shape[1::-1]
            temporary = self._stack.enter_context(atomic(self.path))
            self._writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter_fourcc(*"mp4v"), self._fps, self._size)
            if not self._writer.isOpened():
                raise DataError(f"{self.path} cannot be written: this OpenCV has no MPEG-4 encoder.")
        self._writer.write(np.ascontiguousarray(image) if image.shape[1::-1] == self._size else self._fit(image))

    def _fit(self, image: np.ndarray) -> np.ndarray:
        return cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
        self._stack.close()


def refuse_source(path: Path, source: Source) -> None:
    """DataError if writing ``path`` would overwrite a file that frames are read from."""
    if path.exists() and any(os.path.samefile(path, other) for other in source.paths if other.exists()):
        raise DataError(f"{path} is a source: writing it would overwrite it. Choose another folder or name.")


def make_folder(folder: Path) -> Path:
    """``folder``, made if needed; DataError if a file is in its place."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file where a folder is needed.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that takes its place when the block ends well, and is removed otherwise."""
    _check_parent(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".edge_hands-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise DataError(f"{path.parent} is not a folder: {path.name} cannot be written there.")
