"""Fixtures of the SDK's tests: a sound bundle whose bytes are not a model, and a world in which hands are known."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_hands import bundle as bundles
from edge_hands.crops import aligned_crop

TENSORS = {
    "landmarks": {
        "joints_uv": (1, 21, 2),
        "joints_xyz": (1, 21, 3),
        "confidence": (1, 21),
        "presence": (1,),
        "handedness": (1,),
    },
    "detector": {
        "scores": (1, 64),
        "boxes": (1, 64, 4),
        "points": (1, 64, 2, 2),
        "centers": (1, 64, 2),
        "sides": (1, 64),
        "handedness": (1, 64),
    },
}


def manifest(kind: str, files: tuple[bundles.File, ...], **changes) -> bundles.Manifest:
    names = list(TENSORS[kind])
    content = {
        "schema": 1,
        "name": f"test_{kind}",
        "kind": kind,
        "device": "linux-x86_64",
        "created": "2026-11-20T00:00:00Z",
        "files": [file.model_dump() for file in files],
        "variants": [
            {
                "runtime": "litert",
                "path": "model.tflite",
                "input_names": {"image": "args_0"},
                "output_names": {name: f"output_{i}" for i, name in enumerate(names)},
            }
        ],
        "inputs": [{"name": "image", "shape": [1, 64, 64, 3], "layout": "NHWC", "range": [0, 1], "unit": "RGB"}],
        "outputs": [{"name": name, "shape": list(shape)} for name, shape in TENSORS[kind].items()],
        **changes,
    }
    return bundles.Manifest.model_validate(content)


@pytest.fixture
def bundle_dir(tmp_path: Path) -> Path:
    """A whole and sound bundle of ten bytes that are no model."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.tflite").write_bytes(b"not really")
    bundles.write_manifest(folder, manifest("landmarks", (bundles.describe_file(folder, "model.tflite"),)))
    return folder


@pytest.fixture
def edit(bundle_dir: Path):
    """Change the manifest's JSON behind the SDK's back: ``edit(lambda content: ...)``."""

    def change(how) -> Path:
        path = bundle_dir / "manifest.json"
        content = json.loads(path.read_text())
        how(content)
        path.write_text(json.dumps(content))
        return bundle_dir

    return change


def hand_shape(center: tuple[float, float], size: float, angle: float = 0.0, left: bool = False) -> np.ndarray:
    """21 joints (21, 2) in pixels of a flat right hand seen from its back, ``size`` pixels high, turned clockwise."""
    uv = np.zeros((21, 2))
    for finger, (x, reach) in enumerate(((-0.35, 0.55), (-0.18, 0.9), (0.0, 1.0), (0.16, 0.93), (0.3, 0.78))):
        start = 0.2 if finger == 0 else 0.5
        for part in range(4):
            along = start + (reach - start) * part / 3
            uv[1 + 4 * finger + part] = (x * min(1.0, along / 0.5), -along)
    uv[:, 1] += 0.5
    if left:
        uv[:, 0] *= -1
    c, s = np.cos(angle), np.sin(angle)
    return uv @ np.array([[c, s], [-s, c]]) * size + center


