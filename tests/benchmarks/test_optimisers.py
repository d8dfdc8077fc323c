"""Muon against AdamW: one short comparison for real, and its table."""

import json
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from edge_hands.quantization import checkpoint  # noqa: E402


@pytest.fixture(scope="module")
def bench(script):
    return script("optimisers")


def test_the_table_has_means_and_ranges(bench):
    def row(mm):
        return {"error_2d_percent": 10.0, "pa_mpjpe_mm": mm, "loss": 1.0, "seconds": 5.0}

    lines = bench.table({("Muon and AdamW", 2e-3): [row(24.0), row(25.0)], ("AdamW alone", 2e-3): [row(28.0)]})
    first, second = lines.splitlines()[2:]
    assert "| 24.50 (24.00 to 25.00) |" in first and first.endswith("| 2 |")
    assert second == "| AdamW alone | 0.002 | 10.00 | 28.00 | 1.00 | 5.00 | 1 |"


def test_both_train_on_as_many_samples_and_are_kept(bench, crop_shards, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ["--data", crop_shards, "--out", out, "--model", "test_dfmamba", "--samples", 32, "--batch", 16]
    monkeypatch.setattr(sys, "argv", ["optimisers.py", *map(str, words), "--validate", "8"])
    bench.main()
    said = capsys.readouterr().out
    assert [json.loads(line)["name"] for line in said.splitlines()[:2]] == list(bench.CONTESTANTS)
    state = {}
    for name in bench.CONTESTANTS:
        folder = out / f"{name.replace(' ', '-')}-0.002-0"
        assert checkpoint.load_meta(folder).samples == 32
        state[name] = checkpoint.load_tensors(folder, checkpoint.RESUME, 2)
    momenta = {name: sum("momentum_buffer" in key for key in tensors) for name, tensors in state.items()}
    assert momenta["Muon and AdamW"] > 10 and momenta["AdamW alone"] == 0
    before = (out / "AdamW-alone-0.002-0" / "log.jsonl").read_text()
    bench.main()
    assert capsys.readouterr().out == said
    assert (out / "AdamW-alone-0.002-0" / "log.jsonl").read_text() == before
