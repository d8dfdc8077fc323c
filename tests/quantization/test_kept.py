"""Rows of long tables: made once, and never mixed with those of other settings."""

import json

import pytest

from edge_hands.errors import DataError
from edge_hands.quantization.kept import kept


def test_a_row_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"mm": 4.5}

    settings = {"samples": 3, "data": ("a", "b")}
    assert kept(tmp_path / "x", settings, make) == {"mm": 4.5}
    assert kept(tmp_path / "x", {"data": ["a", "b"], "samples": 3}, make) == {"mm": 4.5}
    assert len(made) == 1
    with pytest.raises(DataError, match=r"result.json was made with other settings \(lr, samples\); use another"):
        kept(tmp_path / "x", {"samples": 4, "data": ["a", "b"], "lr": 1.0}, make)
    assert len(made) == 1


def test_a_row_that_fails_is_not_kept_and_a_damaged_one_is_named(tmp_path):
    with pytest.raises(ZeroDivisionError):
        kept(tmp_path, {}, lambda: {"mm": 1 / 0})
    assert not list(tmp_path.iterdir())
    for damage in ('{"settings": {}', "[]", json.dumps({"name": "a row of old"})):
        (tmp_path / "result.json").write_text(damage)
        with pytest.raises(DataError, match="is not a row that was kept"):
            kept(tmp_path, {}, dict)
