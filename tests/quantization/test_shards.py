"""Reading shards: labels in the right units, order that a seed decides, damage that is named."""

import shutil

import numpy as np
import pytest

from edge_hands.errors import DataError
from edge_hands.quantization.data import shards
from edge_hands.quantization.data.augment import CropBatches
from edge_hands.quantization.data.pipeline import Loader, Position
from edge_hands.quantization.data.shards import Pool


def take(loader: Loader, count: int) -> list:
    try:
        return [next(loader) for _ in range(count)]
    finally:
        loader.close()


def test_read_yields_each_sample(crop_shards):
    samples = list(shards.read(crop_shards, "val"))
    assert [key for key, _, _ in samples] == [f"{i:06d}" for i in range(32)]
    assert shards.decode(samples[0][1]).shape == (160, 160, 3)
    assert samples[0][2]["kind"] == "crop"


def test_crop_labels_are_relative_to_the_wrist(crop_shards):
    pool = Pool(crop_shards, "val", "crop")
    labels = [label for _, _, label in shards.read(crop_shards, "val")]
    i = next(i for i, label in enumerate(labels) if label["present"])
    xyz = np.array(labels[i]["xyz"])
    np.testing.assert_allclose(pool.labels["xyz"][i], xyz - xyz[0], atol=1e-6)
    z = (xyz[:, 2] - xyz[0, 2]) * labels[i]["depth_scale"] / 128
    np.testing.assert_allclose(pool.labels["z"][i], z, atol=1e-6)
    empty = [i for i, label in enumerate(labels) if not label["present"]]
    assert empty and not pool.labels["uv"][empty].any()
    np.testing.assert_array_equal(pool.image(i), shards.decode(list(shards.read(crop_shards, "val"))[i][1]))


def test_frame_labels_are_padded(frame_shards):
    pool = Pool(frame_shards, "val", "frame")
    assert set(pool.labels["count"]) == {0, 1, 2}
    one = np.flatnonzero(pool.labels["count"] == 1)[0]
    assert pool.labels["uv"][one, 0].any() and not pool.labels["uv"][one, 1].any()


def test_new_shards_come_behind_and_unfinished_ones_wait(crop_shards, make_shard, tmp_path):
    shutil.copy(crop_shards / "train-00000.tar", tmp_path)
    pool = Pool(tmp_path, "train", "crop")
    before = pool.image(95)
    (tmp_path / "train-00002.tar").write_bytes((crop_shards / "train-00000.tar").read_bytes()[:5000])
    make_shard(tmp_path / "train-00001.tar", "crop", 8, 5)
    assert pool.refresh() == 8 and len(pool) == 104
    np.testing.assert_array_equal(pool.image(95), before)
    make_shard(tmp_path / "train-00002.tar", "crop", 4, 6)
    assert pool.refresh() == 4 and len(pool.labels["uv"]) == 108


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no shard train"),
        (lambda path: path.write_bytes(path.read_bytes()[:-12000]), "not a finished tar"),
        (lambda path: path.write_bytes(b"x" * 512 + bytes(1024)), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"uv"', b'"vu"')), "000000 is not a crop label"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"crop"', b'"palm"')), "of kind 'palm'"),
    ],
)
def test_damage_is_named(crop_shards, tmp_path, spoil, message):
    shutil.copy(crop_shards / "train-00000.tar", tmp_path)
    spoil(tmp_path / "train-00000.tar")
    with pytest.raises(DataError, match=message):
        Pool(tmp_path, "train", "crop")


def test_an_image_that_is_none_is_named():
    with pytest.raises(DataError, match="no JPEG or PNG"):
        shards.decode(b"not a picture")


def test_the_loader_visits_every_sample_once_an_epoch(crop_shards):
    pool = Pool(crop_shards, "train", "crop")
    batches = take(Loader(pool, lambda indices, rng: {"i": indices}, 24, seed=3), 8)
    first, second = (np.concatenate([b["i"] for b, _ in part]) for part in (batches[:4], batches[4:]))
    assert sorted(first) == sorted(second) == list(range(96))
    assert (first != second).any()
    assert batches[3][1] == Position(1) and batches[4][1] == Position(1, 1, (96,))


def test_the_loader_goes_on_where_it_was(crop_shards):
    pool = Pool(crop_shards, "train", "crop")
    batches = CropBatches(pool, 32, None)
    whole = take(Loader(pool, batches, 32, seed=1), 5)
    rest = take(Loader(pool, batches, 32, seed=1, start=whole[1][1]), 3)
    for (a, place), (b, again) in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        assert place == again


def test_the_loader_hands_on_errors(crop_shards):
    def fail(indices, rng):
        raise ValueError("broken")

    pool = Pool(crop_shards, "train", "crop")
    with pytest.raises(ValueError, match="broken"):
        take(Loader(pool, fail, 32, seed=0), 1)
    with pytest.raises(DataError, match="do not fill a batch"):
        Loader(pool, fail, 97, seed=0)
