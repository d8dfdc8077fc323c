"""Simple solid things near a hand: boxes, cylinders, balls, pens and phones in the grip, rings and watches."""

from __future__ import annotations

import functools

import numpy as np

from edge_hands.quantization.data.synthetic.renderer import Paint, Solid
from edge_hands.quantization.data.synthetic.skin import skin_color

#: Vertices, normals (V, 3), uv (V, 2) and faces (F, 3) of a unit shape.
Shape = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@functools.cache
def box() -> Shape:
    """Cube of side 2 about the origin."""
    vertices, normals, uv, faces = [], [], [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            first = len(vertices)
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
                point = np.zeros(3)
                point[axis], point[(axis + 1) % 3], point[(axis + 2) % 3] = sign, a * sign, b
                vertices.append(point)
                normals.append(np.eye(3)[axis] * sign)
                uv.append((a * 0.5, b * 0.5))
            faces += [(first, first + 1, first + 2), (first, first + 2, first + 3)]
    return _shape(vertices, normals, uv, faces)


@functools.cache
def cylinder(segments: int = 20) -> Shape:
    """Radius 1 about z from -1 to 1, closed."""
    turn = np.arange(segments + 1) / segments * 2 * np.pi
    ring = np.stack([np.cos(turn), np.sin(turn)], 1)
    vertices = [np.c_[ring, np.full(len(ring), z)] for z in (-1.0, 1.0)] * 2
    radial, up = np.c_[ring, np.zeros(len(ring))], np.tile([0, 0, 1.0], (len(ring), 1))
    normals = [radial, radial, -up, up]
    wrap = np.arange(segments + 1) / segments
    uv = [np.c_[wrap, np.zeros_like(wrap)], np.c_[wrap, np.ones_like(wrap)], ring * 0.3, ring * 0.3]
    n, faces = segments + 1, []
    for k in range(segments):
        faces += [(k, k + 1, n + k), (k + 1, n + k + 1, n + k)]
        faces += [(2 * n, 2 * n + k + 1, 2 * n + k), (3 * n, 3 * n + k, 3 * n + k + 1)]
    return _shape(np.concatenate(vertices), np.concatenate(normals), np.concatenate(uv), faces)


@functools.cache
def ball(rings: int = 12, segments: int = 18) -> Shape:
    """Unit sphere."""
    theta, phi = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, segments + 1), indexing="ij")
    points = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1).reshape(-1, 3)
    uv = np.stack([phi / (2 * np.pi), theta / np.pi], -1).reshape(-1, 2)
    return _shape(points, points, uv, _grid_faces(rings, segments))


@functools.cache
def torus(thin: float = 0.16, segments: int = 22, around: int = 8) -> Shape:
    """Ring of radius 1 about z; ``thin`` is the radius of its section."""
    phi, theta = np.meshgrid(
        np.linspace(0, 2 * np.pi, segments + 1), np.linspace(0, 2 * np.pi, around + 1), indexing="ij"
    )
    normal = np.stack([np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), np.sin(theta)], -1)
    center = np.stack([np.cos(phi), np.sin(phi), np.zeros_like(phi)], -1)
    uv = np.stack([phi / (2 * np.pi), theta / (2 * np.pi)], -1).reshape(-1, 2)
    points = (center + thin * normal).reshape(-1, 3)
    return _shape(points, normal.reshape(-1, 3), uv, _grid_faces(segments, around))


def _grid_faces(rows: int, columns: int) -> list[tuple[int, int, int]]:
    faces = []
    for r in range(rows):
        for c in range(columns):
            a = r * (columns + 1) + c
            b = a + columns + 1
            faces += [(a, b, a + 1), (a + 1, b, b + 1)]
    return faces


def _shape(vertices, normals, uv, faces) -> Shape:
    vertices, normals, uv = (np.asarray(a, float) for a in (vertices, normals, uv))
    faces = np.asarray(faces, np.int32)
    corners = vertices[faces]
    face_normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    turned = (face_normal * normals[faces].mean(1)).sum(1) < 0
    faces[turned] = faces[turned][:, ::-1]
    faces = faces[np.linalg.norm(face_normal, axis=1) > 1e-9]
    return vertices, normals, uv, np.ascontiguousarray(faces)


def place(shape: Shape, axes: np.ndarray, size: np.ndarray, at: np.ndarray, paint: Paint) -> Solid:
    """``shape`` stretched by ``size`` (3,) along ``axes`` (3, 3) columns, a right-handed frame, and put at ``at``."""
    vertices, normals, uv, faces = shape
    turned = (normals / size) @ axes.T
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    return Solid((vertices * size) @ axes.T + at, turned, uv, np.zeros_like(uv), faces, paint)


def random_paint(rng: np.random.Generator, metal: bool = False) -> Paint:
    """Any colours, plain or striped, matt or glossy; ``metal``: of rings and watches."""
    if metal:
        base = np.array([(0.75, 0.6, 0.25), (0.6, 0.6, 0.62), (0.05, 0.05, 0.05), (0.5, 0.25, 0.15)][rng.integers(4)])
        colors, gloss = np.stack([base, base]), np.array([rng.uniform(0.2, 0.9), rng.uniform(15, 60), 0.1])
    else:
        colors = rng.uniform(0, 1, (2, 3)) ** 1.8
        if rng.random() < 0.4:
            colors[:] = colors.mean(1, keepdims=True) * rng.uniform(0.2, 1.2)
        gloss = np.array([rng.uniform(0, 0.6) * rng.random(), rng.uniform(5, 60), rng.uniform(0, 0.5)])
    weave = np.array([*(rng.normal(size=2) * rng.uniform(6, 40) * (rng.random() < 0.45)), *rng.uniform(0, 1.5, 2)])
    return Paint(colors, weave, gloss)


