"""``edge-hands quantize``: a trained float model -> its int8 fake-quant graph, calibrated and fine-tuned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[Path, typer.Option(help="Float checkpoint, a folder written by train.")],
    data: Annotated[Path, typer.Option(help="Folder of the shards.")],
    out: Annotated[Path, typer.Option(help="Folder of the quantised checkpoint.")],
    steps: Annotated[int | None, typer.Option(min=0, help="Steps of fine-tuning; 0 only calibrates.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Ends the fine-tuning early.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Highest learning rate.")] = None,
    calibrate: Annotated[int | None, typer.Option(min=1, help="Batches that set the first ranges.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Samples of each validation.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Order of the data and augmentation.")] = None,
) -> None:
    """Quantise a trained model to int8: set the ranges on training samples, then fine-tune under fake int8."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from edge_hands.cli.train import summary
    from edge_hands.quantization.finetune import QatRecipe, quantize

    given = dict(steps=steps, minutes=minutes, batch=batch, lr=lr, calibrate=calibrate, validate_count=count)
    given |= dict(threads=threads, seed=seed)
    recipe = replace(QatRecipe(), **{name: value for name, value in given.items() if value is not None})
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        ranges = progress.add_task("ranges", total=1.0)
        tuning = progress.add_task("fine-tuning", total=1.0, visible=recipe.steps > 0)

        def report(record: dict) -> None:
            if record["event"] == "calibrate":
                progress.update(ranges, completed=record["fraction"])
            elif record["event"] == "step":
                text = f"fine-tuning, loss {record['loss']:.3f}, {record['images_per_second']:.0f}/s"
                progress.update(tuning, completed=record["fraction"], description=text)
            else:
                progress.print(f"{record['stage']}: {summary(record['metrics'])}")

        metrics = quantize(recipe, model, data, out, report)
    typer.echo(f"quantised checkpoint in {out}: {summary(list(metrics.values())[-1])}")
