"""The loader: one thread that prepares batches ahead of the training loop, in an order that a seed decides.

Batch ``index`` of ``epoch`` is a function of (seed, epoch, index) and of how many samples each folder of the pool held
when the epoch began, so a resumed run sees exactly what the interrupted one would have seen.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edge_hands.errors import DataError
from edge_hands.quantization.data.mix import epoch_counts, epoch_order
from edge_hands.quantization.data.shards import Pool

Batches = Callable[[np.ndarray, np.random.Generator], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Position:
    """A place in the stream: the batch to come. ``samples``: what each folder held when the epoch began, if it has."""

    epoch: int = 0
    index: int = 0
    samples: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, place: dict) -> Position:
        """From ``asdict`` by way of JSON; of one folder, ``samples`` may be a number."""
        samples = place["samples"]
        return cls(place["epoch"], place["index"], (samples,) if isinstance(samples, int) else tuple(samples))


class Loader:
    """Endless iterator over (batch, position after it). Shards that appear are taken in when an epoch begins.

    ``seed`` is a number or several; ``shares`` is the part of the batch that each folder of the pool has, None by its
    size (see ``mix.py``). ``cv2`` is held to one thread: the training loop needs the cores. Raises DataError when the
    pool is smaller than a batch, and whatever the worker met.
    """

    def __init__(
        self,
        pool: Pool,
        batches: Batches,
        batch: int,
        seed: int | Sequence[int],
        start: Position = Position(),
        ahead: int = 8,
        shares: Sequence[float | None] | None = None,
    ) -> None:
        self._shares = shares or [None] * len(pool.members)
        if (samples := sum(epoch_counts(list(map(len, pool.members)), self._shares))) < batch:
            folders = ", ".join(map(str, pool.directories))
            raise DataError(f"{samples} samples in {folders} do not fill a batch of {batch}; add shards")
        cv2.setNumThreads(1)
        self._pool, self._batches, self._batch = pool, batches, batch
        self._seed = (seed,) if isinstance(seed, int) else tuple(seed)
        self._queue: queue.Queue = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(start,), daemon=True, name="edge-hands-loader")
        self._thread.start()

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> tuple[dict[str, np.ndarray], Position]:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    @property
    def ready(self) -> int:
        """Batches that wait: 0 says that the loader is the slower side."""
        return self._queue.qsize()

    def close(self) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                pass

    def _work(self, start: Position) -> None:
        try:
            for item in self._stream(start):
                self._queue.put(item)
                if self._stop.is_set():
                    return
        except BaseException as error:  # handed to the consumer, which raises it
            self._queue.put(error)

    def _stream(self, place: Position) -> Iterator[tuple[dict[str, np.ndarray], Position]]:
        while True:
            held = tuple(map(len, self._pool.members))
            sizes = place.samples or held
            if len(sizes) != len(held) or any(then > now for then, now in zip(sizes, held)):
                place, sizes = Position(place.epoch + 1), held  # other data than when the epoch began
            rng = np.random.default_rng((*self._seed, place.epoch))
            order = pool_order(self._pool, rng, self._shares, sizes)
            count = len(order) // self._batch
            for index in range(place.index, count):
                rng = np.random.default_rng((*self._seed, place.epoch, index))
                batch = self._batches(order[index * self._batch : (index + 1) * self._batch], rng)
                last = index + 1 == count
                after = Position(place.epoch + 1) if last else Position(place.epoch, index + 1, sizes)
                yield batch, after
            self._pool.refresh()
            place = Position(place.epoch + 1)


def pool_order(
    pool: Pool, rng: np.random.Generator, shares: Sequence[float | None], sizes: Sequence[int] | None = None
) -> np.ndarray:
    """Samples of the pool in the order of an epoch, of the first ``sizes`` (default: all) of each folder."""
    folders, numbers = epoch_order(rng, sizes or list(map(len, pool.members)), shares)
    order = np.empty(len(folders), np.int64)
    for folder, members in enumerate(pool.members):
        order[folders == folder] = members[numbers[folders == folder]]
    return order
