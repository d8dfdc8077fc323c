"""The generic WebXR hand as a posable mesh: loading, forward kinematics, skinning, joints in order T.

The mesh (MIT, npm package ``@webxr-input-profiles/assets``) is one skinned surface with 25 WebXR joints whose
local -Z runs along the bone; flexion is a negative turn about local X. A forearm (a tube) hangs on a 26th
joint at the wrist, because a hand without an arm is a picture that no camera takes. Units are metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from edge_hands.errors import DataError

_PHALANGES = ("metacarpal", "phalanx-proximal", "phalanx-intermediate", "phalanx-distal", "tip")
WEBXR_JOINTS: tuple[str, ...] = (
    "wrist",
    *(f"thumb-{p}" for p in _PHALANGES if p != "phalanx-intermediate"),
    *(f"{f}-finger-{p}" for f in ("index", "middle", "ring", "pinky") for p in _PHALANGES),
)
FOREARM = len(WEBXR_JOINTS)  # index of the extra joint
_PARENTS = np.array([-1, 0, 1, 2, 3, *(p for k in range(4) for p in (0, *range(5 + 5 * k, 9 + 5 * k))), -1])
#: WebXR index of every T joint: the fingers' metacarpal bases are not in T.
_T_JOINTS = np.array([0, 1, 2, 3, 4, *(5 * f + k for f in range(1, 5) for k in (1, 2, 3, 4))])
#: WebXR tips lie inside the finger; data sets mark the end of the skin (metres along the bone).
_TIP_EXTENSION = {4: 0.0099, 9: 0.0111, 14: 0.0126, 19: 0.0116, 24: 0.0096}
#: The data sets' wrist in the mesh's wrist frame, chosen so that wrist -> thumb base is theirs (32.6 mm, not 49.5).
_WRIST_OFFSET = np.array([-0.009, -0.006, -0.013])
#: Forearm radii (half width, half thickness) over the distance from the wrist, metres.
_ARM_Z = np.array([0.0, 0.02, 0.08, 0.30])
_ARM_HALF_WIDTH = np.array([0.022, 0.0265, 0.029, 0.044])
_ARM_HALF_THICKNESS = np.array([0.0155, 0.0185, 0.022, 0.038])
_ARM_RINGS, _ARM_SEGMENTS = 14, 18


@dataclass(frozen=True)
class PosedHand:
    """A right hand: ``vertices``, ``normals`` (V, 3), ``joints`` (21, 3) in order T, ``wrist`` (3, 3) its axes."""

    vertices: np.ndarray
    normals: np.ndarray
    joints: np.ndarray
    wrist: np.ndarray


class HandMesh:
    """Rest mesh of a right hand with forearm.

    ``faces`` (F, 3); ``rest`` (V, 3) rest positions (the skin's texture space); ``palm`` (V,) 1 on the palm,
    -1 on the back; ``nail`` (V,) 1 on nails; ``arm`` (V,) metres from the wrist towards the elbow.
    """

    def __init__(self, assets: Path):
        path = assets / "@webxr-input-profiles/assets/dist/profiles/generic-hand/right.glb"
        if not path.is_file():
            raise DataError(f"Hand mesh {path} not found. Run `make assets` (npm) or pass --assets.")
        vertices, normals, faces, skin, bind, inverse_bind = _read_glb(path)
        self._bind = bind
        self._inverse_bind = np.concatenate([inverse_bind, inverse_bind[:1]])
        self._local = np.stack([b if p < 0 else np.linalg.inv(bind[p]) @ b for b, p in zip(bind, _PARENTS[:25])])
        local = (vertices - bind[0, :3, 3]) @ bind[0, :3, :3]
        # Skin behind the wrist follows the forearm, blended over 23 mm.
        blend = np.clip((local[:, 2] + 0.008) / 0.023, 0, 1)
        blend = blend * blend * (3 - 2 * blend)
        skin = np.c_[skin, skin[:, 0] * blend]
        skin[:, 0] *= 1 - blend
        self._arm_ring = np.array(
            [(np.cos(a), np.sin(a)) for a in np.arange(_ARM_SEGMENTS) / _ARM_SEGMENTS * 2 * np.pi]
        )
        arm_vertices = _ARM_RINGS * _ARM_SEGMENTS
        self._skin = np.r_[skin, np.tile(np.eye(26)[FOREARM], (arm_vertices, 1))].astype(np.float32)
        self.faces = np.r_[faces, _tube_faces(_ARM_RINGS, _ARM_SEGMENTS) + len(vertices)].astype(np.int32)
        self._vertices, self._normals = vertices, normals
        self._hand_arm = local[:, 2]
        wrist_normals = normals @ bind[0, :3, :3]
        self.palm = np.r_[-wrist_normals[:, 1], np.zeros(arm_vertices)]
        self.nail = np.r_[self._nails(vertices, normals), np.zeros(arm_vertices)]

    def _nails(self, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
        nail = np.zeros(len(vertices))
        for tip in _TIP_EXTENSION:
            frame = self._bind[tip]
            p, n = (vertices - frame[:3, 3]) @ frame[:3, :3], normals @ frame[:3, :3]
            on = (np.abs(p[:, 0]) < 0.0065) & (p[:, 2] > -0.009) & (p[:, 2] < 0.004)
            nail[on & (n[:, 1] > 0.45) & (np.abs(p[:, 1]) < 0.012)] = 1
        return nail

    def arm(self, sleeve: float, widen: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rest vertices and normals (V, 3) and distance to the wrist (V,) with a sleeve from ``sleeve`` metres on."""
        edge = min(sleeve, 0.29)
        z = np.sort(np.r_[np.linspace(0.004, 0.30, _ARM_RINGS - 2), edge, edge + 0.001])
        grow = np.where(z > sleeve, widen, 1.0)
        rx, ry = np.interp(z, _ARM_Z, _ARM_HALF_WIDTH) * grow, np.interp(z, _ARM_Z, _ARM_HALF_THICKNESS) * grow
        ring = self._arm_ring
        tube = np.stack(
            [
                0.001 + rx[:, None] * ring[:, 0],
                ry[:, None] * ring[:, 1],
                np.broadcast_to(z[:, None], (len(z), len(ring))),
            ],
            axis=-1,
        ).reshape(-1, 3)
        normals = np.tile(np.c_[ring, np.zeros(len(ring))], (len(z), 1))
        axes, origin = self._bind[0, :3, :3], self._bind[0, :3, 3]
        return (
            np.r_[self._vertices, tube @ axes.T + origin],
            np.r_[self._normals, normals @ axes.T],
            np.r_[self._hand_arm, tube[:, 2]],
        )

    def kinematics(self, angles: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Global joint frames (26, 4, 4) for Euler ``angles`` (26, 3) xyz and per-joint ``scale`` (26, 3)."""
        turns = Rotation.from_euler("xyz", angles).as_matrix()
        frames = np.zeros((26, 4, 4))
        for j, parent in enumerate(_PARENTS[:25]):
            local = self._local[j].copy()
            local[:3, :3] = local[:3, :3] @ turns[j]
            if parent < 0:
                frames[j] = local
            else:
                local[:3, 3] *= scale[parent]
                frames[j] = frames[parent] @ local
        frames[FOREARM] = frames[0]
        frames[FOREARM, :3, :3] = frames[0, :3, :3] @ turns[FOREARM]
        return frames

    def pose(self, frames: np.ndarray, scale: np.ndarray, rest: np.ndarray, normals: np.ndarray) -> PosedHand:
        """Linear blend skinning of ``rest``/``normals`` (V, 3) by joint ``frames`` (26, 4, 4) and ``scale`` (26, 3)."""
        stretch = np.zeros((26, 4, 4))
        stretch[:, [0, 1, 2], [0, 1, 2]] = scale
        stretch[:, 3, 3] = 1
        transforms = (frames @ stretch @ self._inverse_bind).reshape(26, 16).astype(np.float32)
        blended = (self._skin @ transforms).reshape(-1, 4, 4)
        vertices = np.einsum("nij,nj->ni", blended[:, :3, :3], rest.astype(np.float32)) + blended[:, :3, 3]
        turned = np.einsum("nij,nj->ni", blended[:, :3, :3], normals.astype(np.float32))
        return PosedHand(vertices, turned, self._joints(frames, scale), frames[0, :3, :3])

    @staticmethod
    def _joints(frames: np.ndarray, scale: np.ndarray) -> np.ndarray:
        joints = frames[:25, :3, 3].copy()
        joints[0] += frames[0, :3, :3] @ (_WRIST_OFFSET * scale[0])
        for tip, extension in _TIP_EXTENSION.items():
            joints[tip] -= frames[tip, :3, 2] * extension * scale[tip, 2]
        return joints[_T_JOINTS]


def _read_glb(path: Path) -> tuple[np.ndarray, ...]:
    import pygltflib

    gltf = pygltflib.GLTF2().load(str(path))
    primitive = gltf.meshes[0].primitives[0]
    attributes, skin = primitive.attributes, gltf.skins[0]
    vertices = _accessor(gltf, attributes.POSITION).astype(np.float64)
    normals = _accessor(gltf, attributes.NORMAL).astype(np.float64)
    faces = _accessor(gltf, primitive.indices).reshape(-1, 3)
    # The file's joint order is its own: go by name.
    order = np.array([WEBXR_JOINTS.index(gltf.nodes[j].name) for j in skin.joints])
    index, weight = _accessor(gltf, attributes.JOINTS_0), _accessor(gltf, attributes.WEIGHTS_0)
    weights = np.zeros((len(vertices), 25))
    for k in range(4):
        np.add.at(weights, (np.arange(len(vertices)), order[index[:, k]]), weight[:, k])
    bind, inverse_bind = np.tile(np.eye(4), (25, 1, 1)), np.zeros((25, 4, 4))
    matrices = _accessor(gltf, skin.inverseBindMatrices).reshape(-1, 4, 4).transpose(0, 2, 1)
    for slot, node in enumerate(skin.joints):
        joint = gltf.nodes[node]
        bind[order[slot], :3, :3] = Rotation.from_quat(joint.rotation).as_matrix()
        bind[order[slot], :3, 3] = joint.translation
        inverse_bind[order[slot]] = matrices[slot]
    return vertices, normals, faces, weights, bind, inverse_bind


_COMPONENT = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def _accessor(gltf, index: int) -> np.ndarray:
    accessor = gltf.accessors[index]
    view = gltf.bufferViews[accessor.bufferView]
    dtype, width = np.dtype(_COMPONENT[accessor.componentType]), _WIDTH[accessor.type]
    start = (view.byteOffset or 0) + (accessor.byteOffset or 0)
    stride = view.byteStride or dtype.itemsize * width
    raw = np.frombuffer(gltf.binary_blob(), np.uint8)[
        start : start + stride * (accessor.count - 1) + dtype.itemsize * width
    ]
    rows = np.lib.stride_tricks.as_strided(raw, (accessor.count, dtype.itemsize * width), (stride, 1))
    return np.ascontiguousarray(rows).view(dtype)


def _tube_faces(rings: int, segments: int) -> np.ndarray:
    quads = []
    for ring in range(rings - 1):
        for k in range(segments):
            a, b = ring * segments + k, ring * segments + (k + 1) % segments
            quads += [(a, b, a + segments), (b, b + segments, a + segments)]
    return np.array(quads)
