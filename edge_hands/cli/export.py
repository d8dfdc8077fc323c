"""``edge-hands export``: a quantised model -> a bundle for a device, or for all of them, through the gate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_hands.export_targets.devices import Device
    from edge_hands.export_targets.gate import Report


def command(
    model: Annotated[Path, typer.Option(help="Quantised checkpoint, a folder written by quantize.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; with --all-devices, of a bundle for each.")],
    device: Annotated[str, typer.Option(help="Name of a device, or a TOML file that describes one.")] = "linux-x86_64",
    all_devices: Annotated[bool, typer.Option("--all-devices", help="Export for every device that there is.")] = False,
    runtime: Annotated[list[str] | None, typer.Option(help="Runtime to export to; may be repeated.")] = None,
    scan: Annotated[
        str | None, typer.Option(help="Form of the scans: native (our kernels), portable or both; else the device's.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Shards whose val samples the gate uses.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples of the gate.")] = 200,
    python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUNTIME=PATH",
            help="A Python that has edge_hands and this runtime's exporter, to run it there; may be repeated.",
        ),
    ] = None,
    bisect: Annotated[
        bool,
        typer.Option("--bisect", help="Then name the first layer that each form computes otherwise than the graph."),
    ] = False,
) -> None:
    """Export a quantised model for a device and check it: parity, coverage, size, latency. Exit code 1 when a limit is
    broken."""
    from edge_hands.cli.console import err, say_error
    from edge_hands.cli.console import out as console
    from edge_hands.export_targets.devices import list_devices, load_device
    from edge_hands.export_targets.exporter import export_bundles

    if wrong := [text for text in python or () if not all(text.partition("="))]:
        raise typer.BadParameter(
            f"{wrong[0]!r} is not RUNTIME=PATH, as in litert=/venv/bin/python", param_hint="--python"
        )
    pythons = dict(text.split("=", 1) for text in python or ())
    names = list_devices() if all_devices else [device]
    targets = {out / name if all_devices else out: load_device(name) for name in names}
    reports: list[tuple[Device, Report]] = []
    seconds, begun = [], time.perf_counter()
    with err.status("starting") as status:
        for found in export_bundles(model, targets, tuple(runtime or ()), data, count, status.update, scan, pythons):
            reports.append(found)
            seconds.append(time.perf_counter() - begun - sum(seconds))
    if all_devices:
        console.print(_summary(reports, seconds))
    else:
        console.print(_details(*reports[0]))
    if bisect:
        from edge_hands.export_targets.bisect import bisect_bundles

        with err.status("bisecting") as status:
            for form, finding in bisect_bundles(
                model, targets.values(), tuple(runtime or ()), data, status.update, scan, pythons
            ):
                console.print(f"{form}: {finding}", markup=False, soft_wrap=True)
    broken = [(target, report) for target, report in reports if not report.passed]
    for target, report in broken:
        where = out / target.name if all_devices else out
        why = "; ".join(
            f"{c.name} is {c.value:.4g} {c.unit}".strip() + f", limit {c.limit:g}" + (f" ({c.note})" if c.note else "")
            for c in report.broken
        )
        say_error(f"{where} was written but does not pass the gate of {target.name}: {why}")
    if broken:
        raise typer.Exit(1)
    console.print(f"bundle{'s' if all_devices else ''} in {out}", highlight=False)


def _details(target: Device, report: Report):
    from edge_hands.cli.console import table

    rows = table(
        f"gate of {target.name}, {report.samples} samples", "check", "value", "limit", "", right=("value", "limit")
    )
    for check in report.checks:
        limit = "" if check.limit is None else f"{'≥' if check.at_least else '≤'} {check.limit:g}"
        verdict = "" if check.limit is None else "[green]good[/green]" if check.passed else "[red]broken[/red]"
        rows.add_row(check.name, f"{check.value:.4g} {check.unit}".strip(), limit, f"{verdict} {check.note}".strip())
    return rows


def _summary(reports: list[tuple[Device, Report]], seconds: list[float]):
    """A line a device: what each limit was held against, the worst of its forms, and the time that it took; what it
    shares with one above is made there."""
    from edge_hands.cli.console import table

    heads = ("device", "accuracy change", "joints", "coverage", "size", "time", "")
    rows = table("gates of all devices", *heads, right=("size", "time"))
    for (target, report), took in zip(reports, seconds, strict=True):
        worst = {"PA-MPJPE, change": "", "mean": "", "share of the work": "", "size of the files": ""}
        for key in worst:
            same = [check for check in report.checks if key in check.name and check.limit is not None]
            if same:
                check = max(same, key=lambda c: (not c.passed, -c.value if c.at_least else c.value))
                worst[key] = f"{check.value:.3g} {check.unit}".strip()
        verdict = "[green]passed[/green]" if report.passed else "[red]broken[/red]"
        rows.add_row(target.name, *worst.values(), f"{took:.0f} s", verdict)
    return rows
