"""Muon and AdamW together against AdamW alone: the same model, data and number of samples, from nothing.

    python benchmarks/optimisers.py --data SHARDS --out DIR [--samples 24000] [--seeds 3] [--lr 2e-3 --lr 4e-3]

prints the validation after every run as a table, with the mean over the seeds. Runs that are done are kept in
``--out``: stopped, the same command goes on. Seconds are the run's own, on a machine that may do other things too.
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path

import numpy as np
import torch

from edge_hands.errors import EdgeHandsError
from edge_hands.quantization.kept import kept
from edge_hands.quantization.optimisers import Optimisers
from edge_hands.quantization.recipe import Recipe
from edge_hands.quantization.train import Run

#: What is compared, and whether Muon takes its part.
CONTESTANTS = {"Muon and AdamW": True, "AdamW alone": False}
_METRICS = {"error_2d_percent": "2-D error, % of the side", "pa_mpjpe_mm": "PA-MPJPE, mm"}


def run(recipe: Recipe, muon: bool, out: Path) -> dict:
    """One training run in ``out``; returns its last validation, the mean loss of its last report, and seconds."""
    last = {}

    def listen(record: dict) -> None:
        if record["event"] == "step":
            last.update(loss=record["loss"])

    training = Run(recipe, out, False, listen)
    training.optimisers = Optimisers(training.model, recipe.offset_lr, recipe.weight_decay, muon)
    try:
        found = training.loop(threading.Event())
    finally:
        training.close()
    return {name: found[name] for name in _METRICS} | last | {"seconds": round(training.seconds, 1)}


def table(rows: dict[tuple[str, float], list[dict]]) -> str:
    """Markdown: a line for every contestant and learning rate, the mean over the seeds and their range."""
    lines = ["| | learning rate | " + " | ".join([*_METRICS.values(), "last training loss", "seconds"]) + " | runs |"]
    lines.append("|---" * (len(_METRICS) + 5) + "|")
    for (name, lr), found in rows.items():
        cells = []
        for metric in (*_METRICS, "loss", "seconds"):
            values = np.array([row[metric] for row in found])
            spread = f" ({values.min():.2f} to {values.max():.2f})" if len(values) > 1 else ""
            cells.append(f"{values.mean():.2f}{spread}")
        lines.append(f"| {name} | {lr:g} | " + " | ".join(cells) + f" | {len(found)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards of crops, with val shards")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of table.md")
    parser.add_argument("--model", default="dfmamba_edge")
    parser.add_argument("--samples", type=int, default=24_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, action="append", help="of both; several times for several; default 2e-3")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--validate", type=int, default=1024, help="held-out crops")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[tuple[str, float], list[dict]] = {}
    for seed in range(asked.seeds):
        for lr in asked.lr or [2e-3]:
            for name, muon in CONTESTANTS.items():
                recipe = Recipe(
                    asked.model,
                    [asked.data],
                    samples=asked.samples,
                    batch=asked.batch,
                    lr=lr,
                    ema=0.995,
                    bf16=False,
                    threads=1,
                    seed=seed,
                    log_every=max(1, min(50, asked.samples // asked.batch // 4)),
                    validate_minutes=1e9,  # at the end
                    validate_count=asked.validate,
                    checkpoint_minutes=1e9,
                )
                folder = asked.out / f"{name.replace(' ', '-')}-{lr:g}-{seed}"
                settings = {**recipe.as_dict(), "muon": muon}
                row = kept(folder, settings, lambda: run(recipe, muon, folder))  # noqa: B023  called at once
                print(json.dumps({"name": name, "lr": lr, "seed": seed, **row}), flush=True)
                rows.setdefault((name, lr), []).append(row)
                (asked.out / "table.md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    try:
        main()
    except EdgeHandsError as error:
        raise SystemExit(str(error)) from error
