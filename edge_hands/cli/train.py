"""``edge-hands train``: train a landmark model or a detector on shards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from edge_hands.errors import DataError


def command(
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint and of log.jsonl.")],
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER[=SHARE]", help="Shards, more than once if need be; SHARE of every batch."),
    ] = None,
    validate: Annotated[
        Path | None, typer.Option(help="Folder of the val shards; else the first of --data that has some.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model, such as dfmamba_edge.")] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe (TOML); the options here go before it.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Budget of time.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Budget of samples.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Highest learning rate.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides data order, augmentation, weights.")] = None,
    start: Annotated[Path | None, typer.Option(help="Float checkpoint whose weights a new run begins with.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")] = False,
) -> None:
    """Train on shards until the budget is spent. Interrupting it writes a checkpoint; --resume goes on from there."""
    from edge_hands.quantization.recipe import Recipe, read_toml
    from edge_hands.quantization.train import train

    given = dict(data=data or None, validate=validate, model=model, minutes=minutes, samples=samples, batch=batch)
    given |= dict(lr=lr, threads=threads, seed=seed)
    settings = (read_toml(config) if config else {}) | {n: value for n, value in given.items() if value is not None}
    if "model" not in settings:
        raise DataError("no model is named: give --model, or model in the recipe; `edge-hands train --help` shows both")
    recipe = Recipe.from_dict(settings)
    with shown(recipe.model) as report:
        metrics = train(recipe, out, resume, lambda record: report(recipe.model, record), start)
    if int(os.environ.get("RANK", 0)) == 0:  # under torchrun, the first process speaks
        typer.echo(f"checkpoint in {out}: {summary(metrics)}" if metrics else f"checkpoint in {out}, not validated yet")


@contextmanager
def shown(title: str) -> Iterator[Callable[[str, dict], None]]:
    """A progress bar on a terminal, a line every half minute elsewhere; told a stage's title and its records."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from edge_hands.cli.console import err

    first = int(os.environ.get("RANK", 0)) == 0
    columns = BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=err, disable=not (first and err.is_terminal)) as progress:
        task, said = progress.add_task(title, total=1.0), -inf

        def report(stage: str, record: dict) -> None:
            nonlocal said
            text = describe(record)
            if record["event"] in _PASSING:
                progress.update(task, completed=record["fraction"], description=f"{stage}: {text}")
                if err.is_terminal or time.monotonic() - said < _EVERY:
                    return
                said, text = time.monotonic(), f"{record['fraction']:.1%}, {text}".removesuffix(", ")
            if text:
                err.print(f"{stage}: {text}", soft_wrap=True, markup=False)

        yield report


#: Records that the bar shows; the others are printed. And the seconds between lines where there is no bar.
_PASSING, _EVERY = ("step", "render", "calibrate"), 30.0


def describe(record: dict) -> str:
    """A record of ``train`` or ``quantize`` in words; empty for one that nobody needs to read."""
    event = record["event"]
    if event == "step":
        parts = [f"{record['samples']:,} samples"] if "samples" in record else []
        parts += [f"{record['images_per_second']:.0f}/s"]
        parts += [f"{record['waiting']:.0%} of the time waiting for data"] if record.get("waiting", 0) >= 0.005 else []
        parts += [f"{_duration(record['left'])} left"] if "left" in record else []
        return ", ".join([*parts, f"loss {record['loss']:.3f}"])
    if event == "start":
        where = record["device"] + (f", {record['processes']} processes" if record["processes"] > 1 else "")
        begun = (
            f"goes on at step {record['step']:,}, {record['samples']:,} samples and {_duration(record['seconds'])} in"
            if record["resumed"]
            else "begins"
        )
        return f"{begun}; {record['pool']:,} samples in memory, {where}"
    if event == "validation":
        return f"{record['samples']:,} samples: {summary(record['metrics'])}"
    if event == "metrics":
        return f"{record['stage']}: {summary(record['metrics'])}"
    if event == "skipped":
        return f"step {record['step']}: the loss is {record['loss']}; skipped"
    return ""


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min" if minutes else "a moment"


def summary(metrics: dict) -> str:
    """The few numbers of a validation that matter, in one line."""
    if "pa_mpjpe_mm" in metrics:
        return (
            f"2-D {metrics['error_2d_percent']:.2f} % of the crop, PA-MPJPE {metrics['pa_mpjpe_mm']:.2f} mm, "
            f"presence {metrics['presence_accuracy']:.1%}, handedness {metrics['handedness_accuracy']:.1%}"
        )
    return f"AP {metrics['average_precision']:.3f}, recall {metrics['recall']:.1%}, " + ", ".join(
        f"{label} {metrics[name]:.1f} {unit}"
        for label, name, unit in (("centre", "center_error_percent", "%"), ("up", "up_angle_degrees", "deg"))
        if name in metrics
    )
