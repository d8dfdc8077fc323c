"""A hand in a pose, with what it wears and holds, and where a camera sees it from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from edge_hands.quantization.data.synthetic import objects
from edge_hands.quantization.data.synthetic.config import SceneConfig
from edge_hands.quantization.data.synthetic.hand_mesh import FOREARM, HandMesh
from edge_hands.quantization.data.synthetic.pose import GRIP, random_pose, random_shape
from edge_hands.quantization.data.synthetic.renderer import Solid
from edge_hands.quantization.data.synthetic.skin import random_skin


@dataclass(frozen=True)
class Actor:
    """A hand placed in camera space with what it wears and holds; ``joints`` (21, 3), ``wrist`` its axes (3, 3)."""

    solids: tuple[Solid, ...]
    joints: np.ndarray
    wrist: np.ndarray
    side: str = "right"

    def moved(self, turn: np.ndarray, at: np.ndarray | None = None) -> Actor:
        """Turned by an orthogonal ``turn`` about the joints' centre and put ``at``, or about the camera."""
        center, at = (np.zeros(3), np.zeros(3)) if at is None else (self.joints.mean(0), at)
        mirror = np.linalg.det(turn) < 0
        solids = tuple(
            replace(
                solid,
                vertices=(solid.vertices - center) @ turn.T + at,
                normals=solid.normals @ turn.T,
                mirrored=solid.mirrored ^ bool(mirror),
            )
            for solid in self.solids
        )
        side = {"right": "left", "left": "right"}[self.side] if mirror else self.side
        return Actor(solids, (self.joints - center) @ turn.T + at, turn @ self.wrist, side)


def random_actor(rng: np.random.Generator, mesh: HandMesh, config: SceneConfig, bare: bool = False) -> Actor:
    """A right hand in a random pose about the origin of the mesh; ``bare``: it holds and wears nothing."""
    holds = not bare and rng.random() < config.held_object
    scale = random_shape(rng)
    shares = GRIP if holds and rng.random() < 0.75 else config.poses
    angles = random_pose(rng, mesh, scale, shares)
    glove = not bare and rng.random() < config.glove
    sleeve = rng.uniform(0.03, 0.16) if rng.random() < config.sleeve else 9.0
    rest = mesh.arm(sleeve, rng.uniform(1.05, 1.4))
    frames = mesh.kinematics(angles, scale)
    posed = mesh.pose(frames, scale, rest)
    skin = random_skin(rng, sleeve, rng.random() < config.texture, glove)
    material = np.stack([mesh.palm, rest.arm], 1)
    solids = [Solid(posed.vertices, posed.normals, rest.uv, material, mesh.faces, skin)]
    if holds:
        solids.append(objects.held(rng, posed.joints, posed.wrist))
    if not bare and rng.random() < config.ring:
        solids.append(objects.ring(rng, posed.joints, float(scale[7, :2].mean())))
    if not bare and sleeve > 0.06 and rng.random() < config.watch:
        arm, along = frames[FOREARM], rng.uniform(0.028, min(sleeve - 0.015, 0.06))
        size = np.array(mesh.arm_size(along)) * scale[FOREARM, :2]
        solids += objects.watch(rng, arm[:3, 3] + arm[:3, 2] * along, arm[:3, :3], size)
    return Actor(tuple(solids), posed.joints, posed.wrist)


def random_view(rng: np.random.Generator, config: SceneConfig, wrist: np.ndarray) -> np.ndarray:
    """World -> camera rotation: from anywhere, from a side, from the wrist, or near palm or back, fingers up."""
    if rng.random() < config.any_view:
        return Rotation.from_quat(rng.normal(size=4)).as_matrix()
    facing = np.array([[-1, 0, 0], [0, 0, 1.0], [0, 1, 0]]) @ wrist.T
    back = np.diag([-1, 1, -1]) @ facing
    kind, turns = rng.random(), rng.normal(0, 1, 2) * config.view_spread
    if kind < config.side_view:
        turns = np.array([rng.choice((-1, 1)) * np.pi / 2 + rng.normal(0, 0.35), rng.normal(0, 0.5)])
    elif kind < config.side_view + config.ego_view:
        facing, turns = back, np.array([rng.normal(0, 0.5), rng.normal(-0.9, 0.35)])
    elif rng.random() < config.back_view:
        facing = back
    return Rotation.from_euler("yx", turns).as_matrix() @ facing
