"""``edge-hands train``: train a landmark model or a detector on shards."""

from __future__ import annotations

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
    from edge_hands.quantization.train import Recipe, train

    given = dict(data=data or None, validate=validate, model=model)
    given |= dict(minutes=minutes, samples=samples, batch=batch, lr=lr, threads=threads, seed=seed)
    settings = _read(config) | {name: value for name, value in given.items() if value is not None}
    if "model" not in settings:
        raise DataError("no model is named: give --model, or model in the recipe; `edge-hands train --help` shows both")
    recipe = Recipe.from_dict(settings)
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = Progress.get_default_columns()[1:]  # the text is long and comes last
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.description}")) as progress:
        task = progress.add_task(recipe.model, total=1.0)

        def report(record: dict) -> None:
            progress.update(task, completed=record["fraction"])
            if record["event"] == "step":
                text = f"{record['samples']} samples, {record['images_per_second']:.0f}/s, loss {record['loss']:.3f}"
                progress.update(task, description=text)
            elif record["event"] == "validation":
                progress.print(f"{record['samples']} samples: {summary(record['metrics'])}")
            elif record["event"] == "skipped":
                progress.print(f"step {record['step']}: the loss is {record['loss']}; skipped")

        metrics = train(recipe, out, resume, report, start)
    typer.echo(f"checkpoint in {out}: {summary(metrics)}" if metrics else f"checkpoint in {out}, not validated yet")


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


def _read(path: Path | None) -> dict:
    if path is None:
        return {}
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise DataError(f"cannot read the recipe {path} ({error.strerror}); give a TOML file to --config") from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path} is not TOML ({error})") from error
