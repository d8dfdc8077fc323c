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
from edge_hands.quantization.data.synthetic import skin as skin_maps

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
#: Where data sets have the wrist and the thumb's base, in metres in the mesh's wrist frame from its own joints, and
#: their other four finger bases, in parts of the first phalanx nearer the tip: distances within the palm and along the
#: fingers of 9 hands of RHD and InterHand2.6M (``tests/benchmarks/test_layouts.py``).
_WRIST_OFFSET, _THUMB_OFFSET = np.array([-0.001, -0.002, -0.011]), np.array([0.001, 0.002, 0.003])
_FINGER_BASE = 0.16
#: Forearm radii (half width, half thickness) over the distance from the wrist, metres.
_ARM_Z = np.array([0.0, 0.02, 0.08, 0.30])
_ARM_HALF_WIDTH = np.array([0.022, 0.0265, 0.029, 0.044])
_ARM_HALF_THICKNESS = np.array([0.0155, 0.0185, 0.022, 0.038])
_ARM_RINGS, _ARM_START = 14, 0.026
_LID_UV = (0.3, 0.22)  # the island of the texture that closes the wrist


@dataclass(frozen=True)
class PosedHand:
    """A right hand: ``vertices``, ``normals`` (V, 3), ``joints`` (21, 3) in order T, ``wrist`` (3, 3) its axes."""

    vertices: np.ndarray
    normals: np.ndarray
    joints: np.ndarray
    wrist: np.ndarray


@dataclass(frozen=True)
class RestHand:
    """A right hand at rest: ``vertices``, ``normals`` (V, 3); ``uv`` (V, 2), of the arm from u = 2 on; ``arm`` (V,)
    metres from the wrist towards the elbow; ``skin`` (V, 26) weights of the joints."""

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    arm: np.ndarray
    skin: np.ndarray


