"""Tiny shards of drawn hands, in the layout of the real ones: enough to train and to evaluate for seconds."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_hands.hands import BONES, NUM_JOINTS

_DEPTH_SCALE = 490.0  # pixels a metre: an 0.18 m hand fills 88 of the base crop's 128
_SKIN = (230, 180, 150)


def flat_hand(rng: np.random.Generator) -> np.ndarray:
    """(21, 3) metres: an upright right hand with spread fingers, palm to the camera, a little depth."""
    joints = np.zeros((NUM_JOINTS, 3))
    for finger in range(5):
        angle = np.deg2rad(-40 + 20 * finger) + rng.normal(0, 0.05)
        reach = (0.09 if finger else 0.04) + 0.028 * np.arange(4)
        first = 1 + 4 * finger
        joints[first : first + 4, :2] = reach[:, None] * (np.sin(angle), -np.cos(angle))
        joints[first : first + 4, 2] = rng.normal(0, 0.01, 4)
    return joints


def crop_sample(rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """A crop image (160, 160, 3) and its label; one in ten has no hand."""
    image = _background(rng, 160)
    if rng.random() < 0.1:
        return image, {"kind": "crop", "present": 0, "side": "right"}
    xyz = _turned(flat_hand(rng), rng.uniform(-0.2, 0.2))
    uv = xyz[:, :2] * _DEPTH_SCALE
    uv += 80 - (uv.max(0) + uv.min(0)) / 2
    _draw(image, uv)
    label = {"kind": "crop", "present": 1, "side": "right" if rng.random() < 0.5 else "left", "uv": uv.tolist()}
    label |= {"xyz": (xyz + (0, 0, 0.5)).tolist(), "visible": [1] * NUM_JOINTS, "depth_scale": _DEPTH_SCALE}
    return image, label


def frame_sample(rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """A frame (256, 256, 3) with up to two hands, and its label."""
    image, hands = _background(rng, 256), []
    for _ in range(rng.integers(0, 3)):
        right, xyz = rng.random() < 0.5, flat_hand(rng)
        xyz[:, 0] *= 1 if right else -1
        xyz = _turned(xyz, rng.uniform(-3, 3))
        uv = xyz[:, :2] * rng.uniform(300, 550) + rng.uniform(60, 196, 2)
        _draw(image, uv)
        side = "right" if right else "left"
        hands.append({"side": side, "uv": uv.tolist(), "xyz": xyz.tolist(), "visible": [1] * NUM_JOINTS})
    return image, {"kind": "frame", "hands": hands}


def write_shard(path: Path, sample: Callable, count: int, seed: int) -> Path:
    """A finished shard of ``count`` samples."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for index in range(count):
            image, label = sample(rng)
            encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
            for name, content in ((f"{index:06d}.jpg", encoded), (f"{index:06d}.json", json.dumps(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def make_shard() -> Callable:
    """``make_shard(path, "crop" | "frame", count, seed)``."""
    samples = {"crop": crop_sample, "frame": frame_sample}
    return lambda path, kind, count, seed: write_shard(path, samples[kind], count, seed)


@pytest.fixture(scope="session")
def crop_shards(tmp_path_factory) -> Path:
    return _shards(tmp_path_factory.mktemp("crops"), crop_sample, 96)


@pytest.fixture(scope="session")
def frame_shards(tmp_path_factory) -> Path:
    return _shards(tmp_path_factory.mktemp("frames"), frame_sample, 48)


def _shards(folder: Path, sample: Callable, count: int) -> Path:
    """``count`` samples to train on and 32 to validate."""
    write_shard(folder / "train-00000.tar", sample, count, 0)
    write_shard(folder / "val-00000.tar", sample, 32, 1)
    return folder


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    return cv2.resize(rng.integers(0, 150, (6, 6, 3), dtype=np.uint8), (side, side))


def _turned(xyz: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return xyz @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T


def _draw(image: np.ndarray, uv: np.ndarray) -> None:
    points = np.rint(uv - 0.5).astype(int).tolist()
    for parent, child in BONES:
        cv2.line(image, points[parent], points[child], _SKIN, max(2, len(image) // 32))
