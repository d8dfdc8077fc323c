"""The whole of ``edge-hands evaluate`` on the bundled models."""

import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_hands.bundle import bundled
from edge_hands.errors import DataError
from edge_hands.quantization.evaluate import evaluate_path


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("edge_hands.quantization.evaluate.RESAMPLES", 50)


def test_every_interval_holds_its_number(crop_shards):
    found = evaluate_path(bundled("landmarks"), crop_shards, count=24, threads=1)
    assert found["hands"] < found["crops"] == 24 and found["stage"].startswith("bundle")
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high, name
    assert sum(found["calibration"]["confidence"]["count"]) == 21 * found["hands"]
    assert sum(found["calibration"]["presence"]["count"]) == 24
    assert evaluate_path(bundled("landmarks"), crop_shards, count=24, threads=1) == found


def test_a_detector_has_intervals_over_its_frames(frame_shards):
    found = evaluate_path(bundled("detector"), frame_shards, count=12, threads=1)
    low, high = found["intervals"]["average_precision"]
    assert 0 <= low <= found["average_precision"] <= high <= 1
    assert found["calibration"]["score"]["error"] == found["score_calibration_error"]


def test_the_command_writes_numbers_and_a_picture_of_the_calibration(crop_shards, tmp_path):
    from edge_hands.cli.main import app

    numbers, plot = tmp_path / "numbers.json", tmp_path / "calibration.png"
    command = ["evaluate", "--model", bundled("landmarks"), "--data", crop_shards, "--count", 12, "--threads", 1]
    done = CliRunner().invoke(app, [*map(str, command), "--json", str(numbers), "--plot", str(plot)])
    assert done.exit_code == 0, done.output
    found = json.loads(numbers.read_text())
    low, high = found["intervals"]["pa_mpjpe_mm"]
    assert f"{low:.3f} to {high:.3f}" in " ".join(done.output.split())
    picture = cv2.imread(str(plot))
    assert picture.shape[0] > 400 and picture.shape[1] > 2 * 400 and len(np.unique(picture)) > 10


def test_a_plot_that_cannot_be_written_is_named(crop_shards, tmp_path):
    from edge_hands.cli.main import app

    command = ["evaluate", "--model", bundled("landmarks"), "--data", crop_shards, "--count", 4]
    for plot in (tmp_path / "none" / "a.png", tmp_path / "a.unknown"):
        done = CliRunner().invoke(app, [*map(str, command), "--plot", str(plot)])
        assert isinstance(done.exception, DataError) and str(plot) in str(done.exception)
