"""Crops that a detector takes for hands and that show none: what the landmark model's presence must learn from.

    python -m edge_hands.quantization.data.negatives --detector CHECKPOINT --frames shards/frames --out shards/negatives

A crop of a random background is easily told from a hand; the tracker only ever asks about what the detector has
chosen. So the detector looks through the training frames, and what it finds away from every hand becomes a sample
with ``present`` 0. Mixed into training by ``edge-hands train --data shards/negatives=SHARE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from edge_hands.decode import decode
from edge_hands.errors import DataError, EdgeHandsError
from edge_hands.images import whole
from edge_hands.quantization.data.shards import BASE_CROP, CROP_IMAGE, Pool, write_shard

_MARGIN = 0.25  # of the crop's side: no joint of a hand may lie in the crop image or this near to it

_NO_HAND = {"kind": "crop", "present": 0, "side": "right"}

Predictor = Callable[[np.ndarray], dict[str, np.ndarray]]


def mined(
    frames: Pool, predict: Predictor, size: int, threshold: float, batch: int = 32
) -> Iterator[tuple[str, np.ndarray, dict]]:
    """Crop samples (key, image (160, 160, 3) uint8, label) of what ``predict`` finds in ``frames`` where no hand is.

    ``predict`` is a detector over images (B, size, size, 3) uint8; ``threshold`` the least score that counts.
    """
    for start in range(0, len(frames), batch):
        indices = range(start, min(start + batch, len(frames)))
        pictures = [frames.image(index) for index in indices]
        views = [whole(*picture.shape[:2]) for picture in pictures]
        outputs = predict(np.stack([view.image(picture, size) for view, picture in zip(views, pictures)]))
        for row, (index, picture, view) in enumerate(zip(indices, pictures, views)):
            joints = frames.labels["uv"][index, : frames.labels["count"][index]].reshape(-1, 2)
            one = {name: output[row : row + 1] for name, output in outputs.items()}
            for number, found in enumerate(decode(one, view, threshold)):
                crop = replace(found.crop, side=found.crop.side * CROP_IMAGE / BASE_CROP)
                near = np.abs(crop.to_crop(joints) - 0.5) < 0.5 + _MARGIN
                if not near.all(-1).any():
                    yield f"{index:07d}-{number}", crop.warp(picture, CROP_IMAGE), _NO_HAND


def command(
    detector: Annotated[Path, typer.Option(help="A detector: checkpoint, quantised graph or bundle.")],
    frames: Annotated[Path, typer.Option(help="Folder of frame shards; the training shards are looked through.")],
    out: Annotated[Path, typer.Option(help="Folder of the shard of crops.")],
    threshold: Annotated[float, typer.Option(min=0.01, max=1.0, help="Least score of a detection.")] = 0.2,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Write what a detector takes for hands, and is none, as crops without a hand."""
    from edge_hands.quantization.evaluate import open_model

    kind, size, _, predict = open_model(detector, threads)
    if kind != "detector":
        raise DataError(f"--detector {detector} is a model of {kind}, expected a detector; name another folder")
    write_shard(out / "train-00000.tar", mined(Pool(frames, "train", "frame"), predict, size, threshold))
    typer.echo(f"{len(Pool(out, 'train', 'crop'))} crops without a hand in {out}")


if __name__ == "__main__":
    try:
        typer.run(command)
    except EdgeHandsError as error:
        raise SystemExit(str(error)) from None
