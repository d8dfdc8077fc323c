"""The models that the package ships, on the photograph that it ships and on what a camera can hand over."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import edge_hands as eh
from edge_hands.bundle import bundled
from edge_hands.sources import read_photo

SAMPLE = Path(eh.__file__).parent / "bundled" / "sample.jpg"
pytestmark = pytest.mark.skipif(
    not (bundled("landmarks").is_dir() and bundled("detector").is_dir() and SAMPLE.is_file()),
    reason="this checkout has no bundled models",
)


@pytest.fixture(scope="module")
def tracker():
    with eh.HandTracker() as made:
        yield made


def test_the_sample_has_hands(tracker):
    hands = tracker.track(read_photo(SAMPLE))
    assert hands
    for hand in hands:
        assert hand.score > 0.7
        assert np.isfinite(hand.joints_uv).all()
        assert 0.1 < np.linalg.norm(hand.joints_xyz[12]) < 0.25 or hand.confidence[12] < 0.9
        assert np.linalg.norm(hand.openxr().orientations, axis=1) == pytest.approx(np.ones(26))


def test_a_mirrored_picture_swaps_the_sides(tracker):
    frame = read_photo(SAMPLE)
    sides = sorted(hand.handedness for hand in tracker.track(frame))
    mirrored = sorted(hand.handedness for hand in tracker.track(np.ascontiguousarray(frame[:, ::-1]), still=True))
    swapped = sorted({"left": "right", "right": "left"}[side] for side in sides)
    assert mirrored == swapped


def test_a_photograph_shown_as_video_is_followed(tracker):
    frame = np.asarray(read_photo(SAMPLE))
    tracker.reset()
    seen = [tracker.track(frame, time=i / 30) for i in range(4)]
    assert seen[0]
    assert {hand.id for hand in seen[-1]} <= {hand.id for hands in seen[:-1] for hand in hands}
    assert np.abs(seen[-1][0].joints_uv - seen[-2][0].joints_uv).max() < 0.05 * max(frame.shape)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[..., 0],
        lambda image: image.astype(np.float32) / 255,
        lambda image: cv2.resize(image, (4000, 3000)),
        lambda image: np.zeros_like(image),
        lambda image: image[:16, :16],
    ],
    ids=["grey", "float", "12 megapixels", "black", "16x16"],
)
def test_any_frame_gives_finite_hands_or_none(tracker, change):
    image = change(np.asarray(read_photo(SAMPLE)))
    for hand in tracker.track(image, still=True):
        assert np.isfinite(hand.joints_uv).all()
        assert np.isfinite(hand.joints_xyz).all()
