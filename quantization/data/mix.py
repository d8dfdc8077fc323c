"""Several data folders in one stream of samples, each with its share of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_hands.errors import DataError


@dataclass(frozen=True)
class Source:
    """A folder of shards and its share of the batch in (0, 1]; None takes part by its size."""

    folder: Path
    share: float | None = None

    @classmethod
    def parse(cls, text: str | Path) -> Source:
        """``FOLDER`` or ``FOLDER=SHARE``. Raises DataError for a share outside (0, 1]."""
        folder, equals, share = str(text).rpartition("=")
        try:
            number = float(share)
        except ValueError:  # an equals sign of the folder's own name, or none
            return cls(Path(text))
        if not equals:
            return cls(Path(text))
        if not 0 < number <= 1:
            raise DataError(f"--data {text}: the share {share} is not in (0, 1]; 0.1 is a tenth of every batch")
        return cls(Path(folder), number)


def parse_sources(texts: Sequence[str | Path]) -> tuple[Source, ...]:
    """Sources whose shares fit together. Raises DataError when there is none or the shares leave the rest nothing."""
    sources = tuple(map(Source.parse, texts))
    if not sources:
        raise DataError("there is no data: give --data FOLDER (or FOLDER=SHARE, more than once), or data in the recipe")
    if twice := sorted({str(s.folder) for s in sources if [t.folder for t in sources].count(s.folder) > 1}):
        raise DataError(f"--data names {twice[0]} twice; give it once, with the share it is to have")
    given = sum(source.share or 0.0 for source in sources)
    rest = [str(source.folder) for source in sources if source.share is None]
    if rest and given >= 1:
        raise DataError(f"the shares of --data add up to {given:g} and leave nothing for {', '.join(rest)}")
    if not rest and abs(given - 1) > 1e-6:
        raise DataError(f"the shares of --data add up to {given:g}, not to 1; leave one folder without a share")
    return sources


def epoch_counts(sizes: Sequence[int], shares: Sequence[float | None]) -> list[int]:
    """How many samples of each folder an epoch has: each folder without a share once, those with one in proportion.

    Where all have a share, an epoch is as long as all folders together.
    """
    rest = sum(size for size, share in zip(sizes, shares, strict=True) if share is None)
    total = rest / (1 - sum(share or 0.0 for share in shares)) if rest else sum(sizes)
    return [size if share is None else max(1, round(total * share)) for size, share in zip(sizes, shares, strict=True)]


def epoch_order(
    rng: np.random.Generator, sizes: Sequence[int], shares: Sequence[float | None]
) -> tuple[np.ndarray, np.ndarray]:
    """One epoch: (folder, number of the sample in it) of each place, evenly interleaved.

    Any stretch of the order holds every folder's share to within a sample. A folder that is asked for more than it has
    goes round, shuffled anew each time.
    """
    counts = epoch_counts(sizes, shares)
    members = [
        np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])[:count]
        for size, count in zip(sizes, counts, strict=True)
    ]
    due = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    places = np.argsort(due, kind="stable")
    return np.repeat(np.arange(len(counts)), counts)[places], np.concatenate(members)[places]
