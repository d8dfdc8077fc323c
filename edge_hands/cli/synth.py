"""``edge-hands synth``: render synthetic hands into shards, or draw a contact sheet of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edge_hands.errors import DataError


def command(
    out: Annotated[Path, typer.Option(help="Folder of the shards, or of sheet.png with --sheet.")],
    count: Annotated[int, typer.Option(min=1, help="Training samples.")] = 100_000,
    val: Annotated[int, typer.Option(min=0, help="Held-out samples, drawn apart from the training ones.")] = 2_000,
    kind: Annotated[
        str, typer.Option(help="crop: upright hands for landmarks; frame: whole pictures for the detector.")
    ] = "crop",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same data.")] = 7,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render.")] = os.cpu_count() or 1,
    assets: Annotated[Path, typer.Option(help="Folder of the npm packages (`make assets`).")] = Path("node_modules"),
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Draw a contact sheet with the joints on it, and stop.")
    ] = False,
    picture: Annotated[
        int | None, typer.Option(min=64, max=2048, metavar="SIDE", help="Write one frame of this size, and stop.")
    ] = None,
) -> None:
    """Render synthetic hands with exact labels (2-D, 3-D, side, visibility) into WebDataset shards."""
    from edge_hands.quantization.data.synthetic import writer

    if kind not in writer.KINDS:
        raise DataError(f"--kind is {kind!r}; expected one of {', '.join(writer.KINDS)}.")
    if sheet or picture:
        _draw(out, assets, kind, seed, picture)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shards = writer.plan(out, kind, "val", val, seed) + writer.plan(out, kind, "train", count, seed)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        task = progress.add_task(f"{kind}s", total=count + val)
        writer.write_shards(shards, assets, workers, lambda done: progress.advance(task, done))
    typer.echo(f"{count} training and {val} held-out {kind}s in {out}")


def _draw(out: Path, assets: Path, kind: str, seed: int, side: int | None) -> None:
    """A contact sheet, or one frame of ``side`` pixels."""
    import cv2
    import numpy as np

    from edge_hands.quantization.data.synthetic import writer
    from edge_hands.quantization.data.synthetic.scene import Scenes

    scenes = Scenes(assets)
    if side is None:
        path = out / "sheet.png"
        image = writer.contact_sheet([writer.sample(scenes, kind, "train", seed, index) for index in range(30)])
    else:
        path = out / "picture.jpg"
        image = scenes.frame(np.random.default_rng(seed), side).image
    out.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[:, :, ::-1]):
        raise DataError(f"Cannot write {path}.")
    typer.echo(f"Written: {path}")
