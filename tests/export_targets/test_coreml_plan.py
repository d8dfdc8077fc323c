"""The compute plan: what can be said about it without a Mac."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_hands.export_targets import coreml_plan
from edge_hands.export_targets.coreml_plan import Planned


def test_shares_and_fallbacks() -> None:
    operations = [
        Planned("conv", "a", "NeuralEngine", 0.6),
        Planned("resample", "b", "CPU", 0.3),
        Planned("add", "c", "NeuralEngine", 0.0),
        Planned("exp", "d", "GPU", 0.6),
    ]
    found = coreml_plan.summarise(operations, "NeuralEngine")
    assert found["operations"] == {"NeuralEngine": 2, "CPU": 1, "GPU": 1}
    assert found["share_of_cost"] == {"NeuralEngine": 0.4, "CPU": 0.2, "GPU": 0.4}
    assert [fallback["name"] for fallback in found["fallbacks"]] == ["d", "b"]
    assert coreml_plan.summarise([], "CPU")["share_of_cost"] == {}


@pytest.mark.skipif(sys.platform == "darwin", reason="here it has something to measure")
def test_off_a_mac_it_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert coreml_plan.main(["m.mlpackage"]) == 2
    assert "needs Core ML: run this on macOS 14.4 or later" in capsys.readouterr().err


def test_a_setting_that_ends_its_process_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(command: list[str], **options) -> subprocess.CompletedProcess:
        assert command[1:3] == ["-m", "edge_hands.export_targets.coreml_plan"]
        if command[-1] == "ALL":
            return subprocess.CompletedProcess(command, -6, "", "MPSGraph\nassertion failed\n")
        return subprocess.CompletedProcess(command, 0, f"noise\n{json.dumps({'steady_ms': 1.5})}\n", "")

    monkeypatch.setattr(coreml_plan.sys, "platform", "darwin")
    monkeypatch.setattr(coreml_plan.subprocess, "run", run)
    found = coreml_plan.probe(tmp_path)
    assert found["ALL"] == {"error": "exit -6: assertion failed"}
    assert found["CPU_AND_NE"] == {"steady_ms": 1.5}
