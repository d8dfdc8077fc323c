"""``edge-hands evaluate``: measure a checkpoint, a quantised model or a bundle on held-out shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edge_hands.errors import DataError

_LABELS = {
    "finite": ("samples with finite outputs", ""),
    "error_2d_percent": ("2-D error, mean", "% of the crop's side"),
    "error_2d_percent_median": ("2-D error, median", "% of the crop's side"),
    "error_2d_px256": ("2-D error, mean", "px of a 256 crop"),
    "error_2d_box_percent": ("2-D error, mean", "% of the hand's box"),
    "error_2d_box_percent_median": ("2-D error, median hand", "% of the hand's box"),
    "pa_mpjpe_mm": ("PA-MPJPE, mean", "mm"),
    "pa_mpjpe_mm_median": ("PA-MPJPE, median", "mm"),
    "pa_mpjpe_mm_p90": ("PA-MPJPE, 90th percentile", "mm"),
    "joints_within_5_percent": ("joints within 5 % of the side", ""),
    "confidence_accuracy": ("confidence right about that", ""),
    "confidence_calibration_error": ("confidence, calibration error", ""),
    "presence_accuracy": ("presence accuracy", ""),
    "presence_calibration_error": ("presence, calibration error", ""),
    "handedness_accuracy": ("handedness accuracy", ""),
    "side_accuracy": ("right one of a crop and its mirror image", ""),
    "average_precision": ("average precision at IoU 0.5", ""),
    "recall": ("recall", ""),
    "precision": ("precision", ""),
    "score_calibration_error": ("score, calibration error", ""),
    "center_error_percent": ("crop centre error", "% of the crop's side"),
    "side_error_percent": ("crop side error", "%"),
    "up_angle_degrees": ("up direction error, mean", "degrees"),
    "up_angle_degrees_median": ("up direction error, median", "degrees"),
    "up_angle_degrees_p90": ("up direction error, 90th percentile", "degrees"),
}


def command(
    model: Annotated[Path, typer.Option(help="Checkpoint, quantised model or bundle: a folder.")],
    data: Annotated[Path, typer.Option(help="Folder of the shards; its val shards are used.")],
    count: Annotated[int, typer.Option(min=1, help="At most so many samples.")] = 1000,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the calibration curves: a PNG.")] = None,
) -> None:
    """Measure a model on held-out hands: accuracy in the image, in millimetres, per finger, presence, handedness.

    The 95 % intervals are bootstrap intervals over the samples.
    """
    from rich.console import Console
    from rich.table import Table

    from edge_hands.quantization.evaluate import evaluate_path

    found = evaluate_path(model, data, count, threads)
    if json_file:
        try:
            json_file.write_text(json.dumps(found, indent=1) + "\n")
        except OSError as error:
            raise DataError(f"cannot write {json_file}: {error.strerror}") from error
    if plot:
        _plot(plot, found["calibration"])
    counts = ", ".join(f"{found[name]} {name}" for name in ("crops", "frames", "hands") if name in found)
    table = Table(
        "measure", "value", "95 %", "unit", title=f"{found['model']} ({found['kind']}, {found['stage']}; {counts})"
    )
    for name, (label, unit) in _LABELS.items():
        if name in found:
            interval = " to ".join(f"{bound:.3f}" for bound in found["intervals"].get(name, ()))
            table.add_row(label, f"{found[name]:.3f}", interval, unit)
    console = Console()
    console.print(table)
    if "fingers_mm" in found:
        fingers = Table("finger", "2-D, % of the side", "PA, mm")
        for name, percent in found["fingers_2d_percent"].items():
            fingers.add_row(name, f"{percent:.2f}", f"{found['fingers_mm'][name]:.2f}")
        console.print(fingers)


def _plot(path: Path, curves: dict) -> None:
    import cv2

    from edge_hands.quantization import calibration

    try:
        written = cv2.imwrite(str(path), calibration.draw(curves)[..., ::-1])
    except cv2.error:
        written = False
    if not written:
        raise DataError(f"cannot write {path}; give --plot a file in a folder that exists, ending in .png or .jpg")
