"""Hands, crops, camera and filter: the numbers that everything else rests on."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_hands import hands
from edge_hands.camera import Intrinsics, place
from edge_hands.crops import CROP_FACTOR, Crop, aligned_crop, up_angle
from edge_hands.filters import OneEuro, one_euro

crops = st.builds(
    Crop,
    st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    st.floats(5, 900),
    st.floats(-np.pi, np.pi),
    st.booleans(),
)


def test_the_skeleton_is_a_tree_from_the_wrist():
    assert len(hands.JOINT_NAMES) == len(set(hands.JOINT_NAMES)) == hands.NUM_JOINTS == 21
    assert len(hands.BONES) == 20
    assert all(parent < child for parent, child in hands.BONES)
    assert hands.JOINT_NAMES[hands.MIDDLE_MCP] == "middle_mcp"
    assert [hands.JOINT_NAMES[tip] for tip in hands.FINGERTIPS] == [f"{f}_tip" for f in hands.FINGERS]


def test_skeleton_length_adds_the_bones_up():
    joints = np.zeros((2, 21, 3))
    joints[1, :, 0] = [0, *([1, 2, 3, 4] * 5)]
    assert hands.skeleton_length(joints).tolist() == [0, 20]


@given(crops, st.floats(1, 300))
@settings(max_examples=50, deadline=None)
def test_frame_to_crop_and_back(crop, size):
    uv = np.random.default_rng(0).normal(size=(21, 2)) * 100
    assert crop.to_frame(crop.to_crop(uv, size), size) == pytest.approx(uv, abs=1e-6)
    assert crop.to_crop(np.array([crop.center])) == pytest.approx(np.array([[0.5, 0.5]]))
    xyz = np.random.default_rng(1).normal(size=(21, 3))
    assert crop.xyz_to_frame(crop.xyz_to_crop(xyz)) == pytest.approx(xyz)
    assert np.linalg.det(crop.rotation()) == pytest.approx(-1 if crop.mirror else 1)


@given(st.floats(-np.pi, np.pi), st.booleans())
@settings(max_examples=30, deadline=None)
def test_pixels_and_metres_turn_the_same_way(angle, mirror):
    crop = Crop((0.0, 0.0), 1.0, angle, mirror)
    xyz = np.random.default_rng(2).normal(size=(5, 3))
    assert crop.xyz_to_crop(xyz)[:, :2] == pytest.approx(crop.to_crop(xyz[:, :2]) - 0.5)
    assert crop.xyz_to_crop(xyz)[:, 2] == pytest.approx(xyz[:, 2])


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.7, -2.0, np.pi])
def test_an_aligned_crop_holds_the_hand_upright(shape, angle, mirror):
    seen = aligned_crop(shape((50, 80), 40, angle, left=mirror), mirror).to_crop(
        shape((50, 80), 40, angle, left=mirror)
    )
    assert seen[0, 0] == pytest.approx(seen[9, 0])  # wrist below the middle MCP
    assert seen[0, 1] > seen[9, 1]
    assert (seen.min(0) + seen.max(0)) / 2 == pytest.approx([0.5, 0.5])
    assert np.ptp(seen, axis=0).max() == pytest.approx(1 / CROP_FACTOR)
    assert seen[4, 0] < seen[20, 0]  # the thumb on the left: a right hand seen from its back


def test_up_angle_is_clockwise_from_up():
    assert up_angle(np.array([0, 0]), np.array([0, -1])) == pytest.approx(0)
    assert up_angle(np.array([0, 0]), np.array([1, 0])) == pytest.approx(np.pi / 2)


@pytest.mark.parametrize(("side", "size"), [(64, 64), (40, 64), (200, 64), (250, 32)])
def test_a_warped_crop_shows_what_its_coordinates_say(side, size):
    y, x = np.mgrid[:400, :400]
    frame = np.stack([x + 0.5, y + 0.5, np.ones_like(x)], -1).astype(np.float32)
    crop = Crop((200.0, 190.0), side, 0.6, True)
    v, u = (np.mgrid[:size, :size] + 0.5) / size
    error = crop.warp(frame, size)[..., :2] - crop.to_frame(np.stack([u, v], -1))
    assert np.abs(error).max() < 0.02


@pytest.mark.parametrize("border", [cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE])
def test_a_large_crop_averages_its_part_of_the_frame_as_the_whole_frame_is(rng, monkeypatch, border):
    frame = rng.integers(0, 255, (421, 643, 3), np.uint8)
    crops = [
        Crop((float(x), float(y)), float(side), float(angle), bool(angle > 0))
        for x, y, side, angle in zip(*rng.uniform([[-50], [-50], [64], [-3]], [[700], [480], [900], [3]], (4, 40)))
    ]
    assert sum(crop._part(frame, 32)[0].size < frame.size for crop in crops) > 20
    parts = [crop.warp(frame, 32, border) for crop in crops]
    monkeypatch.setattr(Crop, "_part", lambda self, image, size: (image, 0, 0))
    for crop, part in zip(crops, parts):
        differences = np.abs(part.astype(int) - crop.warp(frame, 32, border))
        assert differences.max() <= 1  # a rounding of the last bit
        assert (differences > 0).mean() < 0.01


def test_outside_the_frame_is_black():
    crop = Crop((0.0, 0.0), 20.0).warp(np.full((40, 40, 3), 9, np.uint8), 20)
    assert crop[:9].max() == crop[:, :9].max() == 0
    assert (crop[11:, 11:] == 9).all()


def test_projection_and_rays_are_inverse():
    camera = Intrinsics.from_fov(640, 480, np.radians(90))
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == pytest.approx((320, 320, 320, 240))
    xyz = np.random.default_rng(0).normal(size=(21, 3)) + (0, 0, 5)
    assert camera.rays(camera.project(xyz)) * xyz[:, 2:] == pytest.approx(xyz[:, :2])


def test_a_hand_is_placed_where_it_was():
    rng, camera = np.random.default_rng(0), Intrinsics(500, 510, 310, 250)
    xyz, where = rng.normal(size=(21, 3)) * 0.05, np.array([0.08, -0.05, 0.6])
    uv = camera.project(xyz + where)
    assert place(xyz, uv, camera) == pytest.approx(where, abs=1e-9)
    uv[7] += 40  # a joint that is not sure of itself hardly counts
    sure = np.ones(21)
    sure[7] = 0.0
    assert place(xyz, uv, camera, sure) == pytest.approx(where, abs=2e-3)


def test_one_euro_against_the_paper_s_formula():
    settings_ = OneEuro(min_cutoff=1.0, beta=0.5, speed_cutoff=1.0)
    times, values = [0.0, 0.1, 0.2, 0.35], [1.0, 2.0, 2.5, 0.0]
    state, filtered = None, []
    for time, value in zip(times, values, strict=True):
        state = one_euro(np.array(value), time, state, settings_)
        filtered.append(float(state.value))

    def alpha(cutoff, dt):
        return 1 / (1 + 1 / (2 * np.pi * cutoff) / dt)

    expected, speed, last = [values[0]], 0.0, values[0]
    for i in range(1, 4):
        dt = times[i] - times[i - 1]
        a = alpha(1.0, dt)
        speed = a * (values[i] - last) / dt + (1 - a) * speed
        a = alpha(1.0 + 0.5 * abs(speed), dt)
        last = a * values[i] + (1 - a) * last
        expected.append(last)
    assert filtered == pytest.approx(expected)


def test_one_euro_quietens_rest_and_follows_speed():
    rng, settings_ = np.random.default_rng(0), OneEuro(1.5, 6.0)
    state, rest = None, []
    for i in range(200):
        state = one_euro(rng.normal(size=21), i / 60, state, settings_, scale=100)
        rest.append(state.value)
    assert np.std(rest[50:]) < 0.45
    for i in range(200, 230):
        state = one_euro(np.full(21, (i - 200) * 20.0), i / 60, state, settings_, scale=100)
    assert state.value == pytest.approx(np.full(21, 580.0), abs=25)


def test_one_euro_starts_again_when_time_does_not_go_on():
    state = one_euro(np.array([0.0]), 5.0, None, OneEuro())
    assert one_euro(np.array([9.0]), 5.0, state, OneEuro()).value == [9.0]
    assert one_euro(np.array([9.0]), 1.0, state, OneEuro()).value == [9.0]
