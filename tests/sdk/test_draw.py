"""Drawing: what is drawn where, and that nothing breaks at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from edge_hands.draw import FINGER_COLORS, draw_hands
from edge_hands.hand import Hand


def hand(uv, confidence=1.0, side="right"):
    return Hand(np.float32(uv), np.zeros((21, 3), np.float32), np.full(21, confidence), side, 0.9, 0.95, 0)


@pytest.mark.parametrize("scale", [1, 4])
def test_joints_have_their_finger_s_colour(shape, scale):
    frame = np.full((200 * scale, 300 * scale, 3), 90, np.uint8)
    uv = shape((150 * scale, 100 * scale), 120 * scale)
    drawn = draw_hands(frame, [hand(uv)])
    assert (frame == 90).all()  # the frame itself is left alone
    for joint in range(1, 21):
        x, y = uv[joint].astype(int)
        assert drawn[y, x].tolist() == pytest.approx(FINGER_COLORS[(joint - 1) // 4], abs=12)
    changed = (drawn != 90).any(-1).mean()
    assert 0.01 < changed < 0.25


def test_unsure_joints_are_fainter(shape):
    frame, uv = np.full((200, 300, 3), 90, np.uint8), shape((150, 100), 120)
    sure, unsure = (draw_hands(frame, [hand(uv, c)])[uv[8, 1].astype(int), uv[8, 0].astype(int)] for c in (1.0, 0.1))
    assert sure.sum() > 1.5 * unsure.sum()


def test_hands_outside_far_away_and_in_tiny_or_grey_frames(shape):
    wild = shape((150, 100), 120)
    wild[3] = (1e9, -1e9)
    for frame in (np.zeros((16, 16), np.uint8), np.zeros((60, 40, 4), np.uint8), np.zeros((50, 50, 3), np.float32)):
        drawn = draw_hands(frame, [hand(wild, side="left"), hand(shape((-300, 20), 50))])
        assert drawn.shape == (*frame.shape[:2], 3)
        assert drawn.dtype == np.uint8


def test_no_hands_no_change(shape):
    frame = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    assert (draw_hands(frame, []) == frame).all()
