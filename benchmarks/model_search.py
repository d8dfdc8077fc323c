"""The search that chose the landmark model: variants over input, width, depth and state, what each costs and gives.

    python benchmarks/model_search.py --data SHARDS --out DIR --samples 60000 [--only edge --only 160px] \
        [--variant NAME='{"states": 4}'] [--samples 0]

For every variant: multiply-accumulates and parameters; a training from nothing on ``--samples`` crops (0: random
weights, no accuracy); ranges calibrated (no fine-tune), exported as LiteRT's native form; the error of float and int8
on held-out crops. Then all forms are timed in one run, in turn: CPU milliseconds of a call, one thread, median of the
rounds, and the ratio to the first variant, the median within rounds, which a busy machine disturbs least. What is made
is kept in ``--out``: stopped, the same command goes on; timing is done anew. Every variant is trained on as many
samples, so a larger one is further from what it could give.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from against_mediapipe import cpu_ms, measure, ours

from edge_hands import models
from edge_hands.errors import DataError, EdgeHandsError
from edge_hands.export_targets.devices import load_device
from edge_hands.export_targets.exporter import export_bundle
from edge_hands.models.macs import count_macs, count_parameters
from edge_hands.quantization import checkpoint
from edge_hands.quantization.evaluate import evaluate_path
from edge_hands.quantization.finetune import QatRecipe, quantize
from edge_hands.quantization.kept import kept
from edge_hands.quantization.recipe import Recipe
from edge_hands.quantization.reproduce import trained

#: Overrides of the model's configuration by name; the first is what others are compared with.
VARIANTS: dict[str, dict] = {
    "edge": {},
    "128px": {"image_size": 128},
    "160px": {"image_size": 160},
    "4 states": {"states": 4},
    "16 states": {"states": 16},
    "narrow": {"widths": [24, 48, 96, 192], "neck": 48},
    "narrow, 128px": {"image_size": 128, "widths": [24, 48, 96, 192], "neck": 48},
    "wide": {"widths": [40, 80, 160, 320], "neck": 80},
    "wide, 128px": {"image_size": 128, "widths": [40, 80, 160, 320], "neck": 80},
    "shallow": {"depths": [1, 1, 2, 2, 1, 1]},
    "deep": {"depths": [2, 2, 5, 5, 2, 1]},
}
#: Crops of the gate of an export, whose verdict is not looked at, and of a calibration's batch.
_GATE, _BATCH = 8, 32


def make(model: str, overrides: dict, data: Path, folder: Path, recipe: Recipe, evaluate: int) -> dict:
    """Trains, quantises, exports and measures one variant in ``folder``; returns its row, but for times."""
    network = models.create(model, **overrides)
    row = {
        "mmac": count_macs(network) / 1e6,
        "parameters": count_parameters(network),
        "size": network.config.image_size,
    }
    source, quantised, bundle = folder / "float", folder / "int8", folder / "bundle"
    if recipe.samples:
        trained(recipe, source)
    else:
        torch.manual_seed(recipe.seed)
        checkpoint.save(source, models.create(model, **overrides), checkpoint.Meta(model, overrides))
    few = QatRecipe(steps=0, batch=_BATCH, calibrate=24, threads=1, validate_count=1)
    quantize(few, source, data, quantised)
    export_bundle(quantised, load_device("linux-x86_64"), bundle, ("litert",), data, _GATE, scan="native")
    row["bytes"] = sum(path.stat().st_size for path in bundle.glob("*.tflite"))
    for stage, made in (("float", source), ("int8", bundle)) if recipe.samples else ():
        found = evaluate_path(made, data, evaluate, threads=1)
        row[stage] = {name: [found[name], *found["intervals"][name]] for name in ("error_2d_px256", "pa_mpjpe_mm")}
    return row


def times(bundles: dict[str, Path], rounds: int, repeats: int) -> dict[str, np.ndarray]:
    """CPU milliseconds (rounds,) of a call of each bundle, all in turn."""
    calls = {name: ours(folder) for name, folder in bundles.items()}
    return measure({name: lambda call=call: cpu_ms(call, repeats) for name, call in calls.items()}, rounds)


def table(rows: dict[str, dict], taken: dict[str, np.ndarray]) -> str:
    """Markdown, a line for every variant."""
    first = next(iter(taken.values()))
    lines = [
        "| variant | input | MMAC | parameters, M | file, MB | int8, ms (10 to 90 %) | ratio | 2-D, px of 256 "
        "| PA-MPJPE, mm (95 %) | int8, mm |",
        "|---" * 10 + "|",
    ]
    for name, row in rows.items():
        low, middle, high = np.percentile(taken[name], (10, 50, 90))
        cells = [name, f"{row['size']}", f"{row['mmac']:.0f}", f"{row['parameters'] / 1e6:.2f}"]
        cells += [f"{row['bytes'] / 1e6:.2f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
        cells += [f"{np.median(taken[name] / first):.2f}"]
        if "float" in row:
            pixels, mm, whole = row["float"]["error_2d_px256"], row["float"]["pa_mpjpe_mm"], row["int8"]["pa_mpjpe_mm"]
            cells += [f"{pixels[0]:.1f}", f"{mm[0]:.2f} ({mm[1]:.2f} to {mm[2]:.2f})", f"{whole[0]:.2f}"]
        else:
            cells += ["", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chosen(only: list[str], given: list[str]) -> dict[str, dict]:
    """Name -> overrides of the variants asked for. Raises DataError for a name or JSON that is none."""
    own = {}
    for text in given:
        name, _, overrides = text.partition("=")
        try:
            own[name] = dict(json.loads(overrides))
        except (ValueError, TypeError) as error:
            raise DataError(f"--variant {text}: expected NAME={{...}} with JSON settings of the model") from error
    known = VARIANTS | own
    if unknown := sorted(set(only) - set(known)):
        raise DataError(f"there is no variant {unknown[0]}; there are {', '.join(known)}")
    return {name: known[name] for name in only or known}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards of crops, with val shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="dfmamba_edge")
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--evaluate", type=int, default=1000, help="held-out crops")
    parser.add_argument("--only", action="append", default=[], help="name of a variant; all where not given")
    parser.add_argument(
        "--variant", action="append", default=[], help="NAME=JSON of overrides, beside the built-in ones"
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=10, help="calls of a variant in a round")
    asked = parser.parse_args()
    rows, bundles = {}, {}
    for name, overrides in chosen(asked.only, asked.variant).items():
        folder = asked.out / name.replace(", ", "-").replace(" ", "-")
        recipe = Recipe(
            asked.model,
            [asked.data],
            overrides=overrides,
            samples=asked.samples,
            batch=asked.batch,
            lr=asked.lr,
            ema=0.998,
            bf16=False,
            threads=asked.threads,
            seed=asked.seed,
            validate_minutes=1e9,
            validate_count=min(asked.evaluate, 512),
        )
        settings = {**recipe.as_dict(), "evaluate": asked.evaluate}
        del settings["threads"]
        rows[name] = kept(
            folder,
            settings,
            lambda: make(asked.model, overrides, asked.data, folder, recipe, asked.evaluate),  # noqa: B023  called at once
        )
        bundles[name] = folder / "bundle"
        print(json.dumps({"variant": name, **rows[name]}), flush=True)
    text = table(rows, times(bundles, asked.rounds, asked.repeats))
    print(text)
    (asked.out / "table.md").write_text(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except EdgeHandsError as error:
        raise SystemExit(str(error)) from error
