"""AssemblyHands (Ohkawa et al. 2023), rectified egocentric cameras, grey: two hands, millimetres in world space.

Xc = R X + t, unlike InterHand2.6M, whose order of joints it has. Layout after the owners' toolkit
(facebookresearch/assemblyhands-toolkit); not tried on the data set itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_hands.quantization.data.readers.frame import FROM_TIPS_WRIST_LAST, Frame, check_split, hand, read_json

SPLITS = ("train", "val", "test")
LAYOUT = (
    "images/ego_images_rectified/{split}/..., annotations/{split}/assemblyhands_{split}_ego_data_v1-1.json, "
    "..._ego_calib_v1-1.json and ..._joint_3d_v1-1.json"
)


def frames(root: Path, split: str) -> Iterator[Frame]:
    """``split``: train, val or test. A hand takes part when it has a box."""
    check_split(split, SPLITS)
    start = root / "annotations" / split / f"assemblyhands_{split}"
    data, calibration, world = (
        read_json(Path(f"{start}_{what}_v1-1.json")) for what in ("ego_data", "ego_calib", "joint_3d")
    )
    images = {image["id"]: image for image in data["images"]}
    for annotation in data["annotations"]:
        image = images[annotation["image_id"]]
        sequence, moment = str(image["seq_name"]), f"{int(image['frame_idx']):06d}"
        camera, cameras = f"{image['camera']}_mono10bit", calibration["calibration"][sequence]
        K, pose = np.array(cameras["intrinsics"][camera]), np.array(cameras["extrinsics"][moment][camera])
        points = np.array(world["annotations"][sequence][moment]["world_coord"])
        xyz = (points @ pose[:, :3].T + pose[:, 3]) / 1000
        valid = np.array(annotation["joint_valid"], bool).ravel()
        hands = []
        for side, first in (("right", 0), ("left", 21)):
            own = first + np.array(FROM_TIPS_WRIST_LAST)
            if annotation["bbox"].get(side) is not None:
                hands.append(hand(side, xyz[own], K, valid[own]))
        yield Frame(_path(root, split, image["file_name"]), K, tuple(hands))


def _path(root: Path, split: str, name: str) -> Path:
    """Names may hold the folders above the split or not."""
    folder = root / "images"
    return folder / name if name.startswith("ego_images") else folder / "ego_images_rectified" / split / name
