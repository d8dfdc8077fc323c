"""Joint order, skeleton and reference measures of a hand. Pure data: numpy only.

``T`` is the project's order of 21 joints (that of FreiHAND, DexYCB and MediaPipe): 0 wrist, then thumb,
index, middle, ring, little, four joints each from base to tip.
"""

from __future__ import annotations

import numpy as np

FINGERS = ("thumb", "index", "middle", "ring", "little")
_THUMB = ("cmc", "mcp", "ip", "tip")
_FINGER = ("mcp", "pip", "dip", "tip")
JOINT_NAMES: tuple[str, ...] = (
    "wrist",
    *(f"{finger}_{part}" for finger in FINGERS for part in (_THUMB if finger == "thumb" else _FINGER)),
)
NUM_JOINTS = len(JOINT_NAMES)
WRIST = 0
MIDDLE_MCP = 9
FINGERTIPS = (4, 8, 12, 16, 20)

#: Parent of every joint; the wrist is its own root (-1).
PARENTS: tuple[int, ...] = (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)
#: The 20 bones as (parent, child).
BONES: tuple[tuple[int, int], ...] = tuple((PARENTS[j], j) for j in range(1, NUM_JOINTS))

#: Sum of the 20 bone lengths, in metres, of the mean synthetic hand. An image alone does not tell a hand's
#: size, so models lift their joints to this size; ``HandTracker(hand_size=...)`` rescales for a known user.
REFERENCE_SKELETON_LENGTH = 0.794


def skeleton_length(joints_xyz: np.ndarray) -> np.ndarray:
    """Sum of the 20 bone lengths of joints (..., 21, 3), in the unit of the joints -> (...)."""
    parents, children = np.array(BONES).T
    return np.linalg.norm(joints_xyz[..., children, :] - joints_xyz[..., parents, :], axis=-1).sum(-1)
