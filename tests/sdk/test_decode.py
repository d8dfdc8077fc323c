"""Detector outputs into detections: mapping, suppression, cut hands, bad numbers."""

from __future__ import annotations

import numpy as np
import pytest

from edge_hands.crops import aligned_crop
from edge_hands.decode import containment, decode, iou
from edge_hands.images import View, tiles, whole


def outputs(count: int = 16) -> dict[str, np.ndarray]:
    """Nothing found: scores of zero everywhere."""
    shapes = {"scores": (), "boxes": (4,), "points": (2, 2), "centers": (2,), "sides": (), "handedness": ()}
    return {name: np.zeros((1, count, *shape), np.float32) for name, shape in shapes.items()}


def put(found, index, joints, view, score=0.9, right=1.0):
    uv = (joints - (view.left, view.top)) / view.side
    crop = aligned_crop(joints)
    found["scores"][0, index], found["handedness"][0, index] = score, right
    found["boxes"][0, index] = [*uv.min(0), *uv.max(0)]
    found["points"][0, index] = uv[[0, 9]]
    found["centers"][0, index] = (np.array(crop.center) - (view.left, view.top)) / view.side
    found["sides"][0, index] = crop.side / view.side


@pytest.mark.parametrize("angle", [0.0, 0.9, -2.5])
def test_a_detection_is_the_aligned_crop_of_its_joints(shape, angle):
    joints, view, found = shape((300, 200), 120, angle), whole(400, 640), outputs()
    put(found, 3, joints, view, right=0.2)
    (detection,) = decode(found, view, 0.5)
    expected = aligned_crop(joints, mirror=True)
    assert detection.crop.center == pytest.approx(expected.center, abs=0.01)
    assert detection.crop.side == pytest.approx(expected.side, rel=1e-5)
    assert detection.crop.angle == pytest.approx(expected.angle, abs=1e-5)
    assert detection.crop.mirror
    assert detection.box == pytest.approx([*joints.min(0), *joints.max(0)], abs=0.01)
    assert detection.score == pytest.approx(0.9)


def test_overlapping_candidates_give_the_best_one(shape):
    view, found = whole(400, 640), outputs()
    for index, (dx, score) in enumerate([(0, 0.8), (6, 0.95), (-5, 0.7), (250, 0.6)]):
        put(found, index, shape((200 + dx, 200), 120), view, score)
    assert [round(detection.score, 2) for detection in decode(found, view, 0.5)] == [0.95, 0.6]
    assert len(decode(found, view, 0.7)) == 1


@pytest.mark.parametrize("name", ["boxes", "points", "centers", "sides", "handedness", "scores"])
def test_non_finite_candidates_are_left_out(shape, name):
    view, found = whole(400, 640), outputs()
    put(found, 0, shape((200, 200), 120), view)
    put(found, 1, shape((500, 200), 120), view)
    found[name][0, 0] = np.nan
    assert len(decode(found, view, 0.5)) == 1


def test_a_box_or_side_without_extent_is_left_out(shape):
    view, found = whole(400, 640), outputs()
    put(found, 0, shape((200, 200), 120), view)
    found["sides"][0, 0] = 0
    put(found, 1, shape((500, 200), 120), view)
    found["boxes"][0, 1, 2] = found["boxes"][0, 1, 0]
    assert decode(found, view, 0.5) == []


def test_a_hand_cut_by_a_tile_is_left_to_the_other_tile(shape):
    left, right = tiles(64, 112, 2)
    joints = shape((right.left + 3, 32), 20)
    for view, count in ((left, 1), (right, 0)):
        found = outputs()
        put(found, 0, joints, view)
        found["boxes"][0, 0] = np.clip(found["boxes"][0, 0], 0, 1)
        assert len(decode(found, view, 0.5)) == count
    # The same box at the frame's own edge is a whole answer.
    found = outputs()
    put(found, 0, shape((4, 32), 30), View(0, 0, 64))
    assert len(decode(found, View(0, 0, 64), 0.5)) == 1


def test_overlap_measures():
    a, b = np.array([0, 0, 4, 4.0]), np.array([2, 2, 4, 6.0])
    assert iou(a, b) == pytest.approx(4 / 20)
    assert containment(a, b) == pytest.approx(4 / 8)
    assert iou(a, a + 10) == 0
    assert containment(a, np.zeros(4)) == 0
