"""Frames: what is taken, what is refused and how that is said; views of a frame and their coordinates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_hands.errors import FrameError
from edge_hands.images import check_frame, tiles, whole


def test_rgb_bytes_pass_unchanged():
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert np.shares_memory(check_frame(frame), frame)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_become_the_nearest_byte(dtype):
    frame = np.full((20, 30, 3), 0.5, dtype)
    frame[0, 0] = (0, 1, 1.0004)
    checked = check_frame(frame)
    assert checked.dtype == np.uint8
    assert checked[0, 0].tolist() == [0, 255, 255]
    assert checked[5, 5, 0] == 128


def test_grey_is_repeated_and_alpha_dropped():
    grey = np.arange(400, dtype=np.uint8).reshape(20, 20)
    for frame in (grey, grey[:, :, None]):
        assert (check_frame(frame) == grey[:, :, None]).all()
    rgba = np.dstack([grey, grey + 1, grey + 2, np.zeros_like(grey)])
    assert (check_frame(rgba) == rgba[:, :, :3]).all()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((0, 0, 3), np.uint8), r"sides must be 16 to 16384 pixels; found uint8 \[0, 0, 3\]"),
        (np.zeros((15, 40, 3), np.uint8), r"found uint8 \[15, 40, 3\]"),
        (np.zeros((16385, 16), np.uint8), r"found uint8 \[16385, 16\]"),
        (np.zeros((20, 20, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((3, 20, 20), np.uint8), r"channels first: use frame\.transpose"),
        (np.zeros((1, 20, 20, 3), np.uint8), r"shape \(H, W, 3\) or \(H, W\); found uint8 \[1, 20, 20, 3\]"),
        (np.zeros((20, 20, 3), np.int32), "uint8, or float in"),
        (np.zeros((20, 20, 3), bool), "uint8, or float in"),
        (np.zeros((20, 20, 3), complex), "uint8, or float in"),
        (np.zeros((20, 20, 3), object), "uint8, or float in"),
        (np.full((20, 20, 3), 255.0), r"lie in \[0, 1\]; found float64 \[20, 20, 3\] from 255 to 255"),
        (np.full((20, 20, 3), -0.1), "from -0.1 to -0.1"),
        (np.full((20, 20, 3), np.nan), "NaN or infinity"),
        (np.full((20, 20, 3), np.inf), "NaN or infinity"),
        ([[1, 2]], "numpy array .* not a list"),
        (None, "not a NoneType"),
    ],
)
def test_what_is_no_frame(frame, message):
    with pytest.raises(FrameError, match=message):
        check_frame(frame)


@given(st.integers(16, 3000), st.integers(16, 3000), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_tiles_cover_the_frame_and_overlap(height, width, count):
    views = tiles(height, width, count)
    assert len(views) <= 40
    for position in np.random.default_rng(0).random((20, 2)) * (width, height):
        assert any(
            view.left <= position[0] <= view.left + view.side and view.top <= position[1] <= view.top + view.side
            for view in views
        )
    lefts = sorted({view.left for view in views})
    for left, right in zip(lefts, lefts[1:], strict=False):
        assert left + views[0].side - right >= 0.25 * views[0].side - 1e-6


@pytest.mark.parametrize("shape", [(300, 200), (120, 640), (64, 64)])
def test_a_view_shows_what_its_coordinates_say(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    frame = np.stack([x, y, np.ones_like(x)], -1).astype(np.float32)
    for view in [whole(*shape), whole(*shape, 0.3), *tiles(*shape, 2)]:
        image = view.image(frame, 64)
        v, u = np.nonzero(image[..., 2] > 0.999)
        there = view.to_frame(np.stack([u + 0.5, v + 0.5], -1) / 64) - 0.5
        pixel = max(1.0, view.side / 64)
        assert np.abs(image[v, u][:, :2] - there).max() <= 1.1 * pixel
        assert image[v, u].shape[0] > 0


def test_inner_edges_are_those_behind_which_the_frame_goes_on():
    left, right = tiles(64, 112, 2)
    assert left.inner == (False, False, True, False)
    assert right.inner == (True, False, False, False)
    assert whole(64, 112).inner == (False,) * 4
