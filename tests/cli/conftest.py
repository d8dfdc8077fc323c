"""The CLI is tested by its real commands, on the committed test bundles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_hands.cli import main

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"
MODELS = ("--landmarks", str(BUNDLES / "test_dfmamba"), "--detector", str(BUNDLES / "test_detector"))


@pytest.fixture
def edge_hands(tmp_path):
    """``edge_hands("run", path, ...)`` -> the finished process; no command may ever show a traceback."""

    def call(*arguments: object, models: bool = False) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_hands", *map(str, arguments), *(MODELS if models else ())]
        environment = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return call


@pytest.fixture
def photo(tmp_path):
    """A picture of 90 x 60 noise pixels."""
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    return path


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """``called("run", ...)`` -> (exit code, stdout, stderr): the command in this process, which is faster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: object, models: bool = False) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edge-hands", *map(str, arguments), *(MODELS if models else ())])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return call