def held(rng: np.random.Generator, joints: np.ndarray, wrist: np.ndarray) -> Solid:
    """A thing in or near the grip of a hand with T joints (21, 3) and ``wrist`` axes (3, 3) columns.

    The wrist's -y comes out of the palm, its x points to the little finger, -z to the fingers.
    """
    paint = random_paint(rng)
    palm = joints[[0, 5, 9, 13, 17]].mean(0) * 0.4 + joints[[5, 9, 13, 17]].mean(0) * 0.6
    out, across, along = -wrist[:, 1], wrist[:, 0], -wrist[:, 2]
    kind = rng.random()
    if kind < 0.3:  # a bar, tube, bottle or handle through the fist
        radius = rng.uniform(0.008, 0.035)
        shape, size = cylinder(), np.array([radius, radius, rng.uniform(0.05, 0.16)])
        at = palm + out * (0.014 + radius) + along * rng.uniform(-0.01, 0.025)
        axis = across + rng.normal(0, 0.25, 3)
        at = at + across * rng.normal(0, 0.02)
    elif kind < 0.5:  # a pen between thumb and index
        radius = rng.uniform(0.003, 0.007)
        shape, size = cylinder(), np.array([radius, radius, rng.uniform(0.05, 0.09)])
        grip, web = (joints[4] + joints[8]) / 2, (joints[2] + joints[5]) / 2
        axis = grip - web
        axis = axis / (np.linalg.norm(axis) + 1e-9) + rng.normal(0, 0.15, 3)
        at = grip - axis / np.linalg.norm(axis) * rng.uniform(-0.02, 0.05)
    elif kind < 0.68:  # ball, fruit
        radius = rng.uniform(0.015, 0.042)
        shape, size = ball(), radius * rng.uniform(0.85, 1.1, 3)
        at = (palm + out * (0.012 + radius)) * 0.6 + joints[[4, 8, 12, 16]].mean(0) * 0.4
        axis = rng.normal(size=3)
    elif kind < 0.86:  # phone, book, card
        shape, size = box(), np.array([rng.uniform(0.028, 0.045), rng.uniform(0.002, 0.008), rng.uniform(0.05, 0.085)])
        at = palm + out * rng.uniform(0.016, 0.035) + along * rng.uniform(0, 0.04)
        turn = rng.normal(0, 0.5)
        axis = along * np.cos(turn) + across * np.sin(turn) + rng.normal(0, 0.1, 3)
    else:  # box
        shape, size = box(), rng.uniform(0.01, 0.045, 3)
        at = palm + out * (0.014 + size[1]) + along * rng.uniform(-0.01, 0.05)
        axis = along + rng.normal(0, 0.6, 3)
    return place(shape, _frame(axis, out), size, at, paint)


def anything(rng: np.random.Generator, at: np.ndarray, size: float) -> Solid:
    """A box, cylinder, ball or bar ``at`` (3,) of about ``size`` metres, turned at random."""
    paint = random_paint(rng)
    if rng.random() < 0.3:
        tone = np.clip(skin_color(rng), 0.05, 1) ** 2.2
        paint = Paint(np.stack([tone, tone]), paint.weave, paint.gloss)
    shape = (box, cylinder, ball, torus)[int(rng.choice(4, p=(0.35, 0.35, 0.2, 0.1)))]()
    extent = size * 0.5 * np.exp(rng.normal(0, 0.6, 3))
    return place(shape, _frame(rng.normal(size=3), rng.normal(size=3)), extent, at, paint)


def ring(rng: np.random.Generator, joints: np.ndarray, thickness: float) -> Solid:
    """A ring on the proximal bone of a finger; ``thickness`` is the finger's, over the mesh's own."""
    base = int(rng.choice((5, 9, 13, 17), p=(0.25, 0.25, 0.4, 0.1)))
    bone = joints[base + 1] - joints[base]
    at = joints[base] + bone * rng.uniform(0.5, 0.72)
    radius = (0.0096 if base != 17 else 0.0084) * thickness * rng.uniform(1.0, 1.08)
    return place(
        torus(),
        _frame(bone, rng.normal(size=3)),
        np.array([radius, radius, radius * rng.uniform(0.6, 2.2)]),
        at,
        random_paint(rng, True),
    )


def watch(rng: np.random.Generator, arm: np.ndarray, axes: np.ndarray, size: np.ndarray) -> list[Solid]:
    """A strap round the forearm at ``arm`` (3,) with ``axes`` columns (across, back of the hand, elbow) and a case.

    ``size`` (2,) half width and half thickness of the arm.
    """
    wide = rng.uniform(0.006, 0.014)
    paint = random_paint(rng, metal=rng.random() < 0.5)
    strap = place(cylinder(), axes, np.array([size[0] * 1.04, size[1] * 1.04, wide]), arm, paint)
    if rng.random() < 0.25:
        return [strap]
    case = np.array([rng.uniform(0.013, 0.021), 0.004, rng.uniform(0.013, 0.021)])
    shape = box() if rng.random() < 0.5 else ball()
    return [
        strap,
        place(shape, axes, case, arm + axes[:, 1] * (size[1] + 0.003), random_paint(rng, rng.random() < 0.5)),
    ]


def _frame(z: np.ndarray, hint: np.ndarray) -> np.ndarray:
    """Right-handed axes (3, 3) columns whose z is ``z`` and whose y is near ``hint``."""
    z = z / (np.linalg.norm(z) + 1e-9)
    x = np.cross(hint, z)
    if np.linalg.norm(x) < 1e-6:
        x = np.cross(np.array([0.3, 0.5, 0.8]), z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], 1)
