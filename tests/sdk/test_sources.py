"""Frames from photographs, folders, videos and arrays; what is said of what is none of them."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

import edge_hands as eh
from edge_hands.errors import DataError, FrameError
from edge_hands.sources import open_source, read_photo


@pytest.fixture
def picture():
    """(40, 60, 3) RGB: red left, blue right."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30, 0] = image[:, 30:, 2] = 200
    return image


def save(path, image):
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def test_a_photograph_is_rgb_still_and_named(tmp_path, picture):
    path = save(tmp_path / "a.png", picture)
    (frame,) = eh.frames(path)
    assert (frame == picture).all()
    assert (frame.still, frame.time, frame.name) == (True, None, str(path))
    assert frame[::-1].still  # a flipped copy remembers


def test_exif_orientation_is_applied(tmp_path, picture):
    ok, data = cv2.imencode(".jpg", picture[..., ::-1])
    assert ok
    # One APP1 segment with one big-endian TIFF entry: orientation 6, "turn me clockwise by 90 degrees".
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tiff
    raw = data.tobytes()
    (tmp_path / "a.jpg").write_bytes(raw[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + raw[2:])
    frame = read_photo(tmp_path / "a.jpg")
    assert frame.shape == (60, 40, 3)
    assert frame[5, 20, 0] > 150  # red was left and is now on top
    assert frame[55, 20, 2] > 150


def test_grey_alpha_and_sixteen_bits_become_rgb_bytes(tmp_path):
    grey = np.full((20, 20), 128, np.uint8)
    for name, image in {
        "g.png": grey,
        "a.png": np.dstack([grey] * 4),
        "d.png": np.full((20, 20, 3), 128 * 257, np.uint16),
    }.items():
        cv2.imwrite(str(tmp_path / name), image)
        frame = read_photo(tmp_path / name)
        assert frame.shape == (20, 20, 3)
        assert frame.dtype == np.uint8
        assert (np.abs(frame.astype(int) - 128) <= 1).all()


def test_a_folder_is_read_in_order_and_only_its_pictures(tmp_path, picture):
    for name in ("b.png", "a.JPG", "c.bmp", ".hidden.png"):
        save(tmp_path / name, picture)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    assert [frame.name.rsplit("/", 1)[1] for frame in eh.frames(tmp_path)] == ["a.JPG", "b.png", "c.bmp"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dear diary", "it holds text"),
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "damaged or cut off"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC"),
        (bytes(range(256)), "format is unknown"),
    ],
)
def test_what_is_no_picture(tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=message):
        next(eh.frames(tmp_path / "a.jpg"))


def test_a_bad_picture_in_a_folder_is_handed_out_or_raised(tmp_path, picture):
    save(tmp_path / "a.png", picture)
    (tmp_path / "b.jpg").write_text("text")
    save(tmp_path / "c.png", picture)
    bad = []
    assert len(list(eh.frames(tmp_path, on_error=lambda path, error: bad.append((path.name, str(error)))))) == 2
    assert bad[0][0] == "b.jpg"
    assert "holds text" in bad[0][1]
    with pytest.raises(DataError):
        list(eh.frames(tmp_path))


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match="does not exist: give a photograph"):
        eh.frames(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match="does not exist"):
        eh.frames("http://example.org/hand.jpg")
    with pytest.raises(DataError, match="holds no pictures"):
        eh.frames(tmp_path)
    for nothing in (None, 3.5, True, b"a.jpg"):
        with pytest.raises(DataError, match="not from a"):
            eh.frames(nothing)


def test_a_camera_that_is_not_there():
    with pytest.raises(DataError, match="camera 97 cannot be opened"):
        eh.frames(97)


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for i in range(6):
        writer.write(np.full((48, 64, 3), (0, 0, 40 * i), np.uint8))
    writer.release()
    return path


def test_a_video_has_times_and_a_count(video):
    source = open_source(video)
    assert (source.kind, source.count, source.fps) == ("video", 6, 25)
    frames = list(eh.frames(video))
    assert [frame.time for frame in frames] == pytest.approx([0.04 * i for i in range(6)])
    assert not frames[0].still
    assert frames[5][10, 10, 0] > 150  # red, not blue
    assert frames[5].name.endswith("v.mp4#5")


def test_a_video_that_is_none(tmp_path):
    (tmp_path / "v.mp4").write_text("text")
    with pytest.raises(DataError, match="cannot be opened as a video"):
        eh.frames(tmp_path / "v.mp4")


def test_arrays_are_checked_when_their_turn_comes(picture):
    frames = eh.frames([picture, np.zeros((0, 0, 3), np.uint8)])
    assert not next(frames).still
    with pytest.raises(FrameError):
        next(frames)
    assert (next(eh.frames(picture)) == picture).all()
