"""Found hands: what counts as found, and one short run of the bundled models on rendered frames."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

SAMPLES = Path(__file__).parents[2] / "export_targets" / "samples" / "frame"


@pytest.fixture(scope="module")
def bench(script):
    return script("found_hands")


def _hand(x: float, y: float, side: float) -> np.ndarray:
    """Joints (21, 2) that fill a square."""
    corners = np.array([[x, y], [x + side, y + side]])
    return np.concatenate([corners, np.random.default_rng(0).uniform([x, y], [x + side, y + side], (19, 2))])


def _truth() -> dict[str, np.ndarray]:
    boxes = np.array([[[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.8, 0.8]], [[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.8, 0.8]]])
    return {"boxes": boxes, "valid": np.array([[1, 1], [1, 0]]), "ignore": np.array([[0, 0], [0, 1]])}


def test_a_hand_is_found_once_and_where_it_is(bench):
    near, far = _hand(0.11, 0.11, 0.2), _hand(0.4, 0.1, 0.2)
    found = [[near, near, far], [near, _hand(0.6, 0.6, 0.2)]]  # a double, a false one; in the second, an ignored one
    assert bench.count(found, _truth()).tolist() == [[1, 3, 2], [1, 1, 1]]
    assert bench.count([[], []], _truth()).tolist() == [[0, 0, 2], [0, 0, 1]]


def test_rates_have_intervals(bench):
    rates = bench.rates(np.array([[1, 1, 2], [1, 2, 1]] * 20))
    assert rates["recall"][0] == rates["precision"][0] == pytest.approx(2 / 3)
    for share, low, high in rates.values():
        assert low < share < high


def test_on_the_samples_of_the_package(bench, monkeypatch, capsys):
    if not SAMPLES.is_dir():
        pytest.skip("the package's sample frames are not here")
    monkeypatch.setattr(sys, "argv", ["found_hands.py", "--data", str(SAMPLES), "--count", "8"])
    bench.main()
    (row,) = capsys.readouterr().out.strip().splitlines()[2:]
    assert re.fullmatch(r"\| frame, 8 \| \d+ \| edge_hands \|( \d+\.\d% \(\d+\.\d% to \d+\.\d%\) \|){2}", row)


def test_without_mediapipe_a_sentence_says_so(bench):
    with pytest.raises(SystemExit, match="Install mediapipe"):
        bench.theirs(np.zeros((1, 8, 8, 3), np.uint8), sys.executable, 0)
