"""``edge-hands devices``: the devices that ``export --device`` knows, and what is known of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[DEVICE]", help="One device, with the source of each fact.")
    ] = None,
) -> None:
    """List the devices that can be exported to; with DEVICE (a name or a TOML file) all that is known of it."""
    from rich.markup import escape

    from edge_hands.cli.console import out, table
    from edge_hands.export_targets.devices import list_devices, load_device

    if name is None:
        rows = table("", "device", "what", "abi", "runtimes", "MB", "ms", right=("MB", "ms"))
        for device in map(load_device, list_devices()):
            limits = (_number(value) for value in (device.limits.size_mb, device.limits.latency_ms))
            rows.add_row(device.name, escape(device.title), device.abi, ", ".join(device.runtimes), *limits)
        out.print(rows)
        out.print("MB: budget of a bundle; ms: of one call, one thread. edge-hands devices DEVICE tells more.")
        return
    device = load_device(name)
    rows = table(f"{device.name}: {device.title}", "fact", "value", "source")
    for key, value, source in _facts(device):
        rows.add_row(key, escape(value), escape(source))
    out.print(rows)


def _facts(device: Any) -> list[tuple[str, str, str]]:
    """(fact, value, source) of all that is known: a table of the file is a row an entry, its source stands once."""
    from dataclasses import asdict

    content = asdict(device)
    sources, found = content.pop("sources"), []
    for key, value in content.items():
        entries = {f"{key}.{part}": inner for part, inner in value.items()} if isinstance(value, dict) else {key: value}
        source = sources.get(key, "")
        for what, inner in entries.items():
            if inner not in (None, False, (), {}) and what not in ("name", "title"):
                found.append((what, ", ".join(inner) if isinstance(inner, tuple) else str(inner), source))
                source = ""
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
