"""``edge-hands export``: a quantised model -> a bundle for a device, through the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[Path, typer.Option(help="Quantised checkpoint, a folder written by quantize.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    device: Annotated[str, typer.Option(help="Name of a device, or a TOML file that describes one.")] = "linux-x86_64",
    runtime: Annotated[list[str] | None, typer.Option(help="Runtime to export to; may be repeated.")] = None,
    scan: Annotated[
        str | None, typer.Option(help="Form of the scans: native (our kernels), portable or both; else the device's.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Shards whose val samples the gate uses.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples of the gate.")] = 200,
) -> None:
    """Export a quantised model for a device and check it: parity, size, latency. Exit code 1 when a limit is broken."""
    from edge_hands.cli.console import err, say_error, table
    from edge_hands.cli.console import out as console
    from edge_hands.export_targets.devices import load_device
    from edge_hands.export_targets.exporter import export_bundle

    target = load_device(device)
    with err.status("starting") as status:
        report = export_bundle(model, target, out, tuple(runtime or ()), data, count, status.update, scan)
    rows = table(
        f"gate of {target.name}, {report.samples} samples", "check", "value", "limit", "", right=("value", "limit")
    )
    for check in report.checks:
        limit = "" if check.limit is None else f"{'≥' if check.at_least else '≤'} {check.limit:g}"
        verdict = "" if check.limit is None else "[green]good[/green]" if check.passed else "[red]broken[/red]"
        rows.add_row(check.name, f"{check.value:.4g} {check.unit}".strip(), limit, verdict)
    console.print(rows)
    if not report.passed:
        broken = "; ".join(f"{c.name} is {c.value:.4g} {c.unit}, limit {c.limit:g}" for c in report.broken)
        say_error(f"{out} was written but does not pass the gate of {target.name}: {broken}")
        raise typer.Exit(1)
    console.print(f"bundle in {out}", highlight=False)
