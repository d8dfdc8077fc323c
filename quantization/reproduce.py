"""A plan's model from nothing to its quantised checkpoint, stage by stage; what is done already is not done again.

A folder holds ``shards``, ``train-1`` and so on, and ``quantised``. Rendering goes on with the first shard that is
missing, training at its checkpoint, quantisation begins again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge_hands.errors import DataError
from edge_hands.quantization import checkpoint, qat
from edge_hands.quantization.finetune import QatRecipe, quantize
from edge_hands.quantization.recipe import Plan, Recipe
from edge_hands.quantization.train import train

#: Told a stage's title and what ``train`` or ``quantize`` report; of rendering {"event": "render", "fraction"}.
Report = Callable[[str, dict], None]


def build(plan: Plan, folder: Path, assets: Path, workers: int, report: Report) -> Path:
    """The quantised checkpoint of ``plan`` in ``folder``; returns its folder.

    Raises DataError where a stage fails, was stopped, or ``folder`` holds the work of another plan.
    """
    shards = folder / "shards"
    _render(plan, shards, assets, workers, report)
    before = None
    for number, recipe in enumerate(plan.train, 1):
        title = f"{plan.name}: training {number} of {len(plan.train)}"
        recipe = replace(recipe, data=(str(shards), *recipe.data))
        before = trained(recipe, folder / f"train-{number}", before, lambda record, title=title: report(title, record))
    return _quantise(plan, before, shards, folder / "quantised", report)


def _render(plan: Plan, shards: Path, assets: Path, workers: int, report: Report) -> None:
    from edge_hands.quantization.data.synthetic import writer

    data, done = plan.data, 0
    if data.kind not in writer.KINDS:
        raise DataError(f"the kind of data of {plan.name} is {data.kind!r}; expected {' or '.join(writer.KINDS)}")

    def progress(count: int) -> None:
        nonlocal done
        done += count
        report(f"{plan.name}: rendering", {"event": "render", "fraction": done / (data.count + data.val)})

    wanted = [
        shard
        for split, count in (("val", data.val), ("train", data.count))
        for shard in writer.plan(shards, data.kind, split, count, data.seed)
    ]
    unknown = sorted({*shards.glob("*.tar")} - {shard.path for shard in wanted})
    if unknown:
        raise DataError(f"{unknown[0]} is not of {plan.name}'s {data.count} samples; use another folder")
    writer.write_shards(wanted, assets, workers, progress)


def trained(recipe: Recipe, out: Path, start: Path | None = None, report: Callable[[dict], None] | None = None) -> Path:
    """``out``, the checkpoint of a finished run of ``recipe``: one that is there is kept, one that was stopped goes on.

    Raises DataError where ``out`` holds a run of another recipe, or this one was stopped.
    """
    if resume := (out / checkpoint.META).exists():
        place = checkpoint.load_meta(out).resume
        before, wanted = dict(place.get("recipe", {})), recipe.as_dict()
        before["data"] = [*wanted["data"][:1], *before.get("data", ())[1:]]  # the folder may have moved
        if before != wanted:
            raise DataError(f"{out} holds a run of another recipe; use another folder, or remove it")
        if place["finished"]:
            return out
    train(recipe, out, resume, report, start)
    if not checkpoint.load_meta(out).resume["finished"]:
        raise DataError(f"training was stopped; its checkpoint is in {out}, and the same command goes on from there")
    return out


def _quantise(plan: Plan, source: Path, shards: Path, out: Path, report: Report) -> Path:
    if (out / checkpoint.META).exists() and checkpoint.load_meta(out).stage == qat.STAGE:
        return out
    try:
        recipe = replace(QatRecipe(), **plan.quantize)
    except TypeError as error:
        raise DataError(f"the settings of quantize in the plan {plan.name} are wrong: {error}") from error
    quantize(recipe, source, shards, out, lambda record: report(f"{plan.name}: quantising", record))
    return out
