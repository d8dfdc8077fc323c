"""Several data folders: shares of every batch, late shards, resumption, and settings that do not fit together."""

import json
from pathlib import Path

import numpy as np
import pytest

from edge_hands.errors import DataError
from edge_hands.quantization.data.mix import Source, epoch_counts, epoch_order, parse_sources
from edge_hands.quantization.data.pipeline import Loader, Position, pool_order
from edge_hands.quantization.data.shards import Pool


@pytest.fixture
def folders(crop_shards, make_shard, tmp_path):
    """A large folder with val shards (96 samples) and a small one without (12)."""
    (tmp_path / "real").mkdir()
    make_shard(tmp_path / "real" / "train-00000.tar", "crop", 12, 7)
    return [crop_shards, tmp_path / "real"]


def take(loader: Loader, count: int) -> list:
    try:
        return [next(loader) for _ in range(count)]
    finally:
        loader.close()


def names(indices, rng):
    return {"i": indices}


def test_sources_are_parsed():
    assert parse_sources(["a/b=0.25", "c"]) == (Source(Path("a/b"), 0.25), Source(Path("c"), None))
    assert [str(s.folder) for s in parse_sources(["a=b", "c=1/2"])] == ["a=b", "c=1/2"]  # no numbers: names of folders
    for texts, message in (
        ([], "there is no data"),
        (["a=1.5"], r"share 1.5 is not in \(0, 1\]"),
        (["a=0"], "share 0 is not in"),
        (["a=nan"], "share nan is not in"),
        (["a=0.5", "b=0.5", "c"], "leave nothing for c"),
        (["a=0.5", "b=0.4"], "add up to 0.9, not to 1"),
        (["a", "a=0.4"], "names a twice"),
    ):
        with pytest.raises(DataError, match=message):
            parse_sources(texts)


def test_the_folders_without_a_share_are_seen_once_an_epoch():
    assert epoch_counts([300, 60, 7], [None, None, 0.1]) == [300, 60, 40]
    assert epoch_counts([300, 100], [0.5, 0.5]) == [200, 200]
    rng = np.random.default_rng(0)
    folders, numbers = epoch_order(rng, [300, 60, 7], [None, None, 0.1])
    assert sorted(numbers[folders == 0]) == list(range(300)) and sorted(numbers[folders == 1]) == list(range(60))
    often = np.bincount(numbers[folders == 2], minlength=7)
    assert set(often) == {5, 6} and often.sum() == 40  # round and round
    for start in range(400 - 40):  # every stretch of 40 has 30, 6 and 4, give or take one
        found = np.bincount(folders[start : start + 40], minlength=3)
        assert (np.abs(found - (30, 6, 4)) <= 1).all(), (start, found)


def test_one_folder_is_plainly_shuffled(crop_shards):
    pool = Pool(crop_shards, "train", "crop")
    order = pool_order(pool, np.random.default_rng(3), [None])
    np.testing.assert_array_equal(order, np.random.default_rng(3).permutation(96))


def test_every_batch_has_its_share(folders):
    pool = Pool(folders, "train", "crop")
    assert [len(m) for m in pool.members] == [96, 12]
    batches = take(Loader(pool, names, 20, seed=0, shares=[None, 0.25]), 12)
    small = [np.isin(batch["i"], pool.members[1]).sum() for batch, _ in batches]
    assert set(small) == {5}
    first = np.concatenate([batch["i"] for batch, _ in batches[:6]])
    assert len(set(first) & set(pool.members[0])) == 90  # 120 of an epoch of 128: none of the large folder twice
    assert batches[5][1] == Position(1) and batches[2][1] == Position(0, 3, (96, 12))


def test_a_late_shard_joins_its_folder_and_a_resumed_run_does_not_see_it_early(folders, make_shard):
    def stream(start, count):
        return take(Loader(Pool(folders, "train", "crop"), images, 20, 1, start, shares=[None, 0.25]), count)

    def images(indices, rng):
        return {"first": np.array([pool_image.mean() for pool_image in map(pool.image, indices)]), "i": indices}

    pool = Pool(folders, "train", "crop")
    before = stream(Position(), 6)
    make_shard(folders[1] / "train-00001.tar", "crop", 30, 8)
    pool = Pool(folders, "train", "crop")
    assert [len(m) for m in pool.members] == [96, 42]
    after = stream(before[1][1], 7)
    for (a, place), (b, again) in zip(before[2:], after, strict=False):
        np.testing.assert_array_equal(a["first"], b["first"])
        assert place == again
    assert after[3][1] == Position(1) and after[4][1] == Position(1, 1, (96, 42))
    epoch = np.concatenate([batch["i"] for batch, _ in after[4:]])
    assert np.isin(epoch, pool.members[1][12:]).any()


def test_a_position_of_other_folders_begins_the_next_epoch(folders):
    pool = Pool(folders, "train", "crop")
    for place in (Position(4, 2, (96,)), Position(4, 2, (96, 13))):
        batch, after = take(Loader(pool, names, 20, seed=0, start=place, shares=[None, 0.25]), 1)[0]
        assert after == Position(5, 1, (96, 12))
    assert Position.from_dict({"epoch": 4, "index": 2, "samples": 96}) == Position(4, 2, (96,))
    assert Position.from_dict({"epoch": 4, "index": 2, "samples": [96, 12]}) == Position(4, 2, (96, 12))


def test_a_folder_without_shards_or_samples_is_named(folders, make_shard, tmp_path):
    with pytest.raises(DataError, match="no shard train-.* in .*nowhere"):
        Pool([folders[0], tmp_path / "nowhere"], "train", "crop")
    (tmp_path / "empty").mkdir()
    make_shard(tmp_path / "empty" / "train-00000.tar", "crop", 0, 0)
    with pytest.raises(DataError, match="empty hold no sample"):
        Pool([folders[0], tmp_path / "empty"], "train", "crop")


def test_a_mixed_run_stops_and_goes_on(folders, tmp_path):
    pytest.importorskip("torch")
    from edge_hands.quantization import checkpoint
    from edge_hands.quantization.train import Recipe, train

    settings = dict(model="test_dfmamba", batch=20, threads=1, validate_count=8, log_every=1)
    data = [str(folders[1]) + "=0.25", str(folders[0])]
    recipe = Recipe.from_dict({**settings, "data": data, "samples": 60})
    train(recipe, tmp_path / "out")
    meta = checkpoint.load_meta(tmp_path / "out")
    assert meta.resume["positions"] == [{"epoch": 0, "index": 3, "samples": [12, 96]}]
    assert meta.resume["recipe"]["data"] == data and meta.metrics["crops"] == 8  # the val shards of the second
    train(Recipe.from_dict(meta.resume["recipe"] | {"samples": 100}), tmp_path / "out", resume=True)
    assert checkpoint.load_meta(tmp_path / "out").step == 5
    records = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [r["pool"] for r in records if r["event"] == "step"] == [108] * 5

    with pytest.raises(DataError, match="no shard val-.* in .*real"):
        train(Recipe.from_dict({**settings, "data": data, "samples": 60, "validate": folders[1]}), tmp_path / "x")
    with pytest.raises(DataError, match="data in a recipe is a list"):
        Recipe.from_dict({**settings, "data": "folder", "samples": 60})
