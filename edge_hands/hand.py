"""A tracked hand: what ``HandTracker`` gives for each hand of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_hands.camera import Intrinsics, place
from edge_hands.hands import JOINT_NAMES
from edge_hands.openxr import JointPoses, joint_poses


@dataclass(frozen=True, eq=False)
class Hand:
    """One hand of one frame; all values are finite.

    ``joints_uv`` (21, 2) pixels of the frame; ``joints_xyz`` (21, 3) metres relative to the wrist, camera axes (x
    right, y down, z forward); ``confidence`` (21,) in [0, 1]; ``handedness`` "left" or "right" of the person, for an
    unmirrored picture, with its probability ``handedness_score``; ``score`` probability that it is a hand; ``id`` stays
    with the hand from frame to frame; ``box`` (4,) x0 y0 x1 y1 of the joints in pixels. An image does not tell a hand's
    size: metres are those of a hand of the tracker's ``hand_size``.
    """

    joints_uv: np.ndarray
    joints_xyz: np.ndarray
    confidence: np.ndarray
    handedness: str
    handedness_score: float
    score: float
    id: int

    @property
    def box(self) -> np.ndarray:
        """(4,) x0 y0 x1 y1 of the joints, in pixels."""
        return np.concatenate([self.joints_uv.min(0), self.joints_uv.max(0)])

    def joints_camera(self, intrinsics: Intrinsics) -> np.ndarray:
        """Joints (21, 3) in metres from the camera: the hand moved to where it projects onto ``joints_uv`` best."""
        return self.joints_xyz + place(self.joints_xyz, self.joints_uv, intrinsics, self.confidence)

    def openxr(self, intrinsics: Intrinsics | None = None) -> JointPoses:
        """The 26 poses of XR_EXT_hand_tracking in OpenXR's axes: from the camera, or without intrinsics the wrist."""
        joints = self.joints_xyz if intrinsics is None else self.joints_camera(intrinsics)
        return joint_poses(joints, self.handedness)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers for JSON: pixels to 0.01, metres to 0.01 mm, joints by the names in ``hands``."""
        return {
            "id": self.id,
            "handedness": self.handedness,
            "handedness_score": round(self.handedness_score, 4),
            "score": round(self.score, 4),
            "box": _rounded(self.box, 2),
            "joints": [
                {"name": name, "uv": _rounded(uv, 2), "xyz": _rounded(xyz, 5), "confidence": round(float(sure), 4)}
                for name, uv, xyz, sure in zip(
                    JOINT_NAMES, self.joints_uv, self.joints_xyz, self.confidence, strict=True
                )
            ],
        }


def _rounded(values: np.ndarray, digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]
