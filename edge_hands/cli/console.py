"""Where the command line prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import NoReturn

from rich.console import Console
from rich.table import Table

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def fail(message: str, code: int = 2) -> NoReturn:
    """One red sentence on stderr, and the end."""
    say_error(message)
    raise SystemExit(code)


def say_error(message: str) -> None:
    """One red sentence on stderr."""
    err.print(" ".join(message.split()), style="red", markup=False, soft_wrap=True)


def table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table with these columns; those in ``right`` are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    return made


@contextlib.contextmanager
def no_chatter() -> Iterator[None]:
    """Keeps the "INFO: ..." lines that native libraries print on stderr by no way of asking; the rest is passed on."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            for line in kept:
                if not line.startswith(b"INFO:"):
                    os.write(2, line)
