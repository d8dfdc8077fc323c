"""From a random number generator to a picture of hands with exact labels.

Two kinds of sample: a *crop*, what the landmark model sees (one upright right hand, perhaps crossed by a
second), and a *frame*, what the detector sees (none, one or two hands anywhere).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from edge_hands.crops import CROP_FACTOR, Crop, aligned_crop
from edge_hands.quantization.data.synthetic.backgrounds import Backgrounds, Panorama, draw_person, skin_color
from edge_hands.quantization.data.synthetic.hand_mesh import HandMesh, PosedHand
from edge_hands.quantization.data.synthetic.pose import random_pose, random_shape
from edge_hands.quantization.data.synthetic.renderer import Camera, Light, Look, Renderer

CROP_SIZE, CROP_BASE = 160, 128  # stored picture and the crop in its middle; the rest is room for augmentation
FRAME_SIZE = 256
#: A joint sits under up to this much of its own skin; anything nearer to the camera hides it (metres).
_OWN_SKIN = 0.016


@dataclass(frozen=True)
class SceneConfig:
    """Ranges of the random scene; angles in radians, lengths in metres."""

    any_view: float = 0.35  # share of crops seen from anywhere on the sphere
    back_view: float = 0.4  # of the rest: back of the hand
    view_spread: tuple[float, float] = (0.65, 0.6)  # sd of turns about the vertical and the horizontal
    distance: tuple[float, float] = (0.25, 0.9)
    roll: float = np.deg2rad(12)
    shift: float = 0.10
    zoom: float = 0.10
    second_hand: float = 0.18
    empty: float = 0.07
    sleeve: float = 0.5
    frame_hands: tuple[float, float, float] = (0.12, 0.48, 0.40)  # share of frames with 0, 1, 2 hands
    frame_fov: tuple[float, float] = (0.7, 1.9)
    frame_people: float = 0.5  # mean number of drawn people behind the hands
    frame_hand_size: tuple[float, float] = (0.10, 0.75)  # longer side of the joints' box over the frame


@dataclass(frozen=True)
class Sample:
    """``image`` (S, S, 3) uint8 RGB and its label, a JSON-able dict (see ``writer``)."""

    image: np.ndarray
    label: dict


@dataclass
class _Drawn:
    """A hand placed in camera space."""

    hand: PosedHand
    rest: np.ndarray
    material: np.ndarray
    look: Look
    side: str = "right"
    joints: np.ndarray = field(init=False)

    def __post_init__(self):
        self.joints = self.hand.joints


class Scenes:
    """Makes samples; holds the mesh, the backgrounds and one renderer for each picture size."""

    def __init__(self, assets: Path, config: SceneConfig | None = None):
        self.config = config or SceneConfig()
        self.mesh, self.backgrounds = HandMesh(assets), Backgrounds(assets)
        self._renderers: dict[int, Renderer] = {}

    def crop(self, rng: np.random.Generator) -> Sample:
        """A landmark sample: (160, 160) picture whose middle 128 pixels are the aligned crop, up to the slack."""
        config = self.config
        pano = self.backgrounds.panoramas[rng.integers(len(self.backgrounds.panoramas))]
        light = _light(rng, pano)
        if rng.random() < config.empty:
            image = self.backgrounds.sample(rng, pano, light.world, CROP_SIZE)
            return Sample(_camera_noise(rng, image), {"kind": "crop", "present": 0})
        hand = self._hand(rng)
        view = self._view(rng, hand.hand.wrist)
        distance = np.exp(rng.uniform(*np.log(config.distance)))
        hand = _place(hand, view, np.array([*rng.uniform(-0.25, 0.25, 2) * distance, distance]))
        # A unit pinhole picture of the joints gives the aligned crop; the camera is then turned into it.
        target = _slack(rng, aligned_crop(hand.joints[:, :2] / hand.joints[:, 2:]), config, floor=0.05 / distance)
        roll = target.rotation()
        hand = _turn(hand, roll)
        focal = CROP_BASE / target.side
        center = CROP_SIZE / 2 - focal * (roll[:2, :2] @ target.center)
        camera = Camera(focal, (float(center[0]), float(center[1])), CROP_SIZE)
        drawn = [hand]
        if rng.random() < config.second_hand:
            drawn.append(self._companion(rng, hand, camera))
        image, depth = self._render(rng, drawn, camera, light, pano)
        uv = camera.project(hand.joints)
        label = {
            "kind": "crop",
            "present": 1,
            "side": "right" if rng.random() < 0.5 else "left",  # a mirrored left hand is a right hand
            "uv": _rounded(uv, 3),
            "xyz": _rounded(hand.joints, 5),
            "visible": _visible(hand.joints, uv, depth).tolist(),
            "depth_scale": round(float(focal / hand.joints[:, 2].mean()), 4),
        }
        return Sample(image, label)

    def frame(self, rng: np.random.Generator, size: int = FRAME_SIZE) -> Sample:
        """A detector sample: (``size``, ``size``) picture with up to two hands, left and right."""
        config = self.config
        pano = self.backgrounds.panoramas[rng.integers(len(self.backgrounds.panoramas))]
        light = _light(rng, pano)
        focal = size / 2 / np.tan(rng.uniform(*config.frame_fov) / 2)
        camera = Camera(float(focal), (size / 2, size / 2), size)
        count = rng.choice(3, p=config.frame_hands)
        first_side = rng.random() < 0.5
        drawn: list[_Drawn] = []
        for k in range(count):
            for _ in range(8):
                candidate = self._framed(rng, camera, mirror=bool(first_side) ^ bool(k))
                if all(_apart(candidate, other, camera) for other in drawn):
                    drawn.append(candidate)
                    break
        people = rng.poisson(config.frame_people)
        image, depth = self._render(rng, drawn, camera, light, pano, people)
        hands = []
        for hand in drawn:
            uv = camera.project(hand.joints)
            hands.append(
                {
                    "side": hand.side,
                    "uv": _rounded(uv, 3),
                    "xyz": _rounded(hand.joints, 5),
                    "visible": _visible(hand.joints, uv, depth).tolist(),
                }
            )
        return Sample(image, {"kind": "frame", "hands": hands})

    def _hand(self, rng: np.random.Generator) -> _Drawn:
        scale = random_shape(rng)
        angles = random_pose(rng, self.mesh, scale)
        sleeve = rng.uniform(0.02, 0.14) if rng.random() < self.config.sleeve else 9.0
        rest, normals, arm = self.mesh.arm(sleeve, rng.uniform(1.05, 1.4))
        posed = self.mesh.pose(self.mesh.kinematics(angles, scale), scale, rest, normals)
        return _Drawn(posed, rest, np.stack([self.mesh.palm, self.mesh.nail, arm], 1), _look(rng, sleeve))

    def _view(self, rng: np.random.Generator, wrist: np.ndarray) -> np.ndarray:
        """World -> camera rotation: from anywhere, or near palm or back with the fingers up."""
        config = self.config
        if rng.random() < config.any_view:
            return Rotation.from_quat(rng.normal(size=4)).as_matrix()
        facing = np.array([[-1, 0, 0], [0, 0, 1.0], [0, 1, 0]]) @ wrist.T
        if rng.random() < config.back_view:
            facing = np.diag([-1, 1, -1]) @ facing
        turns = rng.normal(0, 1, 2) * config.view_spread
        return Rotation.from_euler("yx", turns).as_matrix() @ facing

    def _framed(self, rng: np.random.Generator, camera: Camera, mirror: bool) -> _Drawn:
        hand = self._hand(rng)
        roll = Rotation.from_euler("z", rng.normal(0, 0.9) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi))
        view = roll.as_matrix() @ self._view(rng, hand.hand.wrist)
        wanted = np.exp(rng.uniform(*np.log(self.config.frame_hand_size))) * camera.size
        extent = np.ptp(hand.joints @ view.T, axis=0)[:2].max()
        distance = float(np.clip(camera.focal * extent / wanted, 0.16, 2.5))
        spot = (rng.uniform(0.08, 0.92, 2) - 0.5) * camera.size / camera.focal * distance
        return _place(hand, view, np.array([*spot, distance]), mirror)

    def _companion(self, rng: np.random.Generator, hand: _Drawn, camera: Camera) -> _Drawn:
        """A second hand that crosses or neighbours the first one in the crop."""
        other = self._hand(rng)
        distance = hand.joints[:, 2].mean() * rng.uniform(0.85, 1.4)
        turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.85) * CROP_BASE
        spot = np.array([np.cos(turn), np.sin(turn)]) * reach + CROP_SIZE / 2 - np.asarray(camera.center)
        view = Rotation.from_quat(rng.normal(size=4)).as_matrix()
        return _place(other, view, np.array([*(spot / camera.focal * distance), distance]), mirror=rng.random() < 0.7)

    def _render(self, rng, drawn: list[_Drawn], camera: Camera, light: Light, pano: Panorama, people: int = 0):
        size = camera.size
        background = self.backgrounds.sample(rng, pano, light.world, size)
        for _ in range(people):
            draw_person(rng, background)
        if size not in self._renderers:
            self._renderers[size] = Renderer(size, self.mesh.faces, len(self.mesh.palm))
        renderer = self._renderers[size]
        renderer.begin()
        for item in drawn:
            hand = item.hand
            renderer.draw(camera, hand.vertices, hand.normals, item.rest, item.material, item.look, light)
        color, depth = renderer.read()
        alpha = cv2.resize((depth > 0).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)[..., None]
        hands = cv2.resize(color, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
        small = depth[::2, ::2]
        if drawn:
            hands *= 1 - _contact_shadow(small, camera.focal, rng.uniform(0.05, 0.35))[..., None]
        image = background * (1 - alpha) + hands  # hands are premultiplied: empty pixels are black
        return _camera_noise(rng, image.clip(0, 255).astype(np.uint8)), small


def _light(rng: np.random.Generator, pano: Panorama) -> Light:
    world = Rotation.from_euler("yxz", [rng.uniform(-np.pi, np.pi), rng.normal(-0.2, 0.4), rng.normal(0, 0.3)])
    direct = rng.normal(size=3) + (0, -0.5, -0.8)  # mostly from above and behind the camera
    tint = np.clip(rng.normal(1, 0.12, 3), 0.5, 1.5)
    return Light(
        pano.irradiance * rng.uniform(0.35, 1.1) * np.clip(rng.normal(1, 0.06, 3), 0.7, 1.3),
        world.as_matrix(),
        direct / np.linalg.norm(direct),
        tint * rng.uniform(0.1, 0.9),
    )


def _look(rng: np.random.Generator, sleeve: float) -> Look:
    skin = np.clip(skin_color(rng), 0.05, 1) ** 2.2
    paler = rng.uniform(0, 0.35) * np.array([1, 0.8, 0.8])
    palm = np.clip(skin + (np.array([0.75, 0.5, 0.42]) - skin) * paler, 0, 1)
    polish = rng.random() < 0.12
    nail = rng.uniform(0, 1, 3) if polish else np.clip(skin * rng.uniform(0.8, 1.3) + rng.uniform(-0.02, 0.12), 0, 1)
    direction = rng.normal(size=(8, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wavelength = np.exp(rng.uniform(np.log(0.006), np.log(0.08), (8, 1)))
    mottle = (
        rng.normal(0, min(abs(rng.normal(0, 0.02)), 0.035), (8, 1)) * np.array([0.8, 1, 1]) * rng.normal(1, 0.2, (8, 3))
    )
    weave = np.array([*(rng.normal(size=3) * rng.uniform(50, 600) * (rng.random() < 0.4)), 1.57])
    return Look(
        skin=skin,
        palm=palm,
        nail=nail,
        cloth=rng.uniform(0, 1, (2, 3)) ** 2,
        wave=np.c_[direction * (2 * np.pi / wavelength), rng.uniform(0, 2 * np.pi, 8)],
        wave_color=mottle,
        weave=weave,
        sleeve=sleeve,
        gloss=np.array([rng.uniform(0, 0.18) * rng.random(), rng.uniform(6, 50), float(polish)]),
    )


def _place(item: _Drawn, view: np.ndarray, at: np.ndarray, mirror: bool = False) -> _Drawn:
    """``item`` turned by ``view`` about its joints' centre and put at ``at`` (camera space); mirrored: a left hand."""
    hand, center = item.hand, item.hand.joints.mean(0)
    flip = np.diag([-1.0, 1, 1]) if mirror else np.eye(3)
    turn = flip @ view
    moved = PosedHand(
        (hand.vertices - center) @ turn.T + at,
        hand.normals @ turn.T,
        (hand.joints - center) @ turn.T + at,
        turn @ hand.wrist,
    )
    return _Drawn(moved, item.rest, item.material, item.look, "left" if mirror else "right")


