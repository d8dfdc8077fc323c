"""``edge-hands sign``: an Ed25519 signature for a bundle, and the keys for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    bundle: Annotated[Path | None, typer.Argument(metavar="[BUNDLE]", help="Folder of the bundle to sign.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key, a PEM file.")] = None,
    new_key: Annotated[
        Path | None, typer.Option(help="Write a new private key to this file and the public one to FILE.pub.")
    ] = None,
) -> None:
    """Sign a bundle with a private key, or make a pair of keys. Whoever has the public key can verify the bundle."""
    from edge_hands import signing
    from edge_hands.cli.console import fail, out

    if new_key is not None and key is not None:
        fail("--new-key makes the key to sign with: leave --key out.")
    if new_key is not None:
        public = signing.new_key(new_key)
        out.print(f"private key in {new_key}: keep it secret\npublic key in {public}: give it away", highlight=False)
        key = new_key
    elif bundle is None or key is None:
        fail("give a bundle and --key FILE to sign it, or --new-key FILE to make a key.")
    if bundle is not None:
        out.print(f"{bundle} is signed: {signing.sign(bundle, key)}", highlight=False)
