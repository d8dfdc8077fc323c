"""InterHand2.6M (Moon et al. 2020), 5 or 30 frames a second: one or two hands, millimetres in world space.

Xc = R (X - campos), pixel = focal Xc / z + princpt. Right hand 0-20, left 21-41, each tip to base with the wrist last.
A hand that is not there holds anything: an invalid wrist makes the hand invalid.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_hands.quantization.data.readers.frame import FROM_TIPS_WRIST_LAST, Frame, check_split, hand, read_json

SPLITS = ("train", "val", "test")
LAYOUT = (
    "images/{split}/Capture0/.../image0.jpg, annotations/{split}/InterHand2.6M_{split}_data.json, "
    "..._camera.json and ..._joint_3d.json"
)


def frames(root: Path, split: str) -> Iterator[Frame]:
    """``split``: train, val or test."""
    check_split(split, SPLITS)
    start = root / "annotations" / split / f"InterHand2.6M_{split}"
    data, cameras, joints = (read_json(Path(f"{start}_{what}.json")) for what in ("data", "camera", "joint_3d"))
    images = {image["id"]: image for image in data["images"]}
    for annotation in data["annotations"]:
        image = images[annotation["image_id"]]
        camera, name = cameras[str(image["capture"])], str(image["camera"])
        world = joints[str(image["capture"])][str(image["frame_idx"])]
        xyz = (np.array(world["world_coord"]) - camera["campos"][name]) @ np.array(camera["camrot"][name]).T / 1000
        K = np.diag([*camera["focal"][name], 1.0])
        K[:2, 2] = camera["princpt"][name]
        valid = np.array(world["joint_valid"], bool).ravel() & np.array(annotation["joint_valid"], bool).ravel()
        hands = []
        for side, first in (("right", 0), ("left", 21)):
            own = first + np.array(FROM_TIPS_WRIST_LAST)
            if annotation["hand_type"] in (side, "interacting") and valid[own[0]]:
                hands.append(hand(side, xyz[own], K, valid[own]))
        yield Frame(root / "images" / split / image["file_name"], K, tuple(hands))
