"""The unlabelled photographs: ``FOLDER/DIGIT/IMG_nnnn.JPG``, hands that show digits, person after person."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_hands.errors import DataError

#: Side of the photographs in pixels; one that is larger is area-averaged.
SIDE = 100
_NAME = re.compile(r"IMG_(\d+)\.JPG", re.IGNORECASE)


@dataclass(frozen=True)
class Photographs:
    """``images`` (n, 100, 100, 3) uint8 RGB in the order of their file ``numbers`` (n,); ``people`` (n,) counts people.

    Every person showed the digits in rising order and the numbers run on, so a new person begins where a digit falls.
    """

    images: np.ndarray
    numbers: np.ndarray
    people: np.ndarray

    @classmethod
    def open(cls, folder: str | Path) -> Photographs:
        """Raises DataError when the folder holds none or one cannot be read."""
        found = []
        for path in Path(folder).glob("[0-9]/*"):
            if name := _NAME.fullmatch(path.name):
                found.append((int(name[1]), int(path.parent.name), path))
        if not found:
            raise DataError(f"{folder} holds no photographs DIGIT/IMG_nnnn.JPG; name the folder of the ten digits")
        found.sort()
        numbers, digits = np.array([f[:2] for f in found]).T
        images = np.stack([_read(path) for _, _, path in found])
        return cls(images, numbers, people_of(digits))

    def held_out(self, block: int = 8, every: int = 5) -> np.ndarray:
        """(n,) bool: the photographs of every fifth block of eight neighbouring people, for testing alone."""
        return (self.people // block) % every == every // 2


def people_of(digits: np.ndarray) -> np.ndarray:
    """Number of the person (n,) behind each of the ``digits`` (n,), which stand in the order of the photographs."""
    return np.cumsum(np.diff(digits, prepend=digits[:1]) < 0)


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DataError(f"{path} cannot be read as a picture; fetch it again or take it out")
    if image.shape[:2] == (SIDE, SIDE):
        return image
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
