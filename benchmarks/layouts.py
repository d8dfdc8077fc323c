"""The landmark model on the few real samples of other data sets; ``convention_error`` compares joints with theirs.

    python benchmarks/layouts.py [--landmarks BUNDLE] [--data ../shared/data/layouts] [--sheet PNG]

For looking and testing only: their owners' terms forbid training on them, and two dozen hands are no benchmark. Each
hand is cut out by its true joints, as ``edge-hands evaluate`` does. 2-D error in pixels of a 256-pixel crop; PA-MPJPE
where a sample has 3-D joints. *Fits*: whether the crop looks more right-handed than its mirror image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edge_hands import Session
from edge_hands.bundle import bundled
from edge_hands.crops import Crop, aligned_crop
from edge_hands.errors import EdgeHandsError
from edge_hands.hands import BONES
from edge_hands.images import as_input
from edge_hands.quantization.data.readers.frame import FROM_TIPS_WRIST_LAST
from edge_hands.quantization.data.readers.rhd import ORDER as RHD
from edge_hands.quantization.metrics import joint_errors, pa_errors

_PALM = (0, 1, 5, 9, 13, 17)
#: Pairs of joints (2, 30) whose distance hardly depends on the pose: within the palm, and the bones of the fingers.
PAIRS = np.array([*combinations(_PALM, 2), *((a, b) for a, b in BONES if a)]).T


class Hand(NamedTuple):
    """One hand of a sample: ``uv`` (21, 2) pixels of ``image``, ``xyz`` (21, 3) metres or None, both in order T."""

    data_set: str
    image: Path
    left: bool
    uv: np.ndarray
    xyz: np.ndarray | None


def hands(folder: Path) -> Iterator[Hand]:
    """Every whole hand of the samples that are there."""
    for read in (_freihand, _rhd, _interhand):
        yield from read(folder)


def _freihand(folder: Path) -> Iterator[Hand]:
    path = folder / "freihand/test_freihand.json"
    for annotation, image in _coco(path):
        uv = np.reshape(annotation["keypoints"], (21, 3))[:, :2]
        yield Hand("FreiHAND", path.with_name(image["file_name"]), False, uv, None)


def _rhd(folder: Path) -> Iterator[Hand]:
    path, order = folder / "rhd/test_rhd.json", list(RHD)
    for annotation, image in _coco(path):
        uv, xyz = np.array(annotation["keypoints"])[order, :2], np.array(annotation["joint_cam"])[order] / 1000
        yield Hand("RHD", path.with_name(image["file_name"]), annotation["hand_type"] == "left", uv, xyz)


def _interhand(folder: Path) -> Iterator[Hand]:
    path = folder / "interhand2.6m/test_interhand2.6m_data.json"
    for annotation, image in _coco(path):
        capture, name = str(image["capture"]), image["camera"]
        camera = json.loads(path.with_name("test_interhand2.6m_camera.json").read_text())[capture]
        world = json.loads(path.with_name("test_interhand2.6m_joint_3d.json").read_text())[capture]
        away = np.array(world[str(image["frame_idx"])]["world_coord"]) - camera["campos"][name]
        xyz = away @ np.array(camera["camrot"][name]).T
        uv = xyz[:, :2] / xyz[:, 2:] * camera["focal"][name] + camera["princpt"][name]
        valid = np.ravel(annotation["joint_valid"])
        for left, rows in ((False, np.array(FROM_TIPS_WRIST_LAST)), (True, np.array(FROM_TIPS_WRIST_LAST) + 21)):
            if valid[rows].all():
                yield Hand("InterHand2.6M", path.with_name(image["file_name"]), left, uv[rows], xyz[rows] / 1000)


def _coco(path: Path) -> Iterator[tuple[dict, dict]]:
    """(annotation, its image) of a file in COCO's form; none where it is absent."""
    if path.is_file():
        content = json.loads(path.read_text())
        images = {image["id"]: image for image in content["images"]}
        for annotation in content["annotations"]:
            yield annotation, images[annotation["image_id"]]


