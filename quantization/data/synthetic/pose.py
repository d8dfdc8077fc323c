"""Random hands: joint angles within anatomical limits, bone lengths and thickness. Radians; ratios of the mesh.

Flexion is positive here (turned to the mesh's negative X at the end). Limits follow the usual ranges of motion:
MCP -25..92 degrees, PIP -6..110, DIP -15..75, abduction +-20 that vanishes with flexion; DIP follows PIP.
Fingers bend together or apart by *family*; the thumb either rests, opposes or touches a fingertip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_hands.quantization.data.synthetic.hand_mesh import FOREARM, HandMesh

_FINGER_BASES = (5, 10, 15, 20)
#: Metacarpals of ring and little finger give a little when the fist closes.
_METACARPAL_GIVE = (0.0, 0.0, 0.06, 0.12)
#: Distance between the tip joints of two fingertips that touch, metres.
_TOUCH = 0.011
_THUMBS = 48  # candidates of which one is chosen
#: Range of the thumb's root about x, y and z.
_THUMB_LOW, _THUMB_HIGH = np.array([-0.95, -0.75, -0.4]), np.array([0.35, 0.75, 0.4])


@dataclass(frozen=True)
class PoseShares:
    """How often each family of finger poses is drawn; what is left of 1 is four fingers drawn independently."""

    together: float = 0.22  # open hand to fist, all fingers alike
    signs: float = 0.22  # each finger open or closed: counting, pointing
    hooked: float = 0.12  # straight knuckles, strongly bent middle joints: claws, hooks
    fist: float = 0.10
    pinch: float = 0.20  # a fingertip meets the thumb
    grip: float = 0.0  # round something (held objects ask for it)


GRIP = PoseShares(0.08, 0, 0.07, 0, 0.15, 0.7)


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


def random_pose(
    rng: np.random.Generator, mesh: HandMesh, scale: np.ndarray, shares: PoseShares | None = None
) -> np.ndarray:
    """Euler angles (26, 3) of a pose whose thumb does not run through a finger."""
    angles = np.zeros((26, 3))
    touched = _pose_fingers(rng, angles, shares or PoseShares())
    angles[FOREARM] = rng.normal(0, 0.45), rng.normal(0, 0.2), rng.normal(0, 0.3)
    _pose_thumb(rng, angles, mesh, scale, touched)
    return angles


def _pose_fingers(rng: np.random.Generator, angles: np.ndarray, shares: PoseShares) -> int | None:
    """Sets the fingers' angles; returns the finger (0 index .. 3 little) that the thumb is to touch, if any."""
    edges = np.cumsum([shares.together, shares.signs, shares.hooked, shares.fist, shares.pinch, shares.grip])
    family = int(np.searchsorted(edges, rng.random(), side="right"))
    together = rng.normal(rng.uniform(-0.1, 1.5), 0.2) + np.cumsum(rng.normal(0, 0.12, 4))
    closed = rng.random(4) < 0.5
    touched = None
    if family == 0:
        curl = np.clip(together, -0.2, 1.6)
    elif family == 1:
        curl = np.where(closed, rng.uniform(1.0, 1.6, 4), rng.normal(0.08, 0.15, 4))
    elif family == 2:
        curl = np.where(rng.random(4) < 0.8, np.clip(together, 0.3, 1.5), rng.normal(0.08, 0.15, 4))
    elif family == 3:
        curl = rng.uniform(1.2, 1.6) + rng.normal(0, 0.1, 4)
    elif family == 4:
        touched = int(rng.choice(4, p=(0.45, 0.25, 0.17, 0.13)))
        at = rng.uniform(0.65, 1.15) + 0.08 * touched
        straight, alike = rng.normal(0.08, 0.15, 4), at + rng.normal(0, 0.12, 4)
        curl = np.where(closed, 1.4, straight) if rng.random() < 0.3 else straight if rng.random() < 0.5 else alike
        curl[touched] = at
    elif family == 5:
        curl = rng.uniform(0.4, 1.15) + np.cumsum(rng.normal(0, 0.06, 4))
    else:
        curl = rng.uniform(-0.2, 1.6, 4)
    spread, hooked, table = rng.normal(0, 0.11), rng.random(4) < 0.15, rng.random(4) < 0.12
    for finger, base in enumerate(_FINGER_BASES):
        mcp, pip = curl[finger] * rng.uniform(0.65, 1.1), curl[finger] * rng.uniform(0.75, 1.25)
        if (family == 2 and curl[finger] > 0.3) or (family in (1, 6) and hooked[finger]):
            mcp, pip = rng.uniform(-0.3, 0.5), rng.uniform(0.7, 1.85)
        elif family in (0, 6) and table[finger]:  # table top: bent at the knuckles only
            mcp, pip = rng.uniform(0.5, 1.5), rng.uniform(0, 0.4)
        elif family == 3:
            mcp, pip = curl[finger] * rng.uniform(0.85, 1.0), rng.uniform(1.45, 1.9)
        elif finger == touched:
            mcp, pip = curl[finger] * rng.uniform(0.7, 1.2), curl[finger] * rng.uniform(0.6, 1.3)
        mcp = np.clip(mcp + rng.normal(0, 0.06), -0.44, 1.6)
        pip = np.clip(pip + rng.normal(0, 0.06), -0.1, 1.92)
        dip = np.clip(pip * rng.uniform(0.4, 0.9) + rng.normal(0, 0.08), -0.26, 1.3)
        room = np.clip(1 - max(mcp, 0) / 1.4, 0.1, 1)
        abduction = np.clip((spread * (1.5 - finger) + rng.normal(0, 0.05)) * room, -0.35, 0.35)
        angles[base] = -_METACARPAL_GIVE[finger] * max(curl[finger], 0) * rng.uniform(0.3, 1.2), 0, 0
        angles[base + 1] = -mcp, -abduction, rng.normal(0, 0.04)
        angles[base + 2, 0] = -pip
        angles[base + 3, 0] = -dip
    return touched


