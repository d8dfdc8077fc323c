"""Readers of data sets of real hands as their owners publish them; each needs its owners' licence.

A reader is a module with ``LAYOUT``, the folders that it expects below the root, and ``frames(root, split)``, an
iterator over ``Frame``. Facts of the layouts: the owners' descriptions and tools, named in each module.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from edge_hands.errors import DataError
from edge_hands.quantization.data.readers.frame import Frame, Hand

__all__ = ["DATASETS", "Frame", "Hand", "frames"]

DATASETS = ("assemblyhands", "dexycb", "freihand", "ho3d", "interhand", "rhd")


def frames(dataset: str, root: str | Path, split: str) -> Iterator[Frame]:
    """Frames of one split. Raises DataError for a name that is none and for files that are not as expected."""
    if dataset not in DATASETS:
        raise DataError(f"there is no reader for {dataset!r}; expected one of {', '.join(DATASETS)}")
    if not Path(root).is_dir():
        raise DataError(f"{root} is no folder; give the root of {dataset}, which holds\n{layout(dataset)}")
    reader = import_module(f"{__name__}.{dataset}")
    try:
        yield from reader.frames(Path(root), split)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{root} is not laid out as {dataset} ({error!r}); expected\n{layout(dataset)}") from error


def layout(dataset: str) -> str:
    """The folders and files that a reader expects."""
    return import_module(f"{__name__}.{dataset}").LAYOUT
