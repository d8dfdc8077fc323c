"""``edge-hands devices``: the devices that ``export --device`` knows, and what is known of them."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[DEVICE]", help="One device, with the source of each fact.")
    ] = None,
) -> None:
    """List the devices that can be exported to; with DEVICE (a name or a TOML file) all that is known of it."""
    from dataclasses import asdict

    from rich.markup import escape

    from edge_hands.cli.console import out, table
    from edge_hands.export_targets.devices import list_devices, load_device

    if name is None:
        rows = table("", "device", "what", "abi", "runtimes", "size (MB)", right=("size (MB)",))
        for device in map(load_device, list_devices()):
            size = "" if device.limits.size_mb is None else f"{device.limits.size_mb:g}"
            rows.add_row(device.name, escape(device.title), device.abi, ", ".join(device.runtimes), size)
        out.print(rows)
        return
    device = load_device(name)
    facts = asdict(device)
    sources, limits = facts.pop("sources"), facts.pop("limits")
    rows = table(device.name, "fact", "value", "source")
    for key, value in {**facts, **{f"limits.{key}": value for key, value in limits.items()}}.items():
        if value not in (None, ()) and key != "name":
            shown = ", ".join(value) if isinstance(value, tuple) else str(value)
            rows.add_row(key, escape(shown), escape(sources.get(key, "")))
    out.print(rows)
