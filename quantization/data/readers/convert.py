"""Frames of a data set -> shards that ``edge-hands train`` takes: a crop for each hand, or whole frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from edge_hands.crops import Crop, aligned_crop
from edge_hands.errors import DataError
from edge_hands.quantization.data.readers.frame import Frame, Hand
from edge_hands.quantization.data.shards import BASE_CROP, CROP_IMAGE, MAX_HANDS, shard_paths, write_shard

KINDS, SAMPLES_PER_SHARD = ("crop", "frame"), 2000
#: Longer side of a stored frame, pixels; least side of a base crop, pixels; least share of its joints in the picture.
_FRAME, _LEAST_SIDE, _LEAST_SEEN = 320, 40, 0.5


def convert(
    frames: Iterable[Frame],
    out: Path,
    split: str,
    kind: str,
    count: int | None = None,
    progress: Callable[[Counter], None] = lambda counts: None,
) -> Counter:
    """Writes up to ``count`` samples as ``{split}-*.tar`` in ``out``; ``progress`` is told after each.

    Returns how many samples were "written", and how many hands or frames were left out, by the reason: a crop's hand
    with a joint that is not annotated, out of the picture or too small; a frame whose hands are not all whole.
    Raises DataError where ``out`` holds such shards already or nothing can be taken.
    """
    if kind not in KINDS:
        raise DataError(f"the kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if shard_paths(out, split):
        raise DataError(f"{out} holds {split} shards already; give another folder, or remove them")
    counts: Counter = Counter(written=0)

    def counted() -> Iterator[tuple[str, np.ndarray, dict]]:
        for image, label in islice((crops if kind == "crop" else wholes)(frames, counts), count):
            counts["written"] += 1
            progress(counts)
            yield f"{counts['written']:07d}", image, label

    samples = counted()
    for number, first in enumerate(samples):
        rest = islice(samples, SAMPLES_PER_SHARD - 1)
        write_shard(out / f"{split}-{number:05d}.tar", (sample for part in ((first,), rest) for sample in part))
    if not counts["written"]:
        raise DataError(
            f"no hand can be taken: {', '.join(f'{n} {why}' for why, n in counts.items() if n) or 'no frames'}"
        )
    return counts


def crops(frames: Iterable[Frame], counts: Counter) -> Iterator[tuple[np.ndarray, dict]]:
    """The crop of each whole hand and its label; what is left out is added to ``counts``."""
    for frame in frames:
        image = None
        for hand in frame.hands:
            if not hand.valid.all():
                counts["with joints that are not annotated"] += 1
                continue
            image = frame.image() if image is None else image
            base = aligned_crop(hand.uv, mirror=hand.side == "left")
            if _seen(hand, image).mean() < _LEAST_SEEN:
                counts["out of the picture"] += 1
            elif base.side < _LEAST_SIDE:
                counts["too small"] += 1
            else:
                yield crop_sample(image, hand, frame.K, base)


def crop_sample(image: np.ndarray, hand: Hand, K: np.ndarray, base: Crop) -> tuple[np.ndarray, dict]:
    """The stored picture (160, 160, 3) around the crop ``base`` and its label; xyz in the crop's camera axes."""
    wide = Crop(base.center, base.side * CROP_IMAGE / BASE_CROP, base.angle, base.mirror)
    focal = (K[0, 0] + K[1, 1]) / 2 * CROP_IMAGE / wide.side  # of the camera that would take the stored picture
    label = {
        "kind": "crop",
        "present": 1,
        "side": hand.side,
        "uv": wide.to_crop(hand.uv, CROP_IMAGE).round(3).tolist(),
        "xyz": wide.xyz_to_crop(hand.xyz).round(5).tolist(),
        "visible": (hand.visible & _seen(hand, image)).astype(int).tolist(),
        "depth_scale": round(float(focal / hand.xyz[:, 2].mean()), 4),
    }
    return wide.warp(image, CROP_IMAGE), label


def wholes(frames: Iterable[Frame], counts: Counter) -> Iterator[tuple[np.ndarray, dict]]:
    """Frames whose hands are all whole, shrunk, and their labels; what is left out is added to ``counts``."""
    for frame in frames:
        if not frame.hands or len(frame.hands) > MAX_HANDS or not all(hand.valid.all() for hand in frame.hands):
            counts["frames whose hands are not all annotated"] += 1
            continue
        image = frame.image()
        factor = min(1.0, _FRAME / max(image.shape[:2]))
        size = tuple(round(side * factor) for side in image.shape[1::-1])
        ratio = np.array(size) / image.shape[1::-1]
        hands = [
            {
                "side": hand.side,
                "uv": (hand.uv * ratio).round(3).tolist(),
                "xyz": hand.xyz.round(5).tolist(),
                "visible": (hand.visible & _seen(hand, image)).astype(int).tolist(),
            }
            for hand in frame.hands
        ]
        yield cv2.resize(image, size, interpolation=cv2.INTER_AREA), {"kind": "frame", "hands": hands}


def _seen(hand: Hand, image: np.ndarray) -> np.ndarray:
    """(21,) whether a joint lies in the picture."""
    return ((hand.uv >= 0) & (hand.uv < image.shape[1::-1])).all(-1)
