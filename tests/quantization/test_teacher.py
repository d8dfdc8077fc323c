"""The teacher's joints, its convention, and the crops made of photographs.

What asks MediaPipe itself needs the Python of an environment with it in EDGE_HANDS_MEDIAPIPE (see benchmarks and
``python -m edge_hands.quantization.teacher --help``).
"""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_hands.errors import DataError, RuntimeUnavailable
from edge_hands.hands import MIDDLE_MCP, REFERENCE_SKELETON_LENGTH, WRIST, skeleton_length
from edge_hands.quantization.data.shards import Pool, write_shard
from edge_hands.quantization.metrics import joint_errors, pa_errors
from edge_hands.quantization.teacher import label
from edge_hands.quantization.teacher.convention import Convention, lifted, pixels_per_metre
from edge_hands.quantization.teacher.photographs import Photographs, people_of


def turned(xyz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return xyz @ (turn * np.sign(np.linalg.det(turn)))


@pytest.fixture
def hands(rng):
    """80 hands: uv (80, 21, 2) pixels and xyz (80, 21, 3) metres, seen in weak perspective from all sides."""
    fingers = np.array([[f - 2.0, -3 - j] for f in range(5) for j in range(4)]) * 0.02
    flat = np.concatenate([np.zeros((1, 3)), np.column_stack([fingers, np.zeros(20)])])
    xyz = np.stack([turned(flat + rng.normal(0, 0.008, (21, 3)), rng) for _ in range(80)])
    return {"uv": xyz[..., :2] * 600 + rng.uniform(40, 60, (80, 1, 2)), "xyz": xyz}


def moved(hands: dict) -> dict:
    """The hands in another convention: a wrist nearer the middle knuckle, tips further out."""
    result = {name: joints.copy() for name, joints in hands.items()}
    for joints in result.values():
        joints[:, WRIST] += 0.2 * (joints[:, MIDDLE_MCP] - joints[:, WRIST])
        joints[:, 4::4] += 0.3 * (joints[:, 4::4] - joints[:, 3::4])
    return result


def test_a_convention_is_learnt_though_some_joints_are_lost(hands, rng):
    truth = moved(hands)
    seen = {name: joints.copy() for name, joints in hands.items()}
    lost = rng.random((80, 21)) < 0.05
    seen["uv"][lost] += rng.normal(0, 40, (lost.sum(), 2))
    before = joint_errors(hands["uv"][60:], truth["uv"][60:]).mean()
    fit = Convention.fit(*({name: a[:60] for name, a in side.items()} for side in (seen, truth)))
    uv, xyz = fit(hands["uv"][60:], hands["xyz"][60:])
    assert joint_errors(uv, truth["uv"][60:]).mean() < 0.3 * before
    raw = pa_errors(hands["xyz"][60:], truth["xyz"][60:]).mean()
    assert pa_errors(xyz, truth["xyz"][60:]).mean() < 0.2 * raw


def test_nothing_is_corrected_where_nothing_differs(hands):
    uv, xyz = Convention.fit(hands, hands)(hands["uv"], hands["xyz"])
    np.testing.assert_allclose(uv, hands["uv"], atol=1e-6)
    np.testing.assert_allclose(xyz, hands["xyz"], atol=1e-9)


def test_a_correction_turns_and_grows_with_the_hand(hands, rng):
    fit = Convention.fit(hands, moved(hands))
    uv, xyz = fit(hands["uv"], hands["xyz"])
    c, s = np.cos(0.7), np.sin(0.7)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    again_uv, again_xyz = fit(hands["uv"] @ turn[:2, :2] * 3 + 7, hands["xyz"] @ turn)
    np.testing.assert_allclose(again_uv, uv @ turn[:2, :2] * 3 + 7, atol=1e-8)
    np.testing.assert_allclose(again_xyz, xyz @ turn, atol=1e-10)


def test_lifted_joints_lie_on_their_pixels(hands, rng):
    np.testing.assert_allclose(pixels_per_metre(hands["uv"], hands["xyz"]), 600)
    uv = hands["uv"] + rng.normal(0, 2, hands["uv"].shape)
    xyz, scale = lifted(uv, hands["xyz"]), pixels_per_metre(uv, hands["xyz"])
    np.testing.assert_allclose(xyz[..., :2] * scale[:, None, None], uv - uv[:, :1], atol=1e-9)
    np.testing.assert_array_equal(xyz[..., 2], hands["xyz"][..., 2] - hands["xyz"][:, :1, 2])


def test_only_hands_on_which_all_looks_agree_are_kept(hands, rng):
    uv = np.repeat(hands["uv"][:5, None], 3, 1)
    box = label.box_side(hands["uv"][:5])
    uv[1, 2] += (0.02 * box[1], 0)  # a small shift of one look
    uv[2, 0] += (0, 0.1 * box[2])  # a large one
    right = np.ones((5, 3))
    right[3, 1] = 0  # one look sees the other side
    uv[4, 1], right[4, 1] = np.nan, np.nan  # one look finds nothing
    found = label.Found.agreed(uv, np.repeat(hands["xyz"][:5, None], 3, 1), right)
    assert found.kept(0.03).tolist() == [True, True, False, False, False]
    assert found.moved[:3] == pytest.approx([0, 0.02, 0.1]) and found.moved[4] == np.inf
    np.testing.assert_allclose(found.uv[:4], hands["uv"][:4])  # the median does not follow one look


@pytest.mark.parametrize("right", [True, False])
def test_a_crop_shows_the_joints_where_its_label_says(rng, right):
    """A dot is painted at each joint; the crop has it at ``uv``, and an upright right hand whatever the side."""
    joints = np.array([(0, 0)] + [(f - 2.0, -2.0 - j) for f in range(5) for j in range(4)])
    c, s = np.cos(2.0), np.sin(2.0)
    uv = joints * (8 if right else -8, 8) @ np.array([[c, s], [-s, c]])
    uv += 50 - (uv.max(0) + uv.min(0)) / 2
    image = np.zeros((100, 100, 3), np.uint8)
    for point in uv:
        cv2.circle(image, np.rint((point - 0.5) * 16).astype(int).tolist(), 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    xyz = np.concatenate([uv / 500, rng.normal(0, 0.01, (21, 1))], 1)
    crop, made = label.crop_sample(image, uv, xyz, right)
    seen = np.array(made["uv"])
    assert crop.shape == (160, 160, 3) and made["side"] == ("right" if right else "left")
    assert all(crop[int(y), int(x), 0] > 100 for x, y in seen)
    assert seen[1, 0] < seen[17, 0]  # thumb left of the little finger: the hand as the crop of a right one
    assert seen[WRIST, 1] > seen[MIDDLE_MCP, 1] and seen[WRIST, 0] == pytest.approx(seen[MIDDLE_MCP, 0], abs=0.01)
    np.testing.assert_allclose((seen.max(0) + seen.min(0)) / 2, 80, atol=0.01)
    assert np.ptp(seen, axis=0).max() == pytest.approx(128 / 1.45, abs=0.01)
    metres = np.array(made["xyz"])
    assert skeleton_length(metres) == pytest.approx(REFERENCE_SKELETON_LENGTH, rel=1e-3)
    np.testing.assert_allclose(metres[:, :2] * made["depth_scale"], seen - seen[0], atol=0.05)
    order = np.argsort(xyz[:, 2])  # forward stays forward, mirrored or not
    assert (np.diff(metres[order, 2]) >= -1e-5).all()


def test_mirroring_left_hands_twice_changes_nothing(hands):
    right = np.arange(80) % 2
    uv, xyz = label.as_right(hands["uv"], hands["xyz"], right, 100)
    np.testing.assert_array_equal(uv[1::2], hands["uv"][1::2])
    np.testing.assert_allclose(uv[::2, :, 0], 100 - hands["uv"][::2, :, 0])
    again = label.as_right(uv, xyz, right, 100)
    np.testing.assert_allclose(again[0], hands["uv"])
    np.testing.assert_array_equal(again[1], hands["xyz"])


def test_shards_are_read_as_any_others(tmp_path, hands, rng):
    image = rng.integers(0, 255, (100, 100, 3), dtype=np.uint8)
    samples = [(f"{i:07d}", *label.crop_sample(image, hands["uv"][i], hands["xyz"][i], i > 0)) for i in range(3)]
    write_shard(tmp_path / "new" / "train-00000.tar", samples)
    pool = Pool(tmp_path / "new", "train", "crop")
    assert len(pool) == 3 and pool.image(2).shape == (160, 160, 3)
    np.testing.assert_array_equal(pool.labels["right"], [0, 1, 1])
    np.testing.assert_allclose(pool.labels["uv"][1], samples[1][2]["uv"], atol=1e-4)
    assert not list((tmp_path / "new").glob("*.partial"))


def test_people_are_told_apart_by_their_digits():
    np.testing.assert_array_equal(people_of(np.array([3, 5, 9, 0, 1, 1, 4, 2])), [0, 0, 0, 1, 1, 1, 1, 2])


def test_nobody_is_on_both_sides(tmp_path, rng):
    number = 1000
    for person in range(60):
        for digit in np.flatnonzero(rng.random(10) < 0.8):
            folder = tmp_path / str(digit)
            folder.mkdir(exist_ok=True)
            side = 3024 // 8 if number % 50 == 0 else 100
            cv2.imwrite(str(folder / f"IMG_{number}.JPG"), np.full((side, side, 3), person, np.uint8))
            number += 1
    taken = Photographs.open(tmp_path)
    assert taken.images.shape == (number - 1000, 100, 100, 3) and (np.diff(taken.numbers) == 1).all()
    held, shown = taken.held_out(), taken.images[:, 50, 50, 0]
    assert 0.1 < held.mean() < 0.3
    assert not set(shown[held]) & set(shown[~held])


def test_a_folder_without_photographs(tmp_path):
    with pytest.raises(DataError, match="holds no photographs"):
        Photographs.open(tmp_path)
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "IMG_0007.JPG").write_bytes(b"no picture")
    with pytest.raises(DataError, match="IMG_0007.JPG cannot be read"):
        Photographs.open(tmp_path)


def test_a_python_without_mediapipe_is_refused():
    with pytest.raises(RuntimeUnavailable, match="pip install mediapipe==0.10.21"):
        label.ask(sys.executable, np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(RuntimeUnavailable, match="no-such-python"):
        label.ask("/no-such-python", np.zeros((1, 8, 8, 3), np.uint8))


def test_mediapipe_and_the_bundled_tracker_see_the_same_hand():
    python = os.environ.get("EDGE_HANDS_MEDIAPIPE")
    if not python:
        pytest.skip("EDGE_HANDS_MEDIAPIPE does not name the Python of an environment with mediapipe 0.10.21")
    from edge_hands import HandTracker
    from edge_hands.bundle import bundled

    image = cv2.imread(str(bundled("landmarks").parent / "sample.jpg"), cv2.IMREAD_COLOR_RGB)
    with HandTracker() as tracker:
        hand = tracker.track(image, still=True)[0]
    center, half = hand.joints_uv.mean(0), np.ptp(hand.joints_uv, axis=0).max()
    x, y = np.maximum((center - half).astype(int), 0)
    part = image[y : y + int(2 * half), x : x + int(2 * half)]
    found = label.ask(python, np.stack([part, part[:, ::-1]]))
    ours = hand.joints_uv - (x, y)
    assert found.kept(0.06)[0] and found.right[0] == (hand.handedness == "right")
    assert joint_errors(found.uv[0], ours).mean() < 0.15 * np.ptp(ours, axis=0).max()
    mirrored = found.uv[1] * (-1, 1) + (part.shape[1], 0)
    assert joint_errors(mirrored, found.uv[0]).mean() < 0.1 * np.ptp(ours, axis=0).max()
    assert found.right[1] == 1 - found.right[0]


def test_the_photographs_are_of_as_many_people_as_their_source_says():
    """218 people by the data set's authors; one who showed few digits may run into the next."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "real_hands"
    if not folder.is_dir():
        pytest.skip(f"there are no photographs in {folder}")
    taken = Photographs.open(folder)
    assert len(taken.images) == 1645
    assert taken.people[-1] + 1 == pytest.approx(218, abs=8)
    assert np.bincount(taken.people).max() <= 11
    assert taken.held_out().mean() == pytest.approx(0.2, abs=0.02)
