"""``edge-hands verify``: whether a bundle is whole and signed with a key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    key: Annotated[Path, typer.Option(help="Public key of its maker, a PEM file.")],
) -> None:
    """Check every hash of a bundle and its signature. Exit code 2, and a sentence, when anything is wrong."""
    from edge_hands import signing
    from edge_hands.cli.console import out

    checked = signing.verify(bundle, key)
    count = len(checked.contents)
    files = "1 file" if count == 1 else f"{count} files"
    out.print(f"{bundle} is whole and signed with {key}: {checked.manifest.name}, {files}", highlight=False)