def _turn(item: _Drawn, rotation: np.ndarray) -> _Drawn:
    hand = item.hand
    turned = PosedHand(*(a @ rotation.T for a in (hand.vertices, hand.normals, hand.joints)), rotation @ hand.wrist)
    return _Drawn(turned, item.rest, item.material, item.look, item.side)


def _slack(rng: np.random.Generator, crop: Crop, config: SceneConfig, floor: float) -> Crop:
    """``crop`` off by the configured roll, shift and zoom; never smaller than ``floor`` (a fist seen end on)."""
    side = max(crop.side, floor * CROP_FACTOR) * np.exp(rng.uniform(-config.zoom, config.zoom))
    shift = rng.uniform(-config.shift, config.shift, 2) * crop.side
    return Crop(
        (crop.center[0] + shift[0], crop.center[1] + shift[1]),
        side,
        crop.angle + rng.uniform(-config.roll, config.roll),
    )


def _apart(a: _Drawn, b: _Drawn, camera: Camera) -> bool:
    """Whether two hands do not run through each other: apart in the picture or clearly in depth."""
    centers = camera.project(np.stack([a.joints.mean(0), b.joints.mean(0)]))
    sizes = [np.ptp(camera.project(h.joints), axis=0).max() for h in (a, b)]
    near = np.linalg.norm(centers[0] - centers[1]) < 0.35 * sum(sizes)
    return not near or abs(a.joints[:, 2].mean() - b.joints[:, 2].mean()) > 0.12 and not _covers(a, b, camera)


