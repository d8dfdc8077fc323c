"""A painted hand before a painted wall: what is cut out of it, and what is put behind it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_hands.hands import BONES
from edge_hands.quantization.teacher.compose import compose, cut

_SKIN, _WALL = (190, 140, 115), (225, 226, 230)


@pytest.fixture
def photograph(rng):
    """(image (160, 160, 3), joints uv (21, 2), where the hand is (160, 160) bool)."""
    joints = [(0.0, 0.0)]
    for finger in range(5):
        angle = np.deg2rad(-42 + 21 * finger)
        joints += [(r * np.sin(angle), -r * np.cos(angle)) for r in (36, 52, 64, 76)]
    uv = np.array(joints) + (80, 118)
    hand = np.zeros((160, 160), np.uint8)
    for parent, child in BONES:
        cv2.line(hand, np.rint(uv[parent]).astype(int).tolist(), np.rint(uv[child]).astype(int).tolist(), 1, 10)
    cv2.fillConvexPoly(hand, cv2.convexHull(np.rint(uv[[0, 1, 5, 9, 13, 17]]).astype(np.int32)), 1)
    cv2.rectangle(hand, (70, 118), (90, 159), 1, -1)
    image = np.where(hand[..., None] > 0, _SKIN, _WALL) + rng.normal(0, 5, (160, 160, 3))
    return np.clip(image, 0, 255).astype(np.uint8), uv, hand > 0


def test_the_hand_is_cut_out_but_for_a_seam(photograph):
    image, uv, hand = photograph
    opacity = cut(image, uv)
    assert opacity.shape == (160, 160) and opacity.dtype == np.float32 and 0 <= opacity.min() and opacity.max() <= 1
    assert opacity[~hand].mean() < 0.01
    assert opacity[cv2.erode(hand.astype(np.uint8), np.ones((7, 7))) > 0].mean() > 0.97
    assert (opacity > 0.5).sum() == pytest.approx(hand.sum(), rel=0.25)
    np.testing.assert_array_equal(opacity, cut(image, uv))


def test_a_hand_that_is_not_where_the_joints_are_is_refused(photograph):
    image, uv, _ = photograph
    assert cut(np.full_like(image, _WALL), uv) is None
    assert cut(np.roll(image, 70, axis=1), uv) is None


def test_the_wall_is_replaced_and_the_hand_is_lit(photograph):
    image, uv, hand = photograph
    background = np.full_like(image, (0, 90, 0))
    opacity = cut(image, uv)
    made = compose(image, opacity, background, np.array([0.5, 0.5, 1.0]))
    np.testing.assert_array_equal(made[opacity == 0], background[opacity == 0])
    solid = opacity > 0.999
    assert solid.sum() > 1500
    np.testing.assert_allclose(made[solid], image[solid] * (0.5, 0.5, 1.0), atol=1.5)


def test_composed_crops_keep_their_labels_and_can_be_made_again(photograph, tmp_path):
    from edge_hands.quantization.data.synthetic.backgrounds import Backgrounds
    from edge_hands.quantization.teacher.compose import composed

    panoramas = Path(__file__).parents[2] / "node_modules" / "@pmndrs" / "assets" / "hdri"
    if not panoramas.is_dir():
        pytest.skip(f"there are no panoramas in {panoramas}: make assets")
    folder = tmp_path / "@pmndrs" / "assets" / "hdri"
    folder.mkdir(parents=True)
    for path in sorted(panoramas.glob("*.exr.js"))[:2]:  # all of them take seconds to read
        (folder / path.name).symlink_to(path)
    image, uv, _ = photograph
    label = {"uv": uv.tolist()}
    samples = [("0000007", image, label), ("0000008", np.full_like(image, 128), label)]
    backgrounds = Backgrounds(tmp_path)
    made = list(composed(samples, backgrounds, 2))
    assert [key for key, _, _ in made] == ["0000007-0", "0000007-1"]  # the second sample shows no hand
    assert all(again is label for _, _, again in made)
    assert np.abs(made[0][1].astype(int) - made[1][1]).mean() > 5
    np.testing.assert_array_equal(list(composed(samples, backgrounds, 1))[0][1], made[0][1])


def test_pasted_hands_lie_under_their_joints_beside_those_of_the_frame(photograph, frame_shards):
    from edge_hands.quantization.data.shards import MAX_HANDS, Pool
    from edge_hands.quantization.teacher.pasted import pasted

    frames = Pool(frame_shards, "train", "frame")
    image, uv, _ = photograph
    red = image.copy()
    red[..., 1:] //= 4  # nothing in the frames is as red
    red[np.abs(image.astype(int) - _WALL).max(-1) < 40] = _WALL
    made = list(pasted([("0000007", red, {"uv": uv.tolist()})], frames, 12))
    assert len(made) >= 6
    sides = set()
    for key, frame, label in made:
        assert key.startswith("0000007-") and label["kind"] == "frame" and 1 <= len(label["hands"]) <= MAX_HANDS
        hand = label["hands"][-1]
        joints = np.array(hand["uv"])
        seen = np.array(hand["visible"]) > 0
        inside = ((joints >= 0) & (joints < frame.shape[1::-1])).all(-1)
        np.testing.assert_array_equal(seen, inside)
        x, y = joints[inside].astype(int).T
        reddish = frame[y, x, 0].astype(int) - frame[y, x, 1:].max(-1)
        assert not inside.any() or (reddish > 30).mean() > 0.8
        middle, thumb, little = (joints[i] - joints[0] for i in (9, 1, 17))
        clockwise = np.sign(thumb[0] * little[1] - thumb[1] * little[0])
        sides.add((hand["side"], clockwise))
    assert len(sides) == 2 and len({side for side, _ in sides}) == 2  # a left hand is a right one in the mirror
    for (key, a, label), (again, b, labels) in zip(made, pasted([("0000007", red, {"uv": uv.tolist()})], frames, 12)):
        assert key == again and label == labels
        np.testing.assert_array_equal(a, b)
