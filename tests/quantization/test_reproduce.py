"""Recipes of the bundled models: what they say, and one from nothing to a bundle, stopped and gone on with."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchao")

from edge_hands import models  # noqa: E402
from edge_hands.errors import DataError  # noqa: E402
from edge_hands.quantization import checkpoint, reproduce  # noqa: E402
from edge_hands.quantization.finetune import QatRecipe  # noqa: E402
from edge_hands.quantization.recipe import RECIPES, read_plan  # noqa: E402

NODE_MODULES = Path(__file__).parents[2] / "node_modules"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_package_are_whole(path):
    full, quick = read_plan(path.stem), read_plan(path, quick=True)
    for plan in (full, quick):
        assert plan.name == path.stem and plan.train and plan.data.val
        kind = models.config_of(plan.train[0].model).kind
        assert plan.data.kind == {"landmarks": "crop", "detector": "frame"}[kind]
        assert set(plan.quantize) <= set(QatRecipe.__dataclass_fields__)
    assert quick.train[0].model.startswith("test_") and not full.train[0].model.startswith("test_")
    assert quick.data.count < 1000 < full.data.count and len(quick.train) == len(full.train)
    assert quick.train[-1].lr == full.train[-1].lr  # what quick does not say stays


def test_a_plan_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match="no recipe feet; expected a TOML file or one of detector, landmarks"):
        read_plan("feet")
    text = (RECIPES / "detector.toml").read_text()
    for change, message in (
        (text.replace("[quantize]", "[quantise]"), "a plan has no quantise"),
        (text.replace("\nsamples = ", "\nminuets = "), "a recipe has no setting minuets"),
        (text.replace("kind = ", "sort = "), "is not the plan of a model"),
        (text.replace("[[train]]", "[[run]]"), "is not the plan of a model"),
        (text.replace("[data]", "[data"), "is not TOML"),
    ):
        (tmp_path / "p.toml").write_text(change)
        with pytest.raises(DataError, match=message):
            read_plan(tmp_path / "p.toml")


def test_training_stages_go_on_where_they_were(crop_shards, tmp_path):
    """A stage that is done is kept, one that was stopped is resumed, one of another recipe refused."""
    plan = read_plan("landmarks", quick=True)
    recipe = reproduce.replace(plan.train[0], data=(str(crop_shards),), samples=128, log_every=1)
    out, seen = tmp_path / "train-1", []

    def stopping(record):
        seen.append(record)
        if record["event"] == "step" and record["step"] == 2:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(DataError, match="the same command goes on from there"):
        reproduce.trained(recipe, out, None, stopping)
    assert checkpoint.load_meta(out).step == 2
    seen.clear()
    assert reproduce.trained(recipe, out, None, seen.append) == out
    assert seen[0]["event"] == "start" and seen[0]["resumed"] and seen[0]["step"] == 2
    assert checkpoint.load_meta(out).step == 4
    seen.clear()
    reproduce.trained(recipe, out, None, seen.append)
    assert seen == []
    with pytest.raises(DataError, match="holds a run of another recipe"):
        reproduce.trained(reproduce.replace(recipe, lr=1.0), out, None, seen.append)


@pytest.mark.slow
@pytest.mark.skipif(not (NODE_MODULES / "@webxr-input-profiles").is_dir(), reason="no mesh: run `make assets`")
@pytest.mark.parametrize("name", ["landmarks", "detector"])
def test_a_model_from_nothing(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("litert_torch")
    from edge_hands.cli import main
    from edge_hands.quantization.evaluate import evaluate_path

    out, arguments = tmp_path / "out", ["--out", tmp_path / "out", "--quick", "--workers", 1, "--assets", NODE_MODULES]

    def run() -> int:
        monkeypatch.setattr(sys, "argv", ["edge-hands", "reproduce", name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        return int(stopped.value.code or 0)

    code = run()
    manifest = json.loads((out / name / "manifest.json").read_text())
    assert code == (0 if manifest["gate"]["passed"] else 1), capsys.readouterr()
    assert manifest["gate"]["samples"] == 32 and manifest["kind"] == name
    plan, work = read_plan(name, quick=True), out / "work" / name
    assert [checkpoint.load_meta(work / f"train-{n + 1}").samples for n in range(len(plan.train))] == [
        recipe.samples for recipe in plan.train
    ]
    assert evaluate_path(out / name, work / "shards", count=8)["finite"] == 1

    files = [*work.rglob("*.tar"), *work.rglob("checkpoint.json"), out / name / "manifest.json"]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert run() == code  # nothing is done twice
    assert {path: path.stat().st_mtime_ns for path in files} == before
    (out / name / "manifest.json").unlink()
    assert run() == code
    assert json.loads((out / name / "manifest.json").read_text())["files"] == manifest["files"]