def _pose_thumb(
    rng: np.random.Generator, angles: np.ndarray, mesh: HandMesh, scale: np.ndarray, touched: int | None
) -> None:
    """Chooses among random thumbs the one that touches the finger's tip, or the first that runs through none."""
    frames = mesh.kinematics(angles, scale)
    drawn = np.zeros((_THUMBS, 3, 3))
    drawn[:, 0] = rng.uniform((-0.95, -0.7, 0), (0.35, 0.75, 0), (_THUMBS, 3))
    drawn[:, 0, 2] = rng.normal(0, 0.22, _THUMBS)
    drawn[:, 1, :2] = np.c_[-rng.uniform(-0.2, 0.95, _THUMBS), rng.normal(0, 0.1, _THUMBS)]
    drawn[:, 2, 0] = -rng.uniform(-0.35, 1.35, _THUMBS)
    if touched is None:
        gap = _gaps(mesh.thumbs(frames[0], drawn, scale), frames[:25, :3, 3])
        free = np.flatnonzero(gap > 0.0135)
        angles[1:4] = drawn[free[0] if len(free) else gap.argmax()]
        return
    for spread in (0.18, 0.07, 0.0):  # the best, the best near it, and once more
        thumb = mesh.thumbs(frames[0], drawn, scale)
        reach = np.linalg.norm(thumb[:, 3] - frames[_FINGER_BASES[touched] + 4, :3, 3], axis=1)
        through = np.maximum(0.010 - _gaps(thumb, frames[:25, :3, 3]), 0)
        best = drawn[(np.abs(reach - _TOUCH) + 2 * through).argmin()]
        moved = rng.normal(0, 1, drawn.shape) * spread * (best != 0)
        moved[0] = 0
        drawn = best + moved
        drawn[:, 0] = np.clip(drawn[:, 0], _THUMB_LOW, _THUMB_HIGH)
        drawn[:, 1, 0] = np.clip(drawn[:, 1, 0], -0.95, 0.2)
        drawn[:, 2, 0] = np.clip(drawn[:, 2, 0], -1.35, 0.35)
    angles[1:4] = best


def _gaps(thumb: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Least distance (N,) between the two outer bones of thumbs (N, 4, 3) and the bones of the fingers (25, 3)."""
    t = np.linspace(0, 1, 5, dtype=np.float32)[:, None]
    outer = np.concatenate([thumb[:, None, k] + (thumb[:, None, k + 1] - thumb[:, None, k]) * t for k in (1, 2)], 1)
    starts = np.array([b + k for b in _FINGER_BASES for k in (1, 2, 3)])
    fingers = (joints[starts][:, None] + (joints[starts + 1] - joints[starts])[:, None] * t[None]).reshape(-1, 3)
    outer, fingers = outer.reshape(-1, 3).astype(np.float32), fingers.astype(np.float32)
    square = (outer * outer).sum(1)[:, None] + (fingers * fingers).sum(1) - 2 * outer @ fingers.T
    return np.sqrt(np.maximum(square.reshape(len(thumb), -1).min(1), 0))
