"""``edge-hands convert``: a data set of real hands, as its owners publish it -> shards to train and evaluate on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from edge_hands.errors import DataError


def command(
    dataset: Annotated[
        str, typer.Option(help="assemblyhands, dexycb, freihand, ho3d, interhand or rhd; its licence is yours to have.")
    ],
    root: Annotated[Path, typer.Option(help="Its folder, unpacked as the owners say.")],
    split: Annotated[str, typer.Option(help="Split, as the owners call it, such as training or s1/train.")],
    out: Annotated[Path, typer.Option(help="Folder of the shards.")],
    kind: Annotated[str, typer.Option(help="crop: upright hands for landmarks; frame: for the detector.")] = "crop",
    into: Annotated[
        str | None, typer.Option(help="train or val shards; else train for a training split, val for the others.")
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, help="Takes one frame in so many: neighbours in a video differ little.")
    ] = 1,
    count: Annotated[int | None, typer.Option(min=1, help="Stops after so many samples.")] = None,
) -> None:
    """Read a data set in its owners' layout into shards; `edge-hands train --data SHARDS --start CHECKPOINT` then
    fine-tunes on them."""
    from edge_hands.cli.console import err
    from edge_hands.quantization.data.readers import frames
    from edge_hands.quantization.data.readers.convert import convert

    into = into or ("train" if split.split("/")[-1].startswith("train") else "val")
    if into not in ("train", "val"):
        raise DataError(f"--into is {into!r}; expected train or val")
    found = islice(frames(dataset, root, split), 0, None, every)
    with err.status(f"{dataset}: reading") as status:
        counts = convert(
            found, out, into, kind, count, lambda counts: status.update(f"{dataset}: {counts['written']:,} samples")
        )
    left = ", ".join(f"{number:,} {why}" for why, number in counts.items() if why != "written" and number)
    typer.echo(f"{counts['written']:,} {into} {kind}s in {out}" + (f"; left out: {left}" if left else ""))
