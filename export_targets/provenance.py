"""Where the nodes of a graph come from: torch keeps that for debuggers, and copies it at every pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx.traceback import NodeSource


@contextmanager
def shared() -> Iterator[None]:
    """Copies of a graph share the records of its history, which nothing changes once they are made.

    torch 2.13 copies the whole history of a node whenever a pass makes it anew, which took a fifth of an export's time.
    """

    def itself(source: NodeSource, memo: dict[int, Any]) -> NodeSource:
        return source

    before = NodeSource.__dict__.get("__deepcopy__")
    NodeSource.__deepcopy__ = itself
    try:
        yield
    finally:
        if before is None:
            del NodeSource.__deepcopy__
        else:
            NodeSource.__deepcopy__ = before