def convention_error(joints: np.ndarray, others: list[np.ndarray]) -> float:
    """Root mean square difference of the distances of PAIRS in ``joints`` (21, 3) from their mean over ``others``, at
    the scale at which they are most alike, in the unit of ``joints``."""
    ours = _distances(joints)
    theirs = np.mean([_distances(other) for other in others], 0)
    return float(np.sqrt(np.mean((ours - theirs * (ours @ theirs) / (theirs @ theirs)) ** 2)))


def _distances(joints: np.ndarray) -> np.ndarray:
    return np.linalg.norm(joints[PAIRS[0]] - joints[PAIRS[1]], axis=1)


def look(session: Session, image: np.ndarray, crop: Crop) -> dict[str, np.ndarray]:
    return session.run({"image": as_input(crop.warp(image, session.manifest.input_shape[1]))})


def drawn(image: np.ndarray, crop: Crop, *skeletons: np.ndarray) -> np.ndarray:
    """The crop, 320 pixels, with the truth in green and what the model says in red."""
    picture = crop.warp(image, 320)
    for uv, colour in zip(skeletons, ((0, 255, 0), (255, 0, 0))):
        points = np.rint(uv * 320).astype(int).tolist()
        for a, b in BONES:
            cv2.line(picture, points[a], points[b], colour, 1, cv2.LINE_AA)
    return picture


def _said(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/layouts"))
    parser.add_argument("--landmarks", type=Path, default=bundled("landmarks"))
    parser.add_argument("--sheet", type=Path, help="also draw every crop with both skeletons")
    asked = parser.parse_args()
    rows, pictures = [], []
    with Session.open(asked.landmarks, threads=1) as session:
        print("| sample | hand | 2-D, px of 256 | PA-MPJPE, mm | presence | confidence | fits |\n|" + "---|" * 7)
        for hand in hands(asked.data):
            image = cv2.imread(str(hand.image))[..., ::-1].copy()
            crop, mirrored = (aligned_crop(hand.uv, mirror) for mirror in (hand.left, not hand.left))
            outputs, other = look(session, image, crop), look(session, image, mirrored)
            found, truth = outputs["joints_uv"].astype(float), crop.to_crop(hand.uv)[None]
            px, mm = joint_errors(found, truth).mean() * 256, float("nan")
            if hand.xyz is not None:
                xyz = crop.xyz_to_frame(outputs["joints_xyz"].astype(float))
                mm = pa_errors(xyz, hand.xyz[None]).mean() * 1000
            fits = outputs["handedness"][0] > other["handedness"][0]
            rows.append((hand.data_set, px, mm))
            pictures.append(drawn(image, crop, truth[0], found[0]))
            name = f"{hand.data_set} {hand.image.stem}"
            sure = f"{outputs['presence'][0]:.2f} | {outputs['confidence'].mean():.2f} | {'yes' if fits else 'no'}"
            print(f"| {name} | {'left' if hand.left else 'right'} | {px:.1f} | {_said(mm)} | {sure} |")
    if not rows:
        sys.exit(f"no samples in {asked.data}; see docs/data.md")
    for name in (*dict.fromkeys(row[0] for row in rows), "all"):
        px, mm = np.array([row[1:] for row in rows if name in (row[0], "all")]).T
        given = mm[~np.isnan(mm)] if name == "all" else mm
        cells = " | ".join(f"{_said(v.mean())} (median {_said(np.median(v))})" for v in (px, given))
        print(f"| **{name}**, {len(px)} | | {cells} | | | |")
    if asked.sheet:
        pictures += [np.zeros_like(pictures[0])] * (-len(pictures) % 6)
        sheet = np.vstack([np.hstack(pictures[i : i + 6]) for i in range(0, len(pictures), 6)])
        cv2.imwrite(str(asked.sheet), sheet[..., ::-1])


if __name__ == "__main__":
    try:
        main()
    except EdgeHandsError as error:
        sys.exit(str(error))