class HandMesh:
    """Rest mesh of a right hand with forearm: ``faces`` (F, 3), outside counter-clockwise; ``palm`` (V,) 1 on the
    palm, -1 on the back; ``texels`` the rest geometry over the texture."""

    def __init__(self, assets: Path):
        path = assets / "@webxr-input-profiles/assets/dist/profiles/generic-hand/right.glb"
        if not path.is_file():
            raise DataError(f"Hand mesh {path} not found. Run `make assets` (npm) or pass --assets.")
        vertices, normals, uv, faces, skin, bind, inverse_bind = _read_glb(path)
        self._bind = bind
        self._inverse_bind = np.concatenate([inverse_bind, inverse_bind[:1]])
        self._local = np.stack([b if p < 0 else np.linalg.inv(bind[p]) @ b for b, p in zip(bind, _PARENTS[:25])])
        axes, origin = bind[0, :3, :3], bind[0, :3, 3]
        local = (vertices - origin) @ axes
        # Skin behind the wrist follows the forearm, blended over 23 mm.
        blend = np.clip((local[:, 2] + 0.008) / 0.023, 0, 1)
        blend = blend * blend * (3 - 2 * blend)
        skin = np.c_[skin, skin[:, 0] * blend]
        skin[:, 0] *= 1 - blend
        lid = (uv < _LID_UV).all(1)  # the flat face that closes the wrist gives way to the forearm
        faces = faces[~lid[faces].all(1)]
        loop = _loop(vertices, faces, local)
        loop = np.r_[loop, loop[0]]  # a seam, for the texture
        self._loop, self._loop_normals = local[loop], normals[loop] @ axes
        self._skin, self._arm_weights = skin.astype(np.float32), skin[loop]
        columns = len(loop)
        tube = _tube_faces(_ARM_RINGS, columns) + len(vertices)
        end = len(vertices) + _ARM_RINGS * columns
        cap = [(end, end - columns + k, end - columns + k + 1) for k in range(columns - 1)]
        self.faces = np.r_[faces, tube, cap].astype(np.int32)
        self._vertices, self._normals, self._hand_arm = vertices, normals, local[:, 2]
        arm_vertices = _ARM_RINGS * columns + 1
        self._uv = uv
        self.palm = np.r_[-normals @ axes[:, 1], np.tile(-self._loop_normals[:, 1], _ARM_RINGS), 0.0]
        assert len(self.palm) == len(vertices) + arm_vertices
        self.texels = skin_maps.texels(uv, faces, vertices, normals)

    def atlases(self) -> list[np.ndarray]:
        """Maps (S, S, 4) uint8 of creases, veins, nails and flushes, one a person (see ``skin``)."""
        return skin_maps.atlases(self.texels, self._bind, _TIP_EXTENSION)

    def arm(self, sleeve: float, widen: float) -> RestHand:
        """The rest hand with a sleeve from ``sleeve`` metres on, ``widen`` times as thick as the arm."""
        edge = np.clip(sleeve, _ARM_START + 0.002, 0.29)
        z = np.sort(np.r_[np.linspace(_ARM_START, 0.30, _ARM_RINGS - 3), edge, edge + 0.001])
        grow = np.where(z > sleeve, widen, 1.0)[:, None]
        rx, ry = np.interp(z, _ARM_Z, _ARM_HALF_WIDTH)[:, None], np.interp(z, _ARM_Z, _ARM_HALF_THICKNESS)[:, None]
        # From the hand's own outline to an ellipse.
        turn = np.arctan2(self._loop[:, 1] / 1.06, self._loop[:, 0])
        w = np.clip((z - _ARM_START) / 0.05, 0, 1)[:, None]
        w = w * w * (3 - 2 * w)
        x = (self._loop[:, 0] * (1 - w) + (0.001 + rx * np.cos(turn)) * w) * grow
        y = (self._loop[:, 1] * (1 - w) + ry * np.sin(turn) * w) * grow
        tube = np.stack([x, y, np.broadcast_to(z[:, None], x.shape)], -1)
        tube = np.concatenate([self._loop[None], tube])
        radial = np.stack([np.cos(turn) / rx, np.sin(turn) / ry, np.zeros_like(x)], -1)
        radial /= np.linalg.norm(radial, axis=-1, keepdims=True)
        normals = self._loop_normals * (1 - w[..., None]) + radial * w[..., None]
        normals = np.concatenate([self._loop_normals[None], normals])
        weights = self._arm_weights * (1 - w[..., None]) + np.eye(26)[FOREARM] * w[..., None]
        weights = np.concatenate([self._arm_weights[None], weights])
        around = np.arange(x.shape[1]) / (x.shape[1] - 1)
        uv = np.stack([np.broadcast_to(2 + 0.5 * around, tube.shape[:2]), tube[..., 2] * 2.5], -1)
        tail = tube[-1].mean(0)
        axes, origin = self._bind[0, :3, :3], self._bind[0, :3, 3]
        return RestHand(
            np.r_[self._vertices, np.r_[tube.reshape(-1, 3), tail[None]] @ axes.T + origin],
            np.r_[self._normals, np.r_[normals.reshape(-1, 3), [[0, 0, 1.0]]] @ axes.T],
            np.r_[self._uv, uv.reshape(-1, 2), uv[-1, :1]],
            np.r_[self._hand_arm, tube[..., 2].ravel(), tail[2]],
            np.r_[self._skin, weights.reshape(-1, 26), np.eye(26)[FOREARM:]].astype(np.float32),
        )

    @staticmethod
    def arm_size(along: float) -> tuple[float, float]:
        """Half width and half thickness ``along`` metres from the wrist."""
        return float(np.interp(along, _ARM_Z, _ARM_HALF_WIDTH)), float(np.interp(along, _ARM_Z, _ARM_HALF_THICKNESS))

    def thumbs(self, palm: np.ndarray, angles: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Thumb joints (N, 4, 3), base to tip, for ``angles`` (N, 3, 3) of its joints and the wrist's frame (4, 4)."""
        turns = Rotation.from_euler("xyz", angles.reshape(-1, 3)).as_matrix().reshape(*angles.shape[:2], 3, 3)
        frame, points = np.broadcast_to(palm, (len(angles), 4, 4)), []
        for k in range(4):
            local = self._local[k + 1].copy()
            local[:3, 3] *= scale[k]
            frame = frame @ local
            points.append(frame[:, :3, 3])
            if k < 3:
                frame = frame.copy()
                frame[:, :3, :3] = frame[:, :3, :3] @ turns[:, k]
        return np.stack(points, 1)

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

    def pose(self, frames: np.ndarray, scale: np.ndarray, rest: RestHand) -> PosedHand:
        """Linear blend skinning of ``rest`` by joint ``frames`` (26, 4, 4) and ``scale`` (26, 3)."""
        stretch = np.zeros((26, 4, 4))
        stretch[:, [0, 1, 2], [0, 1, 2]] = scale
        stretch[:, 3, 3] = 1
        transforms = (frames @ stretch @ self._inverse_bind).reshape(26, 16).astype(np.float32)
        blended = (rest.skin @ transforms).reshape(-1, 4, 4)
        vertices = np.einsum("nij,nj->ni", blended[:, :3, :3], rest.vertices.astype(np.float32)) + blended[:, :3, 3]
        turned = np.einsum("nij,nj->ni", blended[:, :3, :3], rest.normals.astype(np.float32))
        return PosedHand(vertices, turned, self._joints(frames, scale), frames[0, :3, :3])

    @staticmethod
    def _joints(frames: np.ndarray, scale: np.ndarray) -> np.ndarray:
        joints = frames[:25, :3, 3].copy()
        joints[0] += frames[0, :3, :3] @ (_WRIST_OFFSET * scale[0])
        joints[1] += frames[0, :3, :3] @ (_THUMB_OFFSET * scale[0])
        for base in (6, 11, 16, 21):
            joints[base] += _FINGER_BASE * (joints[base + 1] - joints[base])
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
    uv = _accessor(gltf, attributes.TEXCOORD_0).astype(np.float64)
    return vertices, normals, uv, faces, weights, bind, inverse_bind


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


def _loop(vertices: np.ndarray, faces: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Vertices round the open wrist, by angle in the wrist frame."""
    _, same = np.unique(vertices.round(6), axis=0, return_inverse=True)
    same = same.ravel()
    edges = np.sort(np.concatenate([same[faces[:, [0, 1]]], same[faces[:, [1, 2]]], same[faces[:, [2, 0]]]]), axis=1)
    edges, count = np.unique(edges, axis=0, return_counts=True)
    rim = np.unique(edges[count == 1])
    used = np.unique(faces)
    loop = np.array([used[np.flatnonzero(same[used] == r)[0]] for r in rim])
    return loop[np.argsort(np.arctan2(local[loop, 1], local[loop, 0]))]


def _tube_faces(rings: int, columns: int) -> np.ndarray:
    """Triangles (F, 3) between rings of ``columns`` vertices of which the last repeats the first."""
    quads = []
    for ring in range(rings - 1):
        for k in range(columns - 1):
            a, b = ring * columns + k, ring * columns + k + 1
            quads += [(a, b, a + columns), (b, b + columns, a + columns)]
    return np.array(quads)
