"""Random hands: joint angles within anatomical limits, bone lengths and thickness. Radians; ratios of the mesh.

Flexion is positive here (turned to the mesh's negative X at the end). Limits follow the usual ranges of motion:
MCP -25..92 degrees, PIP -6..110, DIP -15..75, abduction +-20 that vanishes with flexion; DIP follows PIP.
"""

from __future__ import annotations

import numpy as np

from edge_hands.quantization.data.synthetic.hand_mesh import FOREARM, HandMesh

_FINGER_BASES = (5, 10, 15, 20)
#: Metacarpals of ring and little finger give a little when the fist closes.
_METACARPAL_GIVE = (0.0, 0.0, 0.06, 0.12)


def random_shape(rng: np.random.Generator) -> np.ndarray:
    """Per-joint scale (26, 3): palm, fingers and thumb vary in length and thickness together and apart."""
    size = np.clip(rng.normal(1, 0.07), 0.8, 1.2)
    palm = np.array([rng.normal(1, 0.07), rng.normal(1, 0.08), rng.normal(1, 0.06)])
    thick, long = np.clip(rng.normal(1.06, 0.10), 0.85, 1.35), rng.normal(1, 0.06)
    scale = np.ones((26, 3))
    scale[0] = palm
    for finger, base in enumerate((1, *_FINGER_BASES)):
        finger_long, finger_thick = long * rng.normal(1, 0.03), thick * rng.normal(1, 0.04)
        for k in range(4 if finger == 0 else 5):
            if k == 0 and finger == 0:
                scale[base] = finger_thick, finger_thick, np.clip(rng.normal(0.97, 0.08), 0.75, 1.2)
            elif k == 0:
                scale[base] = palm[0], palm[1], palm[2] * rng.normal(1, 0.025)
            else:
                scale[base + k] = finger_thick, finger_thick * rng.normal(1, 0.03), finger_long * rng.normal(1, 0.035)
    scale[FOREARM] = palm[0], palm[1], 1.0
    return np.clip(scale, 0.7, 1.45) * size


def random_pose(rng: np.random.Generator, mesh: HandMesh, scale: np.ndarray) -> np.ndarray:
    """Euler angles (26, 3) of a pose whose thumb does not run through a finger."""
    angles = np.zeros((26, 3))
    _pose_fingers(rng, angles)
    angles[FOREARM] = rng.normal(0, 0.45), rng.normal(0, 0.2), rng.normal(0, 0.3)
    for _ in range(12):
        _pose_thumb(rng, angles)
        if not _thumb_collides(mesh.kinematics(angles, scale)[:25, :3, 3]):
            break
    return angles


def _pose_fingers(rng: np.random.Generator, angles: np.ndarray) -> None:
    kind = rng.random()
    if kind < 0.35:  # all fingers alike: open hand to fist
        curl = np.clip(rng.normal(rng.uniform(-0.1, 1.5), 0.25, 4), -0.2, 1.6)
    elif kind < 0.75:  # each finger open or closed: signs, counting, pointing
        curl = np.where(rng.random(4) < 0.5, rng.uniform(1.0, 1.6, 4), rng.normal(0.08, 0.15, 4))
    else:
        curl = rng.uniform(-0.2, 1.6, 4)
    spread = rng.normal(0, 0.10)
    for finger, base in enumerate(_FINGER_BASES):
        mcp, pip = curl[finger] * rng.uniform(0.65, 1.1), curl[finger] * rng.uniform(0.75, 1.25)
        shape = rng.random()
        if shape < 0.15:  # hook
            mcp, pip = rng.uniform(-0.2, 0.5), rng.uniform(0.6, 1.7)
        elif shape < 0.27:  # table top
            mcp, pip = rng.uniform(0.5, 1.5), rng.uniform(0, 0.4)
        mcp = np.clip(mcp + rng.normal(0, 0.06), -0.44, 1.6)
        pip = np.clip(pip + rng.normal(0, 0.06), -0.1, 1.92)
        dip = np.clip(pip * rng.uniform(0.4, 0.9) + rng.normal(0, 0.08), -0.26, 1.3)
        room = np.clip(1 - max(mcp, 0) / 1.4, 0.1, 1)
        abduction = np.clip((spread * (1.5 - finger) + rng.normal(0, 0.05)) * room, -0.35, 0.35)
        angles[base] = -_METACARPAL_GIVE[finger] * max(curl[finger], 0) * rng.uniform(0.3, 1.2), 0, 0
        angles[base + 1] = -mcp, -abduction, rng.normal(0, 0.04)
        angles[base + 2, 0] = -pip
        angles[base + 3, 0] = -dip


def _pose_thumb(rng: np.random.Generator, angles: np.ndarray) -> None:
    angles[1] = rng.uniform(-0.95, 0.35), rng.uniform(-0.7, 0.75), rng.normal(0, 0.22)
    angles[2] = -rng.uniform(-0.2, 0.95), rng.normal(0, 0.1), 0
    angles[3, 0] = -rng.uniform(-0.35, 1.35)


def _thumb_collides(joints: np.ndarray, least: float = 0.0135) -> bool:
    """Whether a thumb bone comes nearer than ``least`` metres to a finger bone; joints (25, 3) WebXR."""
    t = np.linspace(0, 1, 5)[:, None]
    thumb = np.concatenate([joints[k] + (joints[k + 1] - joints[k]) * t for k in (2, 3)])
    starts = np.array([b + k for b in _FINGER_BASES for k in (1, 2, 3)])
    fingers = (joints[starts][:, None] + (joints[starts + 1] - joints[starts])[:, None] * t[None]).reshape(-1, 3)
    gap = thumb[:, None] - fingers[None]
    return bool((gap * gap).sum(-1).min() < least * least)
