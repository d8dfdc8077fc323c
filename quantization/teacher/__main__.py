"""Labels photographs with MediaPipe Hands and writes them as crop shards.

    python -m venv /tmp/mediapipe && /tmp/mediapipe/bin/pip install mediapipe==0.10.21
    python -m edge_hands.quantization.teacher --python /tmp/mediapipe/bin/python \\
        --photographs ../shared/data/real_hands --crops shards/crops --out shards/real --test-out shards/real-test

The teacher's joints are brought to the project's convention by a correction that is fitted on synthetic crops, whose
true joints are known, and checked on those that a fit did not see. Photographs on whose joints the teacher's looks do
not agree are left out. A fifth of the people goes to ``--test-out`` as held-out shards. ``--compose`` writes a second
training shard with the same hands before other backgrounds; ``--frames`` writes frames for the detector with these
hands in them, held-out hands in held-out frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from edge_hands.errors import DataError, EdgeHandsError
from edge_hands.quantization.data.shards import BASE_CROP, Pool, write_shard
from edge_hands.quantization.data.synthetic.backgrounds import Backgrounds
from edge_hands.quantization.data.synthetic.scene import Sample
from edge_hands.quantization.data.synthetic.writer import contact_sheet
from edge_hands.quantization.metrics import joint_errors, pa_errors
from edge_hands.quantization.teacher.compose import composed
from edge_hands.quantization.teacher.convention import Convention, lifted
from edge_hands.quantization.teacher.label import as_right, ask, box_side, crop_sample
from edge_hands.quantization.teacher.pasted import pasted
from edge_hands.quantization.teacher.photographs import SIDE, Photographs

#: A synthetic hand teaches the convention when the teacher agrees with itself and is this near the truth (box sides).
_AGREED, _NEAR = 0.04, 0.10
_FOLDS = 5
_FEWEST = 60


def command(
    photographs: Annotated[Path, typer.Option(help="Folder of DIGIT/IMG_nnnn.JPG.")],
    crops: Annotated[Path, typer.Option(help="Folder of synthetic crop shards; the val shards are used.")],
    python: Annotated[Path, typer.Option(help="Python of an environment with mediapipe 0.10.21.")],
    out: Annotated[Path, typer.Option(help="Folder of the training shard.")],
    test_out: Annotated[Path, typer.Option(help="Folder of the held-out shard.")],
    synthetic: Annotated[int, typer.Option(min=100, help="Synthetic crops to fit the convention on.")] = 1900,
    spread: Annotated[float, typer.Option(min=0.0, help="Looks may differ by this share of the hand's box.")] = 0.03,
    compose: Annotated[int, typer.Option(min=0, help="Backgrounds for each training hand, in a second shard.")] = 4,
    frames: Annotated[Path | None, typer.Option(help="Synthetic frame shards to paste training hands into.")] = None,
    frames_out: Annotated[Path, typer.Option(help="Folder of the shard of such frames.")] = Path("shards/real-frames"),
    paste: Annotated[int, typer.Option(min=1, help="Frames for each training hand.")] = 4,
    assets: Annotated[Path, typer.Option(help="Folder of the npm packages (`make assets`).")] = Path("node_modules"),
    sheet: Annotated[Path | None, typer.Option(help="Also draw 30 training crops with their joints.")] = None,
) -> None:
    """Label photographs with MediaPipe Hands and write them as crop shards."""
    found, truth = _synthetic(crops, python, synthetic)
    typer.echo(_report(found, truth))
    convention = Convention.fit(found, truth)

    taken = Photographs.open(photographs)
    hands = ask(python, taken.images)
    chosen = np.flatnonzero(hands.kept(spread))
    right = hands.right[chosen]
    uv, xyz = convention(*as_right(hands.uv[chosen], hands.xyz[chosen], right, SIDE))
    uv, xyz = as_right(uv, xyz, right, SIDE)
    samples = [
        (f"{taken.numbers[i]:07d}", *crop_sample(taken.images[i], uv[k], xyz[k], right[k] > 0.5))
        for k, i in enumerate(chosen)
    ]
    test = taken.held_out()[chosen]
    train = [sample for sample, held in zip(samples, test) if not held]
    held_out = [sample for sample, held in zip(samples, test) if held]
    write_shard(out / "train-00000.tar", train)
    write_shard(test_out / "val-00000.tar", held_out)
    typer.echo(
        f"{len(chosen)} of {len(taken.images)} photographs kept: {len(train)} in {out}, {test.sum()} of other people "
        f"in {test_out}; looks differ by {np.median(hands.moved[chosen]) * 100:.1f} % of the hand's box in the median"
    )
    if frames:
        for split, ours in (("train", train), ("val", held_out)):
            write_shard(frames_out / f"{split}-00000.tar", pasted(ours, Pool(frames, split, "frame"), paste))
            typer.echo(
                f"{len(Pool(frames_out, split, 'frame'))} {split} frames with photographed hands in {frames_out}"
            )
    if compose:
        others = list(composed(train, Backgrounds(assets), compose))
        write_shard(out / "train-00001.tar", others)
        typer.echo(f"{len(others)} crops with other backgrounds in {out}")
        train += others
    if sheet:
        drawn = np.random.default_rng(0).permutation(len(train))[:30]
        if not cv2.imwrite(str(sheet), contact_sheet([Sample(*train[i][1:]) for i in drawn])[..., ::-1]):
            raise DataError(f"cannot write {sheet}; give a file name in a folder that exists, ending in .png or .jpg")


def _synthetic(crops: Path, python: Path, count: int) -> tuple[dict, dict]:
    """What the teacher found on synthetic right hands, and the truth: uv in pixels of the base crop, xyz in metres."""
    pool = Pool(crops, "val", "crop")
    chosen = np.flatnonzero(pool.labels["present"])[:count]
    hands = ask(python, np.stack([pool.image(i) for i in chosen]))
    uv, xyz = pool.labels["uv"][chosen], pool.labels["xyz"][chosen]
    off = joint_errors(np.nan_to_num(hands.uv), uv).mean(1) / box_side(uv)
    good = hands.kept(_AGREED) & (hands.right > 0.5) & (off < _NEAR)
    if good.sum() < _FEWEST:
        raise DataError(
            f"the teacher found {good.sum()} of {len(chosen)} synthetic hands well enough to learn its convention, "
            f"expected {_FEWEST}; raise --synthetic or write more held-out crops with `edge-hands synth --val`"
        )
    return {"uv": hands.uv[good], "xyz": hands.xyz[good]}, {"uv": uv[good], "xyz": xyz[good]}


def _report(found: dict, truth: dict) -> str:
    """Errors of the teacher and of the teacher corrected, each hand by a fit that has not seen it."""
    count = len(found["uv"])
    uv, xyz = found["uv"].copy(), found["xyz"].copy()
    for fold in range(_FOLDS):
        test = np.arange(count) % _FOLDS == fold
        fit = Convention.fit(*({name: a[~test] for name, a in side.items()} for side in (found, truth)))
        uv[test], xyz[test] = fit(found["uv"][test], found["xyz"][test])
    lines = [f"convention, on {count} synthetic hands that each fit did not see:"]
    for name, u, x in (("teacher", found["uv"], found["xyz"]), ("corrected", uv, xyz)):
        px = joint_errors(u, truth["uv"]) * 256 / BASE_CROP
        mm = pa_errors(lifted(u, x), truth["xyz"]) * 1000
        box = joint_errors(u, truth["uv"]) / box_side(truth["uv"])[:, None] * 100
        lines.append(
            f"  {name:9} 2-D {px.mean():.2f} px of a 256 crop (median {np.median(px):.2f}; {box.mean():.2f} % of the "
            f"box), PA-MPJPE {mm.mean():.2f} mm"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        typer.run(command)
    except EdgeHandsError as error:
        raise SystemExit(str(error)) from None
