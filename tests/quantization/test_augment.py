"""Augmentation: labels stay on the hand under every change of the image."""

import numpy as np
import pytest

from edge_hands.crops import aligned_crop
from edge_hands.quantization.data.augment import Augmentation, CropBatches, Photometric
from edge_hands.quantization.data.frames import FrameAugmentation, FrameBatches, hand_target
from edge_hands.quantization.data.shards import Pool
from edge_hands.quantization.metrics import pa_errors, procrustes

GEOMETRY = {name: getattr(Augmentation(), name) for name in ("rotation", "scale", "shift")}


@pytest.fixture(scope="module")
def crops(crop_shards):
    return Pool(crop_shards, "train", "crop")


@pytest.fixture(scope="module")
def frames(frame_shards):
    return Pool(frame_shards, "val", "frame")


def only(**fields) -> Augmentation:
    return Augmentation(**{**vars(Augmentation.none()), **fields})


def on_skin(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Which points (n, 2) in [0, 1] lie on the drawn skin of a uint8 image."""
    x, y = (np.clip(uv, 0, 0.999) * len(image)).astype(int).T
    return (np.abs(image[y, x].astype(int) - (230, 180, 150)) < 45).all(-1)


def test_without_augmentation_the_base_crop_is_cut_out(crops, rng):
    batch = CropBatches(crops, 128, None)(np.arange(8), rng)
    for i in range(8):
        np.testing.assert_array_equal(batch["image"][i], crops.image(i)[16:144, 16:144])
    hands = batch["present"] > 0
    np.testing.assert_allclose(batch["uv"][hands], (crops.labels["uv"][:8][hands] - 16) / 128, atol=1e-6)
    np.testing.assert_allclose(batch["z"], crops.labels["z"][:8], atol=1e-6)


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_joints_stay_on_the_hand(crops, rng, mirror):
    batch = CropBatches(crops, 128, only(mirror=mirror, **GEOMETRY))(np.arange(64), rng)
    inside = [on_skin(i, uv)[:20] for i, uv, p in zip(batch["image"], batch["uv"], batch["present"], strict=True) if p]
    assert np.mean(inside) > 0.98
    assert (batch["handed"] == batch["present"] * (1 - mirror)).all()


def test_three_d_turns_with_the_image(crops, rng):
    """uv and z are a weak-perspective picture of xyz, before and after."""
    batch = CropBatches(crops, 64, only(mirror=0.5, **GEOMETRY))(np.arange(64), rng)
    hands = batch["present"] > 0
    picture = np.concatenate([batch["uv"], batch["z"][..., None]], -1)[hands]
    assert pa_errors(picture, batch["xyz"][hands]).max() < 1e-5
    moved = picture - picture[:, :1]
    scale = np.linalg.norm(moved[:, 9], axis=-1) / np.linalg.norm(batch["xyz"][hands][:, 9], axis=-1)
    np.testing.assert_allclose(moved, batch["xyz"][hands] * scale[:, None, None], atol=1e-4)  # no turn is left
    original = crops.labels["xyz"][:64][hands]
    kept = pa_errors(original, batch["xyz"][hands]).mean(1) < 1e-6
    assert (kept == (batch["handed"][hands] > 0)).all()  # a mirrored hand is another shape
    assert procrustes(original, batch["xyz"][hands]).shape == original.shape


def test_the_same_seed_gives_the_same_batch(crops):
    a, b = (CropBatches(crops, 64, Augmentation())(np.arange(16), np.random.default_rng(4)) for _ in range(2))
    assert all((a[name] == b[name]).all() for name in a)
    other = CropBatches(crops, 64, Augmentation())(np.arange(16), np.random.default_rng(5))
    assert (a["image"] != other["image"]).any()


def test_photometric_changes(rng):
    image = rng.integers(60, 190, (6, 48, 48, 3)).astype(np.uint8)
    same = image.copy()
    Photometric(Augmentation.none(), 48)(same, rng)
    assert np.abs(same.astype(int) - image).max() <= 1  # rounding of the colour matrix

    grey = image.copy()
    Photometric(only(grey=1.0), 48)(grey, rng)
    assert np.ptp(grey.astype(int), axis=-1).max() <= 2
    assert np.abs(grey[..., 0] - image @ [0.299, 0.587, 0.114]).max() < 3

    noisy = np.full_like(image, 128)
    Photometric(only(noise=0.03), 48)(noisy, rng)
    assert abs(noisy.mean() - 128) < 1 and 0.5 < noisy.std() < 25

    for change in ("gain", "offset", "gamma", "hue", "blur", "coarse", "occlude", "channel", "saturation"):
        changed = image.copy()
        Photometric(only(**{change: 1.0}), 48)(changed, rng)
        assert (changed != image).any(), change


def test_frame_targets_are_aligned_crops(frames, rng):
    batch = FrameBatches(frames, 192, None)(np.arange(16), rng)
    for i in range(16):
        for hand in range(frames.labels["count"][i]):
            crop = aligned_crop(frames.labels["uv"][i, hand].astype(float))
            assert batch["sides"][i, hand] == pytest.approx(crop.side / 256, rel=1e-4)
            np.testing.assert_allclose(batch["centers"][i, hand], np.array(crop.center) / 256, atol=1e-5)
            assert batch["right"][i, hand] == frames.labels["right"][i, hand]
            np.testing.assert_allclose(batch["points"][i, hand], frames.labels["uv"][i, hand, [0, 9]] / 256, atol=1e-5)


def test_augmented_frames_keep_their_hands(frames, rng):
    changes = {**GEOMETRY, "scale": 0.4, "mirror": 0.5, "bars": 0.5}
    config = FrameAugmentation(**{**vars(FrameAugmentation.none()), **changes})
    batch = FrameBatches(frames, 192, config)(np.arange(32), rng)
    assert batch["valid"].sum() > 10
    assert (batch["valid"] * batch["ignore"] == 0).all()
    wrists = [
        on_skin(batch["image"][i], batch["points"][i, hand])
        for i, hand in zip(*np.nonzero(batch["valid"]))
        if (np.abs(batch["points"][i, hand] - 0.5) < 0.25).all()
    ]
    assert np.mean(wrists) > 0.9


def test_a_flip_swaps_sides(frames):
    flipped = FrameAugmentation(**{**vars(FrameAugmentation.none()), "mirror": 1.0})
    plain, mirrored = (FrameBatches(frames, 64, c)(np.arange(32), np.random.default_rng(0)) for c in (None, flipped))
    shown = plain["valid"] > 0
    assert (mirrored["right"][shown] == 1 - plain["right"][shown]).all()
    np.testing.assert_allclose(mirrored["centers"][shown][:, 0], 1 - plain["centers"][shown][:, 0], atol=1e-5)


def test_hands_out_of_view_are_ignored_or_absent(crops):
    uv = crops.labels["uv"][np.flatnonzero(crops.labels["present"])[0]].astype(float) / 160
    whole = np.array([0.0, 0.0, 1.0, 1.0])
    assert hand_target(uv, whole)["valid"] == 1
    half = hand_target(uv - (0.6, 0), whole)
    assert (half["valid"], half["ignore"]) == (0, 1)
    hidden = hand_target(uv, whole, visible=0.1)
    assert (hidden["valid"], hidden["ignore"]) == (0, 1)
    gone = hand_target(uv + 2, whole)
    assert (gone["valid"], gone["ignore"]) == (0, 0)
