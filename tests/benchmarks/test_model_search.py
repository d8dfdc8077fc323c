"""The search over models: its variants can be built, its table says what was measured, and a small one for real."""

import json
import re
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchao")

from edge_hands import models  # noqa: E402
from edge_hands.errors import DataError  # noqa: E402
from edge_hands.models.macs import count_macs  # noqa: E402


@pytest.fixture(scope="module")
def bench(script):
    return script("model_search")


def test_every_variant_can_be_built_and_differs(bench):
    macs = {name: count_macs(models.create("dfmamba_edge", **over)) for name, over in bench.VARIANTS.items()}
    assert len(set(macs.values())) == len(macs)
    assert macs["edge"] < macs["128px"] < macs["160px"] and macs["narrow"] < macs["edge"] < macs["wide"]


def test_variants_are_chosen_by_name_or_given(bench):
    assert list(bench.chosen([], [])) == list(bench.VARIANTS)
    assert bench.chosen(["tiny", "edge"], ['tiny={"states": 2}']) == {"tiny": {"states": 2}, "edge": {}}
    with pytest.raises(DataError, match="no variant huge; there are edge, "):
        bench.chosen(["huge"], [])
    with pytest.raises(DataError, match="expected NAME="):
        bench.chosen([], ["tiny=2"])


def test_the_table_compares_within_rounds(bench):
    """The machine is five times slower in the second round: the ratio does not notice."""
    row = {"size": 128, "mmac": 140.4, "parameters": 3_650_000, "bytes": 3_600_000}
    accuracy = {"error_2d_px256": [20.0, 19, 21], "pa_mpjpe_mm": [15.0, 14, 16]}
    taken = {"edge": np.array([2.0, 10.0, 2.0]), "wide": np.array([3.0, 15.0, 3.0])}
    rows = {"edge": row, "wide": {**row, "float": accuracy, "int8": {"pa_mpjpe_mm": [15.2, 14, 16]}}}
    first, second = bench.table(rows, taken).splitlines()[2:]
    assert first == "| edge | 128 | 140 | 3.65 | 3.60 | 2.00 (2.00 to 8.40) | 1.00 |  |  |  |"
    assert second.endswith("| 1.50 | 20.0 | 15.00 (14.00 to 16.00) | 15.20 |")


@pytest.mark.slow
def test_a_small_search(bench, crop_shards, tmp_path, monkeypatch, capsys):
    pytest.importorskip("litert_torch")
    out = tmp_path / "out"
    words = ["--data", crop_shards, "--out", out, "--model", "test_dfmamba", "--samples", 32, "--batch", 16]
    words += ["--evaluate", 8, "--rounds", 2, "--repeats", 2, "--only", "edge", "--only", "two"]
    monkeypatch.setattr(sys, "argv", ["model_search.py", *map(str, words), "--variant", 'two={"states": 2}'])
    bench.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("{", "|"))]
    found = [json.loads(line) for line in lines[:2]]
    assert [row["variant"] for row in found] == ["edge", "two"] and found[1]["mmac"] < found[0]["mmac"]
    assert all(row["int8"]["pa_mpjpe_mm"][0] > 0 and row["bytes"] > 10_000 for row in found)
    assert (out / "table.md").read_text().splitlines() == lines[2:] and re.search(r"\| two \| 64 \|", lines[-1])
    bench.main()  # kept, but for the times
    again = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert again == lines[:2]
