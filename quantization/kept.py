"""Rows of tables that take hours, kept as they are made: a run that was stopped goes on with the next one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from edge_hands.errors import DataError

_FILE = "result.json"


def kept(folder: Path, settings: dict, make: Callable[[], dict]) -> dict:
    """What ``make()`` gave for these ``settings``, now or before: it lies in ``folder``. Both are of JSON's types.

    Raises DataError where ``folder`` holds what was made with other settings.
    """
    path, settings = folder / _FILE, json.loads(json.dumps(settings))
    if path.is_file():
        try:
            stored = json.loads(path.read_text())
            before, row = stored["settings"], stored["row"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is not a row that was kept ({error!r}); remove it, or use another folder"
            ) from error
        if before != settings:
            differ = ", ".join(sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name)))
            raise DataError(f"{path} was made with other settings ({differ}); use another folder, or remove it")
        return row
    row = make()
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"settings": settings, "row": row}, indent=1) + "\n")
    partial.replace(path)
    return row
