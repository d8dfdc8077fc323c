"""26 OpenXR poses of a hand whose pose is known."""

from __future__ import annotations

import numpy as np
import pytest

from edge_hands.camera import Intrinsics
from edge_hands.hand import Hand
from edge_hands.openxr import JOINT_NAMES, joint_poses, quaternions


def rotated(quaternion: np.ndarray, vector) -> np.ndarray:
    axis, w = quaternion[:3], quaternion[3]
    return vector + 2 * np.cross(axis, np.cross(axis, vector) + w * np.asarray(vector))


def flat_hand(side: str = "right") -> np.ndarray:
    """Palm down, fingers forward: joints (21, 3) in camera axes (x right, y down, z forward), metres."""
    xyz = np.zeros((21, 3))
    for finger, x in enumerate((-0.05, -0.025, 0.0, 0.02, 0.04)):
        for part in range(4):
            xyz[1 + 4 * finger + part] = (x, 0.0, (0.03 if finger == 0 else 0.09) + 0.025 * part)
    if side == "left":
        xyz[:, 0] *= -1
    return xyz


def test_names_are_openxr_s():
    assert len(JOINT_NAMES) == 26
    assert [JOINT_NAMES[i] for i in (0, 1, 2, 5, 6, 10, 11, 16, 21, 25)] == [
        *("palm", "wrist", "thumb_metacarpal", "thumb_tip", "index_metacarpal", "index_tip"),
        *("middle_metacarpal", "ring_metacarpal", "little_metacarpal", "little_tip"),
    ]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_flat_hand_points_forward_with_its_back_up(side):
    poses = joint_poses(flat_hand(side), side)
    along = np.array([rotated(q, [0, 0, -1]) for q in poses.orientations])
    up = np.array([rotated(q, [0, 1, 0]) for q in poses.orientations])
    straight = [i for i, name in enumerate(JOINT_NAMES) if name.startswith(("palm", "wrist", "middle"))]
    assert along[straight] == pytest.approx(np.tile([0, 0, -1.0], (len(straight), 1)), abs=1e-6)
    fingers = [i for i, name in enumerate(JOINT_NAMES) if not name.startswith("thumb")]
    assert up[fingers] == pytest.approx(np.tile([0, 1.0, 0], (len(fingers), 1)), abs=1e-6)
    # The thumb's back looks up and to the thumb's side: left for a right hand.
    assert up[2, 0] * (1 if side == "left" else -1) > 0.5
    assert up[2, 1] > 0.3


def test_positions_are_the_joints_in_openxr_s_axes():
    joints = flat_hand()
    poses = joint_poses(joints, "right")
    flipped = joints * (1, -1, -1)
    flipped[[5, 9, 13, 17], 2] += 0.19 * 0.025  # the knuckles' centres are nearer the wrist
    assert poses.positions[1] == pytest.approx(flipped[0])
    assert poses.positions[2:6] == pytest.approx(flipped[1:5])
    assert poses.positions[7:11] == pytest.approx(flipped[5:9])
    assert poses.positions[22:26] == pytest.approx(flipped[17:21])
    metacarpal = poses.positions[11]
    assert metacarpal == pytest.approx(0.28 * flipped[9])
    assert poses.positions[0] == pytest.approx((metacarpal + flipped[9]) / 2)


def test_a_bent_finger_keeps_its_back_outside():
    joints = flat_hand()
    joints[6] = joints[5] + (0, 0.03, 0)  # the index turns down by 90 degrees, then back by 90 more
    joints[7] = joints[6] + (0, 0, -0.02)
    joints[8] = joints[7] + (0, 0, -0.02)
    poses = joint_poses(joints, "right")
    proximal, distal = poses.orientations[7], poses.orientations[9]
    assert rotated(proximal, [0, 0, -1]) == pytest.approx([0, -1, 0], abs=1e-6)
    assert rotated(proximal, [0, 1, 0])[2] < -0.95  # its back looks forward
    assert rotated(distal, [0, 0, -1]) == pytest.approx([0, 0, 1], abs=1e-6)
    assert rotated(distal, [0, 1, 0])[1] < -0.9  # and at last down


def test_frames_turn_with_the_hand():
    rng = np.random.default_rng(0)
    joints = flat_hand() + rng.normal(size=(21, 3)) * 0.004
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    flip = np.diag([1.0, -1.0, -1.0])
    a, b = joint_poses(joints, "right"), joint_poses(joints @ turn.T, "right")
    xr_turn = flip @ turn @ flip
    assert b.positions == pytest.approx(a.positions @ xr_turn.T, abs=1e-9)
    for vector in np.eye(3):
        for before, after in zip(a.orientations, b.orientations, strict=True):
            assert rotated(after, vector) == pytest.approx(xr_turn @ rotated(before, vector), abs=1e-6)


def test_radii_grow_with_the_hand():
    small, large = joint_poses(flat_hand(), "right"), joint_poses(flat_hand() * 1.5, "right")
    assert large.radii == pytest.approx(small.radii * 1.5)
    assert ((0.003 < small.radii) & (small.radii < 0.03)).all()


def test_quaternions_of_every_octant():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(200, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    q *= np.where(q[:, 3:] < 0, -1, 1)
    matrices = np.stack([[rotated(one, axis) for axis in np.eye(3)] for one in q]).transpose(0, 2, 1)
    assert quaternions(matrices) == pytest.approx(q, abs=1e-9)
    half_turns = np.stack([np.diag([1.0, -1, -1]), np.diag([-1.0, 1, -1]), np.diag([-1.0, -1, 1])])
    assert np.abs(quaternions(half_turns)) == pytest.approx(np.eye(4)[:3])


def test_degenerate_joints_still_give_unit_quaternions():
    for joints in (np.zeros((21, 3)), np.tile(np.linspace(0, 1, 21)[:, None], (1, 3))):
        poses = joint_poses(joints, "left")
        assert np.isfinite(poses.positions).all()
        assert np.linalg.norm(poses.orientations, axis=1) == pytest.approx(np.ones(26))


def test_a_hand_in_front_of_a_camera():
    camera, joints = Intrinsics(600, 600, 320, 240), flat_hand()
    where = np.array([0.1, 0.05, 0.5])
    hand = Hand(camera.project(joints + where), joints, np.ones(21), "right", 0.9, 0.99, 0)
    assert hand.joints_camera(camera) == pytest.approx(joints + where, abs=1e-6)
    assert hand.openxr(camera).positions[1] == pytest.approx(where * (1, -1, -1), abs=1e-6)
    assert hand.openxr().positions[1] == pytest.approx([0, 0, 0])
    record = hand.to_dict()
    assert record["joints"][9]["name"] == "middle_mcp"
    assert record["joints"][9]["xyz"] == pytest.approx(joints[9], abs=1e-5)
    assert len(record["box"]) == 4
