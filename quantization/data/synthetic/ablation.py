"""What each ingredient of the synthetic crops is worth: short fine-tunes with and without it.

``python -m edge_hands.quantization.data.synthetic.ablation --out DIR`` renders the same numbered crops once with
everything and once without each ingredient, fine-tunes the same float checkpoint on equally many samples of each, and
measures all of them on held-out crops with everything on and, if given, on real ones. Runs that are done are kept, so
that it can be stopped. ``everything`` runs with several seeds: their spread is the noise of the table.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from edge_hands.quantization.data.synthetic.backgrounds import BackgroundConfig
from edge_hands.quantization.data.synthetic.config import SceneConfig
from edge_hands.quantization.data.synthetic.pose import PoseShares
from edge_hands.quantization.data.synthetic.sensor import SensorConfig
from edge_hands.quantization.kept import kept

EVERYTHING = "everything"
#: What is switched off, by name of the ingredient.
WITHOUT: dict[str, dict] = {
    "skin maps": {"texture": 0.0},
    "cast shadows": {"shadows": 0.0, "wall_shadow": 0.0},
    "held objects": {"held_object": 0.0},
    "rings, watches, gloves": {"ring": 0.0, "watch": 0.0, "glove": 0.0},
    "second hand": {"second_hand": 0.0},
    "hooks, fists, pinches": {"poses": PoseShares(together=0.45, signs=0.3, hooked=0, fist=0, pinch=0)},
    "side and egocentric views": {"side_view": 0.0, "ego_view": 0.0},
    "wide angle": {"off_axis": 0.0, "sensor": SensorConfig(fisheye=0.0)},
    "walls, shapes, faces": {"background": BackgroundConfig(0.0, 0.45, 0.33, 0.0, 1.0, 0.0)},
    "camera effects": {"sensor": SensorConfig.none()},
    "loose crops": {"loose": 0.0},
}
_METRICS = ("error_2d_percent", "pa_mpjpe_mm")


@dataclass(frozen=True)
class Settings:
    """``count`` crops are rendered a variant and ``samples`` trained on; ``tests`` are folders with val shards."""

    start: Path
    tests: dict[str, Path]
    assets: Path
    count: int = 1536
    samples: int = 3072
    batch: int = 32
    lr: float = 4e-4
    seed: int = 31
    evaluate: int = 1000


def variant(name: str) -> SceneConfig:
    """The scene without ingredient ``name``, or with everything."""
    return SceneConfig() if name == EVERYTHING else replace(SceneConfig(), **WITHOUT[name])


def run(name: str, repeat: int, out: Path, settings: Settings) -> dict:
    """The record of one fine-tune, made now or kept in ``out`` before. Raises DataError for one of other settings."""
    told = {field: str(value) if isinstance(value, Path) else value for field, value in asdict(settings).items()}
    told |= {"tests": {test: str(folder) for test, folder in settings.tests.items()}, "without": name, "repeat": repeat}
    return kept(out, told, lambda: _finetune(name, repeat, out, settings))


def _finetune(name: str, repeat: int, out: Path, settings: Settings) -> dict:
    from edge_hands.quantization import checkpoint
    from edge_hands.quantization.data.synthetic import writer
    from edge_hands.quantization.evaluate import evaluate_path
    from edge_hands.quantization.recipe import Recipe
    from edge_hands.quantization.train import train

    meta = checkpoint.load_meta(settings.start)
    shards = out.parent / f"crops-{name.replace(' ', '-').replace(',', '')}"
    writer.write_shards(
        writer.plan(shards, "crop", "train", settings.count, settings.seed),
        settings.assets,
        1,
        lambda done: None,
        variant(name),
    )
    recipe = Recipe(
        meta.model,
        [shards],
        validate=next(iter(settings.tests.values())),
        overrides=meta.overrides,
        samples=settings.samples,
        batch=settings.batch,
        lr=settings.lr,
        warmup=10,
        ema=0.95,
        bf16=False,
        threads=1,
        seed=repeat,
        validate_count=1,
    )
    train(recipe, out, start=settings.start)
    scores = {}
    for test, folder in settings.tests.items():
        found = evaluate_path(out, folder, settings.evaluate, threads=1)
        scores[test] = {metric: found[metric] for metric in _METRICS}
    return {"name": name, "repeat": repeat, "scores": scores}


def table(records: list[dict]) -> str:
    """Markdown: change of every error when an ingredient is left out (positive: it helps), beside the noise."""
    tests = list(records[0]["scores"])
    columns = [(test, metric) for test in tests for metric in _METRICS]
    base = [r for r in records if r["name"] == EVERYTHING]

    def mean(found: list[dict], test: str, metric: str) -> float:
        return sum(r["scores"][test][metric] for r in found) / len(found)

    lines = ["| left out | " + " | ".join(f"{test}: {metric}" for test, metric in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    row = [f"{mean(base, *c):.2f}" for c in columns]
    lines.append(f"| nothing (mean of {len(base)}) | " + " | ".join(row) + " |")
    spread = [
        max(r["scores"][t][m] for r in base) - min(r["scores"][t][m] for r in base) if len(base) > 1 else float("nan")
        for t, m in columns
    ]
    lines.append("| spread of those | " + " | ".join(f"{s:.2f}" for s in spread) + " |")
    for name in WITHOUT:
        if found := [r for r in records if r["name"] == name]:
            row = [f"{mean(found, *c) - mean(base, *c):+.2f}" for c in columns]
            lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def command(
    out: Annotated[Path, typer.Option(help="Folder of the runs and of table.md.")],
    test: Annotated[list[str], typer.Option(help="NAME=FOLDER with val shards of crops; several times.")],
    start: Annotated[Path, typer.Option(help="Float checkpoint that is fine-tuned.")] = Path(
        "quantization/checkpoints/float/landmarks"
    ),
    assets: Annotated[Path, typer.Option(help="Folder of the npm packages.")] = Path("node_modules"),
    count: Annotated[int, typer.Option(min=32, help="Crops rendered a variant.")] = 1536,
    samples: Annotated[int, typer.Option(min=32, help="Samples trained on a variant.")] = 3072,
    evaluate: Annotated[int, typer.Option(min=1, help="Held-out crops of each test.")] = 1000,
    repeats: Annotated[int, typer.Option(min=1, help="Runs with everything: their spread is the noise.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Ingredients; all where not given.")] = None,
) -> None:
    """Fine-tune with and without each ingredient of the synthetic crops, and write what each is worth."""
    tests = {name: Path(folder) for name, _, folder in (t.partition("=") for t in test)}
    settings = Settings(start, tests, assets, count, samples, evaluate=evaluate)
    plan = [(EVERYTHING, repeat) for repeat in range(repeats)] + [(name, 0) for name in only or WITHOUT]
    records = []
    for name, repeat in plan:
        records.append(run(name, repeat, out / f"{name}-{repeat}".replace(" ", "-").replace(",", ""), settings))
        typer.echo(json.dumps(records[-1]))
        (out / "table.md").write_text(table(records) + "\n")
    typer.echo(table(records))


if __name__ == "__main__":
    typer.run(command)
