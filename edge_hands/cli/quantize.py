"""``edge-hands quantize``: a trained float model -> its int8 fake-quant graph, calibrated and fine-tuned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from edge_hands.errors import DataError

#: What a layer costs, by the metric's name.
_LOST = {
    "pa_mpjpe_mm": "PA-MPJPE mm",
    "error_2d_percent": "2-D error %",
    "average_precision": "AP",
    "recall": "recall",
}


def command(
    model: Annotated[Path, typer.Option(help="Float checkpoint, a folder written by train.")],
    data: Annotated[Path, typer.Option(help="Folder of the shards.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the quantised checkpoint.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Steps of fine-tuning; 0 only calibrates.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Ends the fine-tuning early.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Highest learning rate.")] = None,
    calibrate: Annotated[int | None, typer.Option(min=1, help="Batches that set the first ranges.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Samples of each validation.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Order of the data and augmentation.")] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(help="A layer that stays float32, as --sensitivity calls it; may be repeated.", metavar="LAYER"),
    ] = None,
    int8_scans: Annotated[bool, typer.Option("--int8-scans", help="Hand x and y of the scans over as int8.")] = False,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Then measure what each layer alone costs in int8, on --count samples (default 200); "
            "--model may be a quantised checkpoint, which is left as it is.",
        ),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File of the costs, else sensitivity.json in the checkpoint.")
    ] = None,
) -> None:
    """Quantise a trained model to int8: set the ranges on training samples, then fine-tune under fake int8."""
    from edge_hands.quantization import checkpoint, qat

    if sensitivity and checkpoint.load_meta(model).stage == qat.STAGE:
        if keep_float or int8_scans:
            raise typer.BadParameter(f"{model} is quantised already; give the float checkpoint", param_hint="--model")
        _sensitivity(model, data, count or 200, batch or 32, threads or 2, json_file)
        return
    if out is None:
        raise typer.BadParameter("the folder of the quantised checkpoint is missing", param_hint="--out")
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
    from edge_hands.quantization.quantizer import Scheme

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

        metrics = quantize(recipe, model, data, out, report, Scheme(tuple(keep_float or ()), int8_scans))
    typer.echo(f"quantised checkpoint in {out}: {summary(list(metrics.values())[-1])}")
    if sensitivity:
        _sensitivity(out, data, count or 200, recipe.batch, recipe.threads, json_file)


def _sensitivity(model: Path, data: Path, count: int, batch: int, threads: int, json_file: Path | None) -> None:
    """Prints the table of a quantised checkpoint's layers and writes it as JSON."""
    import torch
    from rich.progress import Progress

    from edge_hands.cli.console import err, table
    from edge_hands.cli.console import out as console
    from edge_hands.quantization.sensitivity import sensitivity

    torch.set_num_threads(threads)
    with Progress(console=err) as progress:
        task = progress.add_task("one layer at a time in int8", total=1.0)
        found = sensitivity(model, data, count, batch, lambda fraction: progress.update(task, completed=fraction))
    file = json_file or model / "sensitivity.json"
    try:
        file.write_text(json.dumps(found.as_dict(), indent=1) + "\n")
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}") from error
    plain = ", ".join(f"{_LOST[key]} {value:.3f}" for key, value in found.float_metrics.items())
    names = [_LOST[key] for key in found.float_metrics]
    title = f"lost in int8, layer by layer, {found.samples} samples; all in float: {plain}"
    rows = table(title, "layer", *names, "change %", right=(*names, "change %"))
    rows.columns[0].no_wrap = True
    for cost in (*found.layers, found.together):
        lost = (f"{value:+.3f}" for value in cost.lost.values())
        rows.add_row(cost.layer, *lost, f"{cost.change_percent:.2f}")
    console.print(rows)
    console.print(f"costs in {file}")
