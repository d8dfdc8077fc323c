"""The verbs of ``edge-hands``, and the one place where errors become sentences.

A verb's module holds a function ``command`` and imports what it works with only when that is called, so ``--help`` is
fast and a missing extra is one sentence. Exit codes: 0 good, 1 done with complaints, 2 could not be done.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from edge_hands import __version__
from edge_hands.cli.console import fail
from edge_hands.errors import EdgeHandsError, RuntimeUnavailable

#: Verb -> the extra that it needs, None for the light package; in the order of ``--help``.
VERBS: dict[str, str | None] = {
    "run": None,
    "inspect": None,
    "doctor": None,
    "devices": None,
    "sign": "sign",
    "verify": "sign",
    "synth": "train",
    "convert": "train",
    "train": "train",
    "evaluate": "train",
    "quantize": "train",
    "export": "train",
    "reproduce": "train",
}

app = typer.Typer(
    name="edge-hands",
    help="Hand tracking for AR and VR headsets: run, train, quantise and export int8 models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class _Verb(TyperCommand):
    """A command whose missing packages are named together with what installs them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ImportError as error:
            raise _lacks(str(ctx.info_name), error) from error


def _lacks(verb: str, error: Exception) -> RuntimeUnavailable:
    extra = VERBS.get(verb)
    if extra is None:
        return RuntimeUnavailable(f"edge-hands {verb} cannot start: {error}. Install again: pip install edge-hands")
    return RuntimeUnavailable(f"edge-hands {verb} needs the {extra} extra: pip install 'edge-hands[{extra}]' ({error})")


def _load(verb: str) -> Callable[..., Any]:
    """The verb's function, or one that says why there is none."""
    try:
        return import_module(f"edge_hands.cli.{verb}").command
    except (ImportError, AttributeError) as error:
        reason = _lacks(verb, error)

    def command() -> NoReturn:
        raise reason

    command.__doc__ = "Not usable here: run it to see why."
    return command


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edge-hands {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for _name in VERBS:
    app.command(_name, cls=_Verb)(_load(_name))


def main() -> None:
    """Entry point of ``edge-hands``."""
    try:
        app()
    except EdgeHandsError as error:
        fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains again when it flushes at exit
        raise SystemExit(1) from None
    except OSError as error:
        fail(f"{error.filename or 'The system'}: {error.strerror or error}.")
    except Exception as error:
        if os.environ.get("EDGE_HANDS_DEBUG"):
            raise
        fail(
            f"A fault in edge_hands itself: {type(error).__name__}: {error}. "
            "Set EDGE_HANDS_DEBUG=1 and run again for the traceback to report."
        )
