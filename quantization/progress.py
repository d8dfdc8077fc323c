"""What a training run says of itself: ``log.jsonl`` in its folder, a line an event, and whoever listens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

#: Gets every record of a run.
Report = Callable[[dict], None]


class Log:
    """Records of one run, appended to ``folder``/log.jsonl and told to ``report``; silent where not ``speaks``."""

    def __init__(self, folder: Path, report: Report | None, speaks: bool) -> None:
        self._file, self._report, self._speaks = folder / "log.jsonl", report, speaks
        if speaks:
            folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, event: str, **values) -> None:
        if not self._speaks:
            return
        record = {"event": event, **values}
        with open(self._file, "a") as file:
            file.write(json.dumps(record) + "\n")
        if self._report:
            self._report(record)


class Window:
    """Sums between two lines of the log."""

    def __init__(self) -> None:
        self.steps, self._begun, self._waited, self._mark = 0, time.monotonic(), 0.0, time.monotonic()
        self._sums: dict[str, Tensor] = {}

    def waited(self) -> None:
        """The batch has come: since the last step the loop has waited for it."""
        self._waited += time.monotonic() - self._mark

    def add(self, values: dict[str, Tensor]) -> None:
        """One step and what it measured."""
        self.steps += 1
        self._sums = {name: value + self._sums.get(name, 0.0) for name, value in values.items()}
        self._mark = time.monotonic()

    def summary(self, batch: int) -> dict:
        """Samples a second, the share of time spent waiting, and the means of what was added."""
        took = time.monotonic() - self._begun
        means = {name: round(float(value) / self.steps, 5) for name, value in self._sums.items()}
        speed = {"images_per_second": round(self.steps * batch / took, 1), "waiting": round(self._waited / took, 3)}
        return speed | means
