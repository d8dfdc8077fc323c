"""Where the command line prints: results on stdout, everything else on stderr."""

from __future__ import annotations

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
