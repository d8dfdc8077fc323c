"""``edge-hands reproduce``: the bundled models from nothing, by the recipes that made them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(help="Folder of the bundles, one for each recipe.")],
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE]...", help="landmarks, detector or a TOML file; else both.")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of shards and checkpoints, else work in --out.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="In minutes, with few samples and a model for tests.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render.")] = os.cpu_count() or 1,
    assets: Annotated[Path, typer.Option(help="Folder of the npm packages (`make assets`).")] = Path("node_modules"),
) -> None:
    """Render, train, quantise and export the models that the package carries. Stopped, the same command goes on where
    it was. Exit code 1 when a bundle breaks a limit of its gate."""
    from edge_hands.cli.console import say_error
    from edge_hands.quantization.recipe import read_plan

    plans = [read_plan(name, quick) for name in recipes or ("landmarks", "detector")]
    broken = [
        plan.name for plan in plans if not _reproduce(plan, out, (work or out / "work") / plan.name, workers, assets)
    ]
    if broken:
        say_error(f"the bundle of {' and of '.join(broken)} does not pass its gate: edge-hands inspect shows why")
        raise typer.Exit(1)


def _reproduce(plan, out: Path, work: Path, workers: int, assets: Path) -> bool:
    """Whether the bundle has passed its gate."""
    from edge_hands import bundle
    from edge_hands.cli.console import err
    from edge_hands.cli.train import shown
    from edge_hands.export_targets.devices import load_device
    from edge_hands.export_targets.exporter import export_bundle
    from edge_hands.quantization.reproduce import build

    folder = out / plan.name
    with shown(plan.name) as report:
        quantised = build(plan, work, assets, workers, report)
    if (folder / "manifest.json").is_file() and "passed" in (gate := bundle.load(folder).manifest.gate):
        passed = bool(gate["passed"])
    else:
        with err.status(f"{plan.name}: exporting") as status:
            device, data = load_device(plan.device), work / "shards"
            passed = export_bundle(
                quantised,
                device,
                folder,
                plan.runtimes,
                data,
                plan.count,
                lambda text: status.update(f"{plan.name}: {text}"),
                plan.scan,
            ).passed
    typer.echo(f"{plan.name}: bundle in {folder}, gate {'passed' if passed else 'broken'}")
    return passed
