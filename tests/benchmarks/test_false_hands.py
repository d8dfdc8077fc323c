"""False hands: which pictures are looked at, what is counted, and one short run on the bundled models."""

import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_hands.bundle import bundled
from edge_hands.errors import DataError

ASSETS = Path(__file__).parents[2] / "node_modules"
SAMPLE = bundled("landmarks").parent / "sample.jpg"


@pytest.fixture(scope="module")
def bench(script):
    return script("false_hands")


def _or_skipped(make, package):
    pytest.importorskip(package)
    try:
        return make(ASSETS)
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def backgrounds(bench):
    return _or_skipped(bench.Backgrounds, "OpenEXR")


@pytest.fixture(scope="module")
def bodies(bench):
    return _or_skipped(bench.Bodies, "moderngl")


def test_people_stand_before_the_views(bench, backgrounds, bodies):
    views, people = list(bench.views(backgrounds, 3, 1, 64)), list(bench.people(backgrounds, bodies, 3, 1, 64))
    for view, picture, again in zip(views, people, bench.people(backgrounds, bodies, 3, 1, 64)):
        assert (picture == again).all() and 0.02 < (picture != view).any(-1).mean()


def test_views_are_the_seeds_and_show_the_panorama(bench, backgrounds):
    for kind in (bench.views, bench.scenes):
        first, again, other = (list(kind(backgrounds, 4, seed, 64)) for seed in (1, 1, 2))
        assert len(first) == 4 and first[0].shape == (64, 64, 3) and first[0].dtype == np.uint8
        assert all((a == b).all() for a, b in zip(first, again))
        assert any((a != b).any() for a, b in zip(first, other))
    for number, view in enumerate(bench.views(backgrounds, 4, 1, 64)):
        colours = backgrounds.panoramas[number].image.reshape(-1, 3)
        assert (view.reshape(-1, 3) >= colours.min(0)).all() and (view.reshape(-1, 3) <= colours.max(0)).all()


def test_directions_are_turns_of_at_most_thirty_degrees_up_or_down(bench):
    for seed in range(50):
        turn = bench._direction(np.random.default_rng(seed))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        assert abs(turn[1, 2]) <= 0.5 + 1e-9  # how far the view's axis rises


def test_photographs_are_drawn_by_a_seed(bench, tmp_path):
    for number in range(12):
        path = tmp_path / str(number % 3) / f"{number}.JPG"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "LICENSE").touch()
    drawn = bench.photographs(tmp_path, 5, 2026)
    assert drawn == bench.photographs(tmp_path, 5, 2026) != bench.photographs(tmp_path, 5, 1)
    assert len(set(drawn)) == 5 and all(path.suffix == ".JPG" for path in drawn)
    with pytest.raises(DataError, match="holds 12 photographs, 13 are asked for"):
        bench.photographs(tmp_path, 13, 0)


def test_shares_have_intervals_and_bars_are_judged(bench):
    none, some = bench.share(np.zeros(300, bool)), bench.share(np.arange(300) < 30)
    assert (none["share"], none["low"], none["high"]) == (0, 0, pytest.approx(0.01))  # the rule of three
    assert some["count"] == 30 and 0.06 < some["low"] < some["share"] == 0.1 < some["high"] < 0.14
    counts = np.zeros((200, 3), int)
    counts[:2, 2], counts[:3, 0] = 1, 2
    ones = np.array([[1, 1, 2], [0, 1, 1], [1, 1, 1], [2, 1, 1]])
    rows = bench.report({"views": counts, "walls": 1 - counts.clip(0, 1)}, ones)
    lines = bench.table(rows).splitlines()[2:]
    assert lines[0].startswith("| views: a hand | 200 | 3: 1.5% (") and "| 2: 1.0% (" in lines[0]
    assert lines[0].endswith("| met |") and lines[1].endswith("| missed |")
    found, second = (re.findall(r"\| (\d+): ", line) for line in lines[2:])
    assert (found, second) == (["3", "4", "4"], ["1", "0", "1"])


def test_the_bundled_tracker_is_counted(bench, backgrounds, bodies, tmp_path, monkeypatch, capsys):
    """A picture with two hands, one without, and two views of each kind: what the table counts is what is drawn."""
    photos, numbers = tmp_path / "photos", tmp_path / "numbers.json"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(SAMPLE.read_bytes())
    cv2.imwrite(str(photos / "b.png"), np.full((128, 128, 3), 90, np.uint8))
    words = ["--empty", 2, "--one-hand", photos, "--count", 2, "--assets", ASSETS, "--side", 128]
    words += ["--draw", tmp_path / "drawn", "--json", numbers]
    monkeypatch.setattr(sys, "argv", ["false_hands.py", *map(str, words)])
    bench.main()
    rows = json.loads(numbers.read_text())
    drawn = {folder.name: len(list(folder.iterdir())) for folder in (tmp_path / "drawn").iterdir()}
    assert rows["one hand: a hand is found"]["photograph"]["count"] == drawn["one-hand"] == 1
    assert rows["one hand: a second one"]["photograph"]["count"] == 1
    for name in ("panorama views", "synthetic backgrounds", "people"):
        assert rows[f"{name}: a hand"]["photograph"]["count"] == drawn.get(name.replace(" ", "-"), 0)
    assert len(capsys.readouterr().out.splitlines()) == 7
