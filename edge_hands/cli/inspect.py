"""``edge-hands inspect``: verify a bundle and say what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edge_hands.bundle import Bundle
    from edge_hands.choice import Choice
    from edge_hands.runtimes.base import Availability


def command(
    bundles: Annotated[list[Path] | None, typer.Argument(metavar="[BUNDLE]...", help="Folders of bundles.")] = None,
) -> None:
    """Verify BUNDLE (size and hash of every file) and print its manifest, what a session would take here, and why not
    the others. Without one: the models of the package."""
    from edge_hands.bundle import bundled, load

    for folder in bundles or [bundled("landmarks"), bundled("detector")]:
        _print(load(folder))


def _print(bundle: Bundle) -> None:
    from rich.markup import escape

    from edge_hands.choice import choices
    from edge_hands.cli.console import out, table

    manifest = bundle.manifest
    out.print(
        f"[bold]{escape(manifest.name)}[/bold]  {manifest.kind} model for {escape(manifest.device)}, "
        f"{bundle.size / 1e6:.2f} MB, {escape(manifest.created)}, [green]verified[/green]",
        soft_wrap=True,
    )
    tensors = table("tensors", "name", "shape", "dtype", "range", "unit")
    for way, group in (("in", manifest.inputs), ("out", manifest.outputs)):
        for tensor in group:
            limits = "" if tensor.range is None else " to ".join("any" if x is None else f"{x:g}" for x in tensor.range)
            shape = "x".join(map(str, tensor.shape)) + (f" {tensor.layout}" if tensor.layout else "")
            tensors.add_row(f"{way:>3} {escape(tensor.name)}", shape, tensor.dtype, limits, escape(tensor.unit))
    forms = table("forms", "runtime", "scan", "file", "bytes", "here", right=("bytes",))
    tried = choices(manifest)
    for choice in tried:
        size = sum(file.size for file in manifest.files_of(choice.variant))
        here = escape(_here(choice.state))
        forms.add_row(choice.variant.runtime, choice.variant.scan, escape(choice.variant.path), str(size), here)
    out.print(tensors, forms, sep="\n")
    out.print(escape(_taken(tried)), soft_wrap=True)
    for name in ("quantization", "accuracy", "gate"):
        rows = list(_flat(getattr(manifest, name)))
        if rows:
            part = table(name, "what", "value")
            for key, value in rows:
                part.add_row(escape(key), escape(value))
            out.print(part)
    out.print()


def _here(state: Availability) -> str:
    if not state:
        return f"no: {state.reason}"
    return f"yes, {state.version}" + (f"; first {state.first}" if state.first else "")


def _taken(tried: list[Choice]) -> str:
    """What a session would do with the forms, in its order."""
    ready = [choice for choice in tried if choice.state]
    if not ready:
        return "A session here takes none of them: the last column says what is missing."
    text, first = f"A session here takes {ready[0].name}", ready[0].state.first
    if first:
        text += f"; first {first}, and if that fails it takes {ready[1].name if ready[1:] else 'nothing'}"
    return f"{text}."


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested results as rows: the way to a value with dots, and the value. Named entries of a list are a row each."""
    if isinstance(content, dict):
        return [row for key, value in content.items() for row in _flat(value, f"{prefix}{key}.")]
    if isinstance(content, (list, tuple)) and all(isinstance(part, dict) and "name" in part for part in content):
        rest = [{key: value for key, value in part.items() if key != "name" and value != ""} for part in content]
        return [
            (str(part["name"]), ", ".join(f"{key} {_short(value)}" for key, value in others.items()))
            for part, others in zip(content, rest, strict=True)
        ]
    return [(prefix.rstrip("."), _short(content))]


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
