"""Where frames come from: a photograph, a folder of them, a video, a camera, or arrays. All as RGB uint8 (H, W, 3).

A ``Frame`` is a numpy array that also says where it comes from, so that a tracker knows photographs from video.
"""

from __future__ import annotations

import contextlib
import os
import time as clock
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_hands.errors import DataError
from edge_hands.images import MAX_SIDE, check_frame

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".3gp", ".ogv")
_MAX_PHOTO_BYTES = 1 << 30


class Frame(np.ndarray):
    """RGB uint8 (H, W, 3) with ``name`` (file or frame), ``time`` in seconds (None for a photograph), ``still``."""

    name: str
    time: float | None
    still: bool

    def __array_finalize__(self, source: Any) -> None:
        self.name = getattr(source, "name", "")
        self.time = getattr(source, "time", None)
        self.still = getattr(source, "still", False)


def as_frame(image: np.ndarray, name: str, time: float | None = None, *, still: bool = False) -> Frame:
    """``image`` as a Frame, without a copy."""
    frame = image.view(Frame)
    frame.name, frame.time, frame.still = name, time, still
    return frame


@dataclass(frozen=True)
class Source:
    """What a source is: ``kind`` "photo", "folder", "video", "camera" or "arrays"; ``paths`` of its files; ``count`` of
    its frames and ``fps``, where known."""

    kind: str
    paths: tuple[Path, ...] = ()
    count: int | None = None
    fps: float | None = None
    camera: int | None = None
    arrays: Iterable[np.ndarray] | None = None


def frames(
    source: str | os.PathLike[str] | int | Iterable[np.ndarray] | Source,
    on_error: Callable[[Path, DataError], None] | None = None,
) -> Iterator[Frame]:
    """The frames of a photograph, folder (its pictures by name), video, camera index, or iterable of RGB arrays.

    A photograph is turned as its EXIF orientation says. Raises DataError at once for a source that is missing, empty or
    of another kind, and DataError for a picture that cannot be read when its turn comes, unless ``on_error`` takes it
    (path, error) and the next picture follows. Arrays are checked as ``HandTracker.track`` does (FrameError).
    """
    opened = source if isinstance(source, Source) else open_source(source)
    if opened.kind == "video":
        return _video_frames(opened)
    if opened.kind == "camera":
        return _captured(_capture(opened.camera, f"camera {opened.camera}"), f"camera {opened.camera}", live=True)
    if opened.kind == "arrays":
        return (_array_frame(array, index) for index, array in enumerate(opened.arrays))
    return _photos(opened.paths, on_error)


def open_source(source: str | os.PathLike[str] | int | Iterable[np.ndarray]) -> Source:
    """What ``source`` is, by looking at it; DataError if it is nothing that frames can come from."""
    if isinstance(source, np.ndarray):
        return Source("arrays", count=1, arrays=[source])
    if isinstance(source, (bool, bytes)) or not isinstance(source, (str, os.PathLike, int, Iterable)):
        raise DataError(f"Frames come from a path, a camera index or arrays, not from a {type(source).__name__}.")
    if isinstance(source, int):
        return Source("camera", camera=source)
    if not isinstance(source, (str, os.PathLike)):
        return Source("arrays", count=len(source) if hasattr(source, "__len__") else None, arrays=source)
    path = Path(source)
    if not path.exists():
        if str(source).isdecimal():
            return Source("camera", camera=int(source))
        raise DataError(f"{source} does not exist: give a photograph, a folder of them, a video or a camera index.")
    if path.is_dir():
        paths = tuple(sorted(child for child in path.iterdir() if _is_photo(child)))
        if not paths:
            kinds = ", ".join(suffix[1:] for suffix in PHOTO_SUFFIXES)
            raise DataError(f"{path} holds no pictures ({kinds}); folders inside it are not searched.")
        return Source("folder", paths, len(paths))
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder.")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _video_source(path)
    return Source("photo", (path,), 1)


def read_photo(path: str | os.PathLike[str]) -> Frame:
    """The photograph in ``path``, turned upright by its EXIF orientation; DataError if it is not one or too large."""
    path = Path(path)
    try:
        if not path.is_file():
            raise DataError(f"{path} does not exist or is not a plain file.")
        if path.stat().st_size > _MAX_PHOTO_BYTES:
            raise DataError(f"{path} has {path.stat().st_size >> 20} MiB, more than a photograph may have.")
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not data.size:
        raise DataError(f"{path} is empty: expected a picture.")
    try:
        with _quiet():
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise DataError(f"{path} cannot be decoded: {' '.join(str(error).split())[:200]}") from error
    if image is None:
        raise DataError(f"{path} is not a picture that can be read: {_looks_like(data)}.")
    if max(image.shape[:2]) > MAX_SIDE:
        raise DataError(f"{path} has {image.shape[1]}x{image.shape[0]} pixels; a side may have {MAX_SIDE}.")
    return as_frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), str(path), still=True)


def _looks_like(data: np.ndarray) -> str:
    head = data[:64].tobytes()
    if head.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM", b"II*", b"MM\0*")):
        return "its header is that of a picture, the rest is damaged or cut off"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "HEIC and AVIF are not supported; convert it to JPEG"
    text = data[:4096].tobytes().decode("utf-8", "ignore")
    is_text = text and all(letter.isprintable() or letter.isspace() for letter in text)
    return "it holds text" if is_text else "its format is unknown"


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _photos(paths: Iterable[Path], on_error: Callable[[Path, DataError], None] | None) -> Iterator[Frame]:
    for path in paths:
        try:
            frame = read_photo(path)
        except DataError as error:
            if on_error is None:
                raise
            on_error(path, error)
            continue
        yield frame


def _array_frame(array: np.ndarray, index: int) -> Frame:
    if isinstance(array, Frame):
        return array
    return as_frame(check_frame(array), f"array {index}")


def _video_source(path: Path) -> Source:
    capture = _capture(str(path), str(path))
    count, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return Source("video", (path,), int(count) if 0 < count < 1e9 else None, float(fps) if 0 < fps < 1e4 else None)


def _video_frames(source: Source) -> Iterator[Frame]:
    name = str(source.paths[0])
    return _captured(_capture(name, name), name, fps=source.fps)


def _capture(source: str | int, name: str) -> cv2.VideoCapture:
    with _quiet():
        capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        hint = (
            "is there one, and may you use it?" if isinstance(source, int) else "it is damaged or of an unknown codec."
        )
        raise DataError(f"{name} cannot be opened as a video: {hint}")
    return capture


def _captured(capture: cv2.VideoCapture, name: str, fps: float | None = None, live: bool = False) -> Iterator[Frame]:
    index, last = 0, -1.0
    try:
        while True:
            good, image = capture.read()
            if not good or image is None:
                break
            time = clock.monotonic() if live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            if not time > last:  # some containers hold no time stamps
                time = last + 1.0 / (fps or 30.0) if index else 0.0
            last = time
            yield as_frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), f"{name}#{index}", time)
            index += 1
    finally:
        capture.release()
    if not index:
        raise DataError(f"{name} gave no frame: it is empty, damaged or of an unknown codec.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV's own warnings off: what goes wrong is said by our errors."""
    logging = cv2.utils.logging
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)
