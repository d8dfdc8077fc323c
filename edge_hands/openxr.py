"""From 21 joints to the 26 joint poses of OpenXR's XR_EXT_hand_tracking.

OpenXR's axes: x right, y up, z towards the viewer, metres, right-handed. A joint's -Z points along its bone towards
the tip and its +Y out of the back of the hand. The 21 joints hold no palm and no bases of the four metacarpals; those
are placed on the line wrist -> MCP. A bone's roll is not observed either: it starts at the plane of the palm and is
carried along the finger by the smallest rotation from bone to bone, which is exact for a finger that bends in a plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_hands.hands import FINGERS, REFERENCE_SKELETON_LENGTH, WRIST, skeleton_length

_PARTS = ("metacarpal", "proximal", "intermediate", "distal", "tip")
#: The 26 names in OpenXR's order; the thumb has no intermediate joint.
JOINT_NAMES: tuple[str, ...] = (
    "palm",
    "wrist",
    *(f"{finger}_{part}" for finger in FINGERS for part in _PARTS if (finger, part) != ("thumb", "intermediate")),
)
#: Where a finger's metacarpal begins on the line wrist -> MCP: the carpal bones take the first part of it. [estimate]
METACARPAL_BASE = 0.28
#: OpenXR's knuckles are joint centres; those of the 21 joints, which are as data sets have them, lie this part of the
#: first phalanx nearer to the tip (0.16 of the phalanx from the centre, ``synthetic/hand_mesh.py``).
KNUCKLE = 0.19
#: Turn of the thumb's back from the back of the hand towards the index finger's side, radians. [estimate]
THUMB_TURN = np.radians(60.0)
#: Radii in metres of a hand of reference size, in OpenXR's order: half the thickness of a grown-up's hand. [estimate]
RADII = np.array(
    [0.020, 0.022]
    + [0.017, 0.015, 0.012, 0.009]
    + [0.018, 0.011, 0.0095, 0.0085, 0.0065]
    + [0.018, 0.011, 0.0095, 0.0085, 0.0065]
    + [0.017, 0.0105, 0.009, 0.008, 0.006]
    + [0.016, 0.0095, 0.008, 0.007, 0.0055]
)
_KNUCKLES = [5, 9, 13, 17]
_TO_XR = np.array([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class JointPoses:
    """26 poses: ``positions`` (26, 3) in metres, ``orientations`` (26, 4) unit quaternions x y z w, ``radii`` (26,)."""

    positions: np.ndarray
    orientations: np.ndarray
    radii: np.ndarray


def joint_poses(joints: np.ndarray, handedness: str) -> JointPoses:
    """Poses of joints (21, 3), camera axes (x right, y down, z forward), in OpenXR's axes and the same origin."""
    joints = np.asarray(joints, float) * _TO_XR
    scale = float(skeleton_length(joints)) / REFERENCE_SKELETON_LENGTH
    joints[_KNUCKLES] -= KNUCKLE * (joints[np.add(_KNUCKLES, 1)] - joints[_KNUCKLES])
    wrist, index, middle, little = joints[WRIST], joints[5], joints[9], joints[17]
    back = _unit(np.cross(little - wrist, index - wrist), np.array([0.0, 1.0, 0.0]))
    if handedness == "left":
        back = -back
    forward = _unit(middle - wrist, np.array([0.0, 0.0, -1.0]))

    positions, frames = np.empty((26, 3)), np.empty((26, 3, 3))
    base = wrist + METACARPAL_BASE * (middle - wrist)
    positions[0], positions[1] = (base + middle) / 2, wrist
    frames[0] = frames[1] = _frame(forward, back)
    thumb_side = index - little
    slot = 2
    for finger in range(5):
        chain = joints[1 + 4 * finger : 5 + 4 * finger]
        up = back
        if finger == 0:
            up = np.cos(THUMB_TURN) * back + np.sin(THUMB_TURN) * _unit(thumb_side, back)
        else:
            chain = np.vstack([wrist + METACARPAL_BASE * (chain[0] - wrist), chain])
        count = len(chain)
        positions[slot : slot + count] = chain
        frames[slot : slot + count] = _chain_frames(chain, up)
        slot += count
    return JointPoses(positions, quaternions(frames), RADII * scale)


def _chain_frames(chain: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Frames (n, 3, 3) of a finger's joints (n, 3) from base to tip; the tip has its bone's frame."""
    frames = np.empty((len(chain), 3, 3))
    along = _unit(chain[1] - chain[0], np.array([0.0, 0.0, -1.0]))
    frames[0] = _frame(along, up)
    for joint in range(1, len(chain)):
        bone = chain[joint + 1] - chain[joint] if joint + 1 < len(chain) else along
        turned = _unit(bone, along)
        frames[joint] = _frame(turned, _swing(along, turned) @ frames[joint - 1][:, 1])
        along = turned
    return frames


def _frame(along: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Columns x, y, z with -z = ``along`` and y as near to ``up`` as can be."""
    z = -along
    y = up - (up @ z) * z
    if np.linalg.norm(y) < 1e-6:
        spare = np.eye(3)[np.abs(z).argmin()]
        y = spare - (spare @ z) * z
    y = y / np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z], axis=1)


def _swing(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest rotation (3, 3) from one unit vector to another."""
    cross, cosine = np.cross(start, end), float(start @ end)
    if cosine < -0.999999:  # opposite: no smallest rotation exists; keep the frame
        return np.eye(3)
    skew = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)


def quaternions(rotations: np.ndarray) -> np.ndarray:
    """Rotation matrices (n, 3, 3) -> unit quaternions (n, 4) as x y z w with w >= 0."""
    m = np.asarray(rotations, float)
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    # Each row is the quaternion times four times one of its parts; the longest row is the well-conditioned one.
    rows = np.stack(
        [
            np.stack([1 + xx - yy - zz, m[:, 1, 0] + m[:, 0, 1], m[:, 0, 2] + m[:, 2, 0], m[:, 2, 1] - m[:, 1, 2]], -1),
            np.stack([m[:, 1, 0] + m[:, 0, 1], 1 - xx + yy - zz, m[:, 2, 1] + m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0]], -1),
            np.stack([m[:, 0, 2] + m[:, 2, 0], m[:, 2, 1] + m[:, 1, 2], 1 - xx - yy + zz, m[:, 1, 0] - m[:, 0, 1]], -1),
            np.stack([m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1], 1 + xx + yy + zz], -1),
        ],
        1,
    )
    length = np.linalg.norm(rows, axis=-1)
    best = rows[np.arange(len(m)), length.argmax(1)] / length.max(1)[:, None]
    return best * np.where(best[:, 3:] < 0, -1.0, 1.0)


def _unit(vector: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 1e-9 else fallback
