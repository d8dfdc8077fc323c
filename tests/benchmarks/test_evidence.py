"""What speaks for a hand: the regression, what counts as a hand, and one short run of the bundled models."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SAMPLES = Path(__file__).parents[2] / "export_targets" / "samples" / "frame"


@pytest.fixture(scope="module")
def bench(script):
    return script("evidence")


def test_the_regression_finds_the_weights_that_labels_were_drawn_by(bench):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 3)) * (1.0, 3.0, 2.0)
    wanted = np.array([1.1, 0.3, 1.0, -0.5])
    y = rng.random(len(x)) < 1 / (1 + np.exp(-(x @ wanted[:3] + wanted[3])))
    assert bench.regression(x, y.astype(float)) == pytest.approx(wanted, abs=0.1)


def test_a_look_is_at_a_hand_at_none_or_at_one_that_is_ignored(bench):
    truth = {
        "boxes": np.array([[[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.8, 0.8]]]),
        "valid": np.array([[1, 0]]),
        "ignore": np.array([[0, 1]]),
    }

    def at(*box: float) -> bool | None:
        return bench.is_hand(SimpleNamespace(box=np.array(box) * bench.SIDE), truth, 0)

    assert at(0.11, 0.1, 0.3, 0.3) is True
    assert at(0.65, 0.6, 0.8, 0.8) is None
    assert at(0.4, 0.1, 0.6, 0.3) is False
    assert bench.is_hand(SimpleNamespace(box=np.array([0.1, 0.1, 0.3, 0.3])), None, 0) is False


def test_candidates_of_the_bundled_models(bench):
    pool = bench.Pool(SAMPLES, "val", "frame")
    truth = bench.FrameBatches(pool, bench.SIDE, None)(np.arange(len(pool)), np.random.default_rng(0))
    with bench.HandTracker() as tracker:
        rows = bench.candidates(tracker, [(truth["image"], truth), (truth["image"][:1] // 255, None)])
        hands = bench.found(tracker, truth["image"], still=True)
    assert rows.shape[1] == 4 and set(rows[:, 3]) == {0.0, 1.0}
    of_hands, of_others = (rows[rows[:, 3] == kind, :3].mean(0) for kind in (1, 0))
    assert (of_hands > of_others).all()  # each of the three says something
    assert len(hands) == len(pool) and any(hands)


def test_a_folder_that_is_not_there_is_an_error_in_a_sentence(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evidence.py", "--data", str(tmp_path), "--assets", str(tmp_path)])
    with pytest.raises(bench.EdgeHandsError, match=str(tmp_path)):
        bench.main()