def _covers(a: _Drawn, b: _Drawn, camera: Camera) -> bool:
    centers = camera.project(np.stack([a.joints.mean(0), b.joints.mean(0)]))
    return bool(np.linalg.norm(centers[0] - centers[1]) < 0.2 * np.ptp(camera.project(b.joints), axis=0).max())


def _visible(joints: np.ndarray, uv: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(21,) 1 where nothing but the joint's own skin lies between joint and camera, inside the picture."""
    size = depth.shape[0]
    inside = ((uv >= 0) & (uv < size)).all(1)
    column, row = np.clip(uv.astype(int), 0, size - 1).T
    surface = depth[row, column]
    return (inside & ((surface == 0) | (surface > joints[:, 2] - _OWN_SKIN))).astype(int)


def _contact_shadow(depth: np.ndarray, focal: float, strength: float) -> np.ndarray:
    """Darkening (S, S) of creases from depth: a point behind its surroundings sees less of the sky."""
    solid = depth > 0
    if not solid.any():
        return np.zeros_like(depth)
    far = np.where(solid, depth, depth[solid].max())
    millimetre = focal / float(np.median(depth[solid])) * 1e-3
    shade = np.zeros_like(depth)
    for radius in (4.0, 10.0):
        around = cv2.GaussianBlur(far, (0, 0), max(radius * millimetre, 0.5))
        shade += np.where(solid, np.clip((far - around) * 1000 / radius, 0, 1.5), 0)
    return cv2.GaussianBlur(np.clip(shade * strength, 0, 0.5), (0, 0), 0.8)


def _camera_noise(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What a real camera adds before augmentation: defocus or motion blur, low resolution, sensor noise."""
    size = image.shape[0]
    kind = rng.random()
    if kind < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
    elif kind < 0.33:
        length, turn = int(rng.integers(3, 9)), rng.uniform(0, np.pi)
        kernel = np.zeros((length, length), np.float32)
        reach = np.array([np.cos(turn), np.sin(turn)]) * length / 2
        middle = np.full(2, length / 2 - 0.5)
        cv2.line(
            kernel, np.rint(middle - reach).astype(int).tolist(), np.rint(middle + reach).astype(int).tolist(), 1.0
        )
        image = cv2.filter2D(image, -1, kernel / max(kernel.sum(), 1))
    if rng.random() < 0.2:
        low = int(size * rng.uniform(0.3, 0.7))
        image = cv2.resize(cv2.resize(image, (low, low), interpolation=cv2.INTER_AREA), (size, size))
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(1, 9), image.shape).astype(np.float32)
        image = (image + noise).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)


def _rounded(values: np.ndarray, digits: int) -> list:
    return np.round(values.astype(float), digits).tolist()