@dataclass
class World:
    """A frame whose colours are its coordinates, hands at known places, and models that read both.

    A model sees only its input image, as a real one does: from the colours it works out which part of the frame that
    is and how it is turned and mirrored. So whatever the tracker does with crops is checked, not assumed.
    """

    hands: list[tuple[np.ndarray, str]] = field(default_factory=list)
    width: int = 256
    height: int = 256
    smallest: float = 0.0  # hands below this part of a view are not detected
    broken: bool = False
    detector_runs: int = 0
    landmark_runs: int = 0
    extra: list[tuple[np.ndarray, str]] = field(default_factory=list)  # seen by the detector only
    wrong_side: bool = False  # the detector mistakes left for right
    score: float = 0.9  # the detector's, of the first hand
    sureness: float = 1.0  # of the detector, of the side it gives
    confidence: float = 1.0  # of every joint
    misfit: float = 0.05  # handedness output for a crop that is mirrored wrongly

    def frame(self) -> np.ndarray:
        y, x = np.mgrid[: self.height, : self.width]
        blue = np.full(x.shape, 255.0)  # black is outside the frame
        return np.stack([x / self._step(self.width), y / self._step(self.height), blue], -1).round().astype(np.uint8)

    @staticmethod
    def _step(side: int) -> float:
        """Pixels from one grey level to the next: 1, exact coordinates, up to 256 pixels."""
        return max(1.0, (side - 1) / 255)

    def model(self, kind: str) -> SimpleNamespace:
        run = self._landmarks if kind == "landmarks" else self._detect
        shape = SimpleNamespace(kind=kind, name=kind, input_shape=(1, 64, 64, 3))
        return SimpleNamespace(manifest=shape, run=lambda inputs: run(inputs["image"][0]), close=lambda: None)

    def _view(self, image: np.ndarray) -> np.ndarray:
        """(3, 3) map from [0, 1] of the image to frame pixels."""
        v, u = (np.mgrid[: image.shape[0], : image.shape[1]] + 0.5) / image.shape[0]
        inside = image[..., 2] > 0.999
        points = np.stack([u[inside], v[inside], np.ones(inside.sum())], -1)
        target = image[inside][:, :2].astype(float) * 255 * (self._step(self.width), self._step(self.height)) + 0.5
        fit = np.linalg.lstsq(points, target, rcond=None)[0].T
        return np.vstack([fit, [0, 0, 1]])

    def _in_view(self, uv: np.ndarray, view: np.ndarray) -> np.ndarray:
        return (np.c_[uv, np.ones(len(uv))] @ np.linalg.inv(view).T)[:, :2]

    def _landmarks(self, image: np.ndarray) -> dict[str, np.ndarray]:
        self.landmark_runs += 1
        view = self._view(image)
        mirrored = np.linalg.det(view[:2, :2]) < 0
        best, uv, right = 0.02, np.full((21, 2), 0.5), 0.5
        for joints, side in self.hands:
            seen = self._in_view(joints, view)
            off = np.abs((seen.min(0) + seen.max(0)) / 2 - 0.5).max()
            if off < 0.3 and seen[9, 1] < seen[0, 1] and np.ptp(seen, axis=0).max() > 0.3 and 0.98 - off > best:
                best, uv, right = 0.98 - off, seen, 0.95 if (side == "left") == mirrored else self.misfit
        xyz = np.c_[(uv - uv[0]) * 0.2, np.zeros(21)]
        if self.broken:
            xyz[3] = np.nan
        outputs = {
            "joints_uv": uv,
            "joints_xyz": xyz,
            "confidence": np.full(21, self.confidence),
            "presence": best,
            "handedness": right,
        }
        return {name: np.asarray(value, np.float32)[None] for name, value in outputs.items()}

    def _detect(self, image: np.ndarray) -> dict[str, np.ndarray]:
        self.detector_runs += 1
        view, scale = self._view(image), None
        outputs = {name: np.zeros(shape, np.float32) for name, shape in TENSORS["detector"].items()}
        scale = 1 / np.sqrt(abs(np.linalg.det(view[:2, :2])))
        for i, (joints, side) in enumerate(self.hands + self.extra):
            seen, crop = self._in_view(joints, view), aligned_crop(joints)
            if np.ptp(seen, axis=0).max() < self.smallest or seen.min() < -0.02 or seen.max() > 1.02:
                continue
            outputs["scores"][0, i] = self.score - 0.01 * i
            outputs["boxes"][0, i] = [*seen.min(0), *seen.max(0)]
            outputs["points"][0, i] = seen[[0, 9]]
            outputs["centers"][0, i] = self._in_view(np.array([crop.center]), view)[0]
            outputs["sides"][0, i] = crop.side * scale
            says_right = (side == "right") != self.wrong_side
            outputs["handedness"][0, i] = self.sureness if says_right else 1 - self.sureness
        return outputs


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def shape():
    """``shape(center, size, angle=0, left=False)`` -> joints (21, 2) of a flat hand."""
    return hand_shape


@pytest.fixture
def make_manifest():
    return manifest


@pytest.fixture(scope="session")
def real_bundles() -> Path:
    """Folder of the committed bundles test_dfmamba (landmarks) and test_detector: small, real, untrained."""
    return Path(__file__).parents[1] / "data" / "bundles"
