"""What is mined as a crop without a hand: detections away from every hand, and those alone."""

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_hands.quantization.data.negatives import command, mined
from edge_hands.quantization.data.shards import BASE_CROP, CROP_IMAGE, Pool

_SIZE = 64


@pytest.fixture(scope="module")
def frames(frame_shards) -> Pool:
    return Pool(frame_shards, "train", "frame")


def _seeing(frames: Pool, place):
    """A detector that sees one upright hand a frame, where ``place(index)`` says: its centre and side in [0, 1]."""
    seen = iter(range(len(frames)))

    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        assert images.shape[1:] == (_SIZE, _SIZE, 3) and images.dtype == np.uint8
        found = [(*place(next(seen)),) for _ in images]
        centers = np.array([[center] for center, _ in found], np.float32)
        sides = np.array([[side] for _, side in found], np.float32)
        half = sides[..., None] / 2 / 1.45
        points = np.stack([centers + (0, 0.2) * sides[..., None], centers - (0, 0.1) * sides[..., None]], 2)
        ones = np.ones((len(images), 1), np.float32)
        boxes = np.concatenate([centers - half, centers + half], -1)
        return dict(scores=0.5 * ones, boxes=boxes, points=points, centers=centers, sides=sides, handedness=ones)

    return predict


def _hands(frames: Pool, index: int) -> np.ndarray:
    return frames.labels["uv"][index, : frames.labels["count"][index]].reshape(-1, 2)


def test_true_hands_are_never_negatives(frames):
    def at_a_hand(index):
        joints = _hands(frames, index) / 256
        return (joints[:21].mean(0), np.ptp(joints[:21], axis=0).max() * 1.45) if len(joints) else ((0.5, 0.5), 0.3)

    found = list(mined(frames, _seeing(frames, at_a_hand), _SIZE, 0.2))
    assert {int(key.split("-")[0]) for key, *_ in found} == set(np.flatnonzero(frames.labels["count"] == 0))


def test_a_negative_is_the_crop_that_was_taken_for_a_hand(frames):
    center, side = np.array([0.25, 0.25]), 0.4
    found = {
        int(key.split("-")[0]): (image, label)
        for key, image, label in mined(frames, _seeing(frames, lambda _: (center, side)), _SIZE, 0.2)
    }
    reach = side * CROP_IMAGE / BASE_CROP
    near = [(np.abs(_hands(frames, i) / 256 - center) < reach * 0.75).all(-1).any() for i in range(len(frames))]
    assert sorted(found) == list(np.flatnonzero(~np.array(near))) and 0 < len(found) < len(frames)
    for index, (image, label) in found.items():
        assert image.shape == (CROP_IMAGE, CROP_IMAGE, 3) and label["present"] == 0 and label["kind"] == "crop"
        middle = image[CROP_IMAGE // 2 - 8 : CROP_IMAGE // 2 + 8, CROP_IMAGE // 2 - 8 : CROP_IMAGE // 2 + 8]
        there = frames.image(index)[58:70, 58:70]
        np.testing.assert_allclose(middle.mean((0, 1)), there.mean((0, 1)), atol=6)
    assert not list(mined(frames, _seeing(frames, lambda _: (center, side)), _SIZE, 0.6))


def test_the_command_writes_crops_that_training_reads(frame_shards, tmp_path):
    import typer

    app = typer.Typer()
    app.command()(command)
    detector = "tests/data/bundles/test_detector"
    arguments = ["--frames", str(frame_shards), "--out", str(tmp_path), "--threshold", "0.01"]
    done = CliRunner().invoke(app, ["--detector", detector, *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    pool = Pool(tmp_path, "train", "crop")
    assert f"{len(pool)} crops without a hand" in done.output and not pool.labels["present"].any()
    refused = CliRunner().invoke(app, ["--detector", "tests/data/bundles/test_dfmamba", *arguments])
    assert refused.exit_code and "expected a detector" in str(refused.exception)
