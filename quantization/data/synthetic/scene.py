"""From a random number generator to a picture of hands with exact labels.

Two kinds of sample: a *crop*, what the landmark model sees (one upright right hand, perhaps crossed by a
second), and a *frame*, what the detector sees (none, one or two hands anywhere).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from edge_hands.crops import CROP_FACTOR, Crop, aligned_crop
from edge_hands.quantization.data.synthetic import objects
from edge_hands.quantization.data.synthetic.backgrounds import BackgroundConfig, Backgrounds, Panorama
from edge_hands.quantization.data.synthetic.hand_mesh import FOREARM, HandMesh
from edge_hands.quantization.data.synthetic.people import draw_limb, draw_person
from edge_hands.quantization.data.synthetic.pose import GRIP, PoseShares, random_pose, random_shape
from edge_hands.quantization.data.synthetic.renderer import Camera, Light, Renderer, Solid
from edge_hands.quantization.data.synthetic.sensor import SensorConfig, expose, fisheye
from edge_hands.quantization.data.synthetic.skin import grain, random_skin

CROP_SIZE, CROP_BASE = 160, 128  # stored picture and the crop in its middle; the rest is room for augmentation
FRAME_SIZE = 256
#: A joint sits under up to this much of its own skin; anything nearer to the camera hides it (metres).
_OWN_SKIN = 0.016
#: A crop that shows fewer joints than this is drawn again, a few times.
_LEAST_VISIBLE, _TRIES = 3, 4


@dataclass(frozen=True)
class SceneConfig:
    """Shares and ranges of the random scene, one ingredient a field; angles in radians, lengths in metres."""

    any_view: float = 0.30  # share of hands seen from anywhere on the sphere
    side_view: float = 0.15  # of the rest: thumb's or little finger's side
    ego_view: float = 0.20  # of the rest: from the wrist's side, the back towards the camera
    back_view: float = 0.4  # of the rest: back of the hand, fingers up; else the palm
    view_spread: tuple[float, float] = (0.65, 0.6)  # sd of turns about the vertical and the horizontal
    distance: tuple[float, float] = (0.20, 0.9)
    off_axis: float = 0.15  # share of crops from the rim of a wide-angle camera
    roll: float = np.deg2rad(10)
    shift: float = 0.08
    zoom: float = 0.10
    loose: float = 0.15  # share of crops off by up to twice and a half as much
    poses: PoseShares = PoseShares()
    texture: float = 1.0  # share of hands with creases, veins, nails, mottling
    shadows: float = 1.0  # share of scenes whose direct light casts shadows
    wall_shadow: float = 0.2  # share of scenes where the hand shades what is close behind it
    second_hand: float = 0.15
    held_object: float = 0.22
    ring: float = 0.12
    watch: float = 0.10
    glove: float = 0.05
    sleeve: float = 0.5
    empty: float = 0.07
    background: BackgroundConfig = BackgroundConfig()
    sensor: SensorConfig = SensorConfig()
    frame_hands: tuple[float, float, float] = (0.22, 0.43, 0.35)  # share of frames with 0, 1, 2 hands
    frame_fov: tuple[float, float] = (0.7, 1.9)
    frame_people: float = 0.5  # mean number of drawn people behind the hands
    frame_limbs: float = 0.35  # mean number of arms and legs behind them
    frame_face: float = 0.22  # share of frames whose hand is before a face of its size
    frame_solids: float = 0.5  # mean number of things that lie or hang about
    frame_touch: float = 0.3  # share of second hands that touch, cross or hide the first
    frame_hand_size: tuple[float, float] = (0.10, 0.75)  # longer side of the joints' box over the frame


@dataclass(frozen=True)
class Sample:
    """``image`` (S, S, 3) uint8 RGB and its label, a JSON-able dict (see ``writer``)."""

    image: np.ndarray
    label: dict


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
        light = _light(rng, pano, config)
        if rng.random() < config.empty:
            image = self.backgrounds.sample(rng, pano, light.world, CROP_SIZE, config.background)
            return Sample(expose(rng, image, config.sensor), {"kind": "crop", "present": 0})
        for _ in range(_TRIES):
            hand, camera, drawn = self._cropped(rng)
            background = self.backgrounds.sample(rng, pano, light.world, CROP_SIZE, config.background)
            image, depth = self._render(rng, drawn, [], camera, light, background)
            uv = camera.project(hand.joints)
            visible = _visible(hand.joints, uv, depth)
            if visible.sum() >= _LEAST_VISIBLE:
                break
        if rng.random() < config.sensor.fisheye:
            image, (uv,) = fisheye(rng, image, [uv])
        label = {
            "kind": "crop",
            "present": 1,
            "side": "right" if rng.random() < 0.5 else "left",  # a mirrored left hand is a right hand
            "uv": _rounded(uv, 3),
            "xyz": _rounded(hand.joints, 5),
            "visible": visible.tolist(),
            "depth_scale": round(float(camera.focal / hand.joints[:, 2].mean()), 4),
        }
        return Sample(expose(rng, image, config.sensor), label)

    def _cropped(self, rng: np.random.Generator) -> tuple[Actor, Camera, list[Actor]]:
        """A hand, the camera whose picture is its aligned crop, and all hands in the scene."""
        config = self.config
        hand = self.actor(rng)
        distance = np.exp(rng.uniform(*np.log(config.distance)))
        reach = 0.8 if rng.random() < config.off_axis else 0.25
        hand = hand.moved(self._view(rng, hand.wrist), np.array([*rng.uniform(-reach, reach, 2) * distance, distance]))
        # A unit pinhole picture of the joints gives the aligned crop; the camera is then turned into it.
        target = _slack(rng, aligned_crop(hand.joints[:, :2] / hand.joints[:, 2:]), config, floor=0.05 / distance)
        roll = target.rotation()
        hand = hand.moved(roll)
        focal = CROP_BASE / target.side
        center = CROP_SIZE / 2 - focal * (roll[:2, :2] @ target.center)
        camera = Camera(focal, (float(center[0]), float(center[1])), CROP_SIZE)
        crossed = rng.random() < config.second_hand
        return hand, camera, [hand, self._companion(rng, hand, camera)] if crossed else [hand]

    def frame(self, rng: np.random.Generator, size: int = FRAME_SIZE) -> Sample:
        """A detector sample: (``size``, ``size``) picture with up to two hands, left and right."""
        config = self.config
        pano = self.backgrounds.panoramas[rng.integers(len(self.backgrounds.panoramas))]
        light = _light(rng, pano, config)
        focal = size / 2 / np.tan(rng.uniform(*config.frame_fov) / 2)
        camera = Camera(float(focal), (size / 2, size / 2), size)
        count = rng.choice(3, p=config.frame_hands)
        mirror, drawn = bool(rng.random() < 0.5), []
        if count:
            drawn.append(self._framed(rng, camera, mirror))
        if count == 2:
            self._join(rng, drawn, camera, not mirror)
        solids = [self._loose(rng, camera) for _ in range(rng.poisson(config.frame_solids))]
        background = self.backgrounds.sample(rng, pano, light.world, size, config.background)
        for _ in range(rng.poisson(config.frame_people)):
            draw_person(rng, background)
        for _ in range(rng.poisson(config.frame_limbs)):
            draw_limb(rng, background)
        if drawn and rng.random() < config.frame_face:
            uv = camera.project(drawn[0].joints)
            reach = np.ptp(uv, axis=0).max()
            at = uv.mean(0) + rng.normal(0, 0.5, 2) * reach
            draw_person(rng, background, at=at, height=rng.uniform(0.5, 1.1) * reach)
        image, depth = self._render(rng, drawn, solids, camera, light, background)
        uvs = [camera.project(hand.joints) for hand in drawn]
        visible = [_visible(hand.joints, uv, depth) for hand, uv in zip(drawn, uvs)]
        if rng.random() < config.sensor.fisheye:
            image, uvs = fisheye(rng, image, uvs)
        hands = [
            {"side": hand.side, "uv": _rounded(uv, 3), "xyz": _rounded(hand.joints, 5), "visible": seen.tolist()}
            for hand, uv, seen in zip(drawn, uvs, visible)
        ]
        return Sample(expose(rng, image, config.sensor), {"kind": "frame", "hands": hands})

    def actor(self, rng: np.random.Generator, bare: bool = False) -> Actor:
        """A right hand in a random pose about the origin of the mesh; ``bare``: it holds and wears nothing."""
        config = self.config
        holds = not bare and rng.random() < config.held_object
        scale = random_shape(rng)
        shares = GRIP if holds and rng.random() < 0.75 else config.poses
        angles = random_pose(rng, self.mesh, scale, shares)
        glove = not bare and rng.random() < config.glove
        sleeve = rng.uniform(0.03, 0.16) if rng.random() < config.sleeve else 9.0
        rest = self.mesh.arm(sleeve, rng.uniform(1.05, 1.4))
        frames = self.mesh.kinematics(angles, scale)
        posed = self.mesh.pose(frames, scale, rest)
        skin = random_skin(rng, sleeve, rng.random() < config.texture, glove)
        material = np.stack([self.mesh.palm, rest.arm], 1)
        solids = [Solid(posed.vertices, posed.normals, rest.uv, material, self.mesh.faces, skin)]
        if holds:
            solids.append(objects.held(rng, posed.joints, posed.wrist))
        if not bare and rng.random() < config.ring:
            solids.append(objects.ring(rng, posed.joints, float(scale[7, :2].mean())))
        if not bare and sleeve > 0.06 and rng.random() < config.watch:
            arm, along = frames[FOREARM], rng.uniform(0.028, min(sleeve - 0.015, 0.06))
            size = np.array(self.mesh.arm_size(along)) * scale[FOREARM, :2]
            solids += objects.watch(rng, arm[:3, 3] + arm[:3, 2] * along, arm[:3, :3], size)
        return Actor(tuple(solids), posed.joints, posed.wrist)

    def _view(self, rng: np.random.Generator, wrist: np.ndarray) -> np.ndarray:
        """World -> camera rotation: from anywhere, from a side, from the wrist, or near palm or back, fingers up."""
        config = self.config
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

    def _framed(self, rng: np.random.Generator, camera: Camera, mirror: bool) -> Actor:
        hand = self.actor(rng)
        roll = Rotation.from_euler("z", rng.normal(0, 0.9) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi))
        view = roll.as_matrix() @ self._view(rng, hand.wrist)
        wanted = np.exp(rng.uniform(*np.log(self.config.frame_hand_size))) * camera.size
        extent = np.ptp(hand.joints @ view.T, axis=0)[:2].max()
        distance = float(np.clip(camera.focal * extent / wanted, 0.16, 2.5))
        spot = (rng.uniform(0.08, 0.92, 2) - 0.5) * camera.size / camera.focal * distance
        flip = np.diag([-1.0, 1, 1]) if mirror else np.eye(3)
        return hand.moved(flip @ view, np.array([*spot, distance]))

    def _companion(self, rng: np.random.Generator, hand: Actor, camera: Camera) -> Actor:
        """A second hand that crosses or neighbours the first one in the crop."""
        other = self.actor(rng, bare=True)
        if rng.random() < 0.7:  # of the same person
            look = replace(hand.solids[0].look, sleeve=other.solids[0].look.sleeve)
            other = replace(other, solids=(replace(other.solids[0], look=look),))
        distance = hand.joints[:, 2].mean() * rng.uniform(0.85, 1.4)
        turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.85) * CROP_BASE
        spot = np.array([np.cos(turn), np.sin(turn)]) * reach + CROP_SIZE / 2 - np.asarray(camera.center)
        view = Rotation.from_quat(rng.normal(size=4)).as_matrix()
        flip = np.diag([-1.0, 1, 1]) if rng.random() < 0.7 else np.eye(3)
        return other.moved(flip @ view, np.array([*(spot / camera.focal * distance), distance]))

    def _join(self, rng: np.random.Generator, drawn: list[Actor], camera: Camera, mirror: bool) -> None:
        """Adds a second hand: apart from the first, or in touch with it. Most belong to the same person."""
        first = drawn[0]
        touch = rng.random() < self.config.frame_touch
        for _ in range(8):
            second = self._framed(rng, camera, mirror)
            if touch:
                reach = np.linalg.norm(first.joints[12] - first.joints[0]) + 0.04
                turn, depth = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.04)
                step = np.array([np.cos(turn), np.sin(turn), 0]) * rng.uniform(0.35, 0.9) * reach
                at = first.joints.mean(0) + step + (0, 0, depth)
                second = second.moved(np.eye(3), np.array([*at[:2], max(at[2], 0.15)]))
            if touch or _apart(second, first, camera):
                if rng.random() < 0.75:
                    look = replace(first.solids[0].look, sleeve=second.solids[0].look.sleeve)
                    second = replace(second, solids=(replace(second.solids[0], look=look), *second.solids[1:]))
                drawn.append(second)
                return

    @staticmethod
    def _loose(rng: np.random.Generator, camera: Camera) -> Solid:
        """Something that no hand holds, anywhere in the picture; at times of the colour of skin."""
        distance = rng.uniform(0.3, 1.6)
        at = np.array([*((rng.uniform(-0.05, 1.05, 2) - 0.5) * camera.size / camera.focal), 1.0]) * distance
        return objects.anything(rng, at, rng.uniform(0.04, 0.3) * camera.size / camera.focal * distance)

    def _render(self, rng, drawn: list[Actor], solids: list[Solid], camera: Camera, light: Light, background):
        """Picture (S, S, 3) uint8 and depth (S, S) metres of actors and things before ``background``."""
        size = camera.size
        solids = [solid for actor in drawn for solid in actor.solids] + solids
        color, depth = self.renderer(size).render(camera, solids, light)
        alpha = cv2.resize((depth > 0).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)[..., None]
        hands = cv2.resize(color, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
        small = depth[::2, ::2]
        if solids:
            hands *= 1 - _contact_shadow(small, camera.focal, rng.uniform(0.05, 0.35))[..., None]
        if rng.random() < self.config.wall_shadow:
            background = background * _wall_shadow(rng, alpha[..., 0])[..., None]
        image = background * (1 - alpha) + hands  # hands are premultiplied: empty pixels are black
        return image.clip(0, 255).astype(np.uint8), small

    def renderer(self, size: int) -> Renderer:
        """The renderer of pictures of ``size`` pixels."""
        if size not in self._renderers:
            self._renderers[size] = Renderer(size, self.mesh.atlases(), grain())
        return self._renderers[size]


def _light(rng: np.random.Generator, pano: Panorama, config: SceneConfig) -> Light:
    world = Rotation.from_euler("yxz", [rng.uniform(-np.pi, np.pi), rng.normal(-0.2, 0.4), rng.normal(0, 0.3)])
    direct = rng.normal(size=3) + (0, -0.7, -0.7)  # mostly from above and behind the camera
    tint = np.clip(rng.normal(1, 0.10, 3), 0.5, 1.5)
    share = rng.beta(1.3, 1.6)  # of the direct light in all of it
    total = rng.uniform(0.5, 1.35)
    return Light(
        pano.irradiance * total * (1 - 0.75 * share) * np.clip(rng.normal(1, 0.05, 3), 0.7, 1.3),
        world.as_matrix(),
        direct / np.linalg.norm(direct),
        tint * total * share,
        shadows=bool(rng.random() < config.shadows),
    )


def _wall_shadow(rng: np.random.Generator, alpha: np.ndarray) -> np.ndarray:
    """Factor (S, S) of a background on which the hand's soft shadow falls, a little to the side."""
    size = len(alpha)
    shift = rng.normal(0, 0.05, 2) * size
    moved = cv2.warpAffine(alpha, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (size, size))
    return 1 - rng.uniform(0.1, 0.7) * cv2.GaussianBlur(moved, (0, 0), rng.uniform(0.008, 0.05) * size)


def _slack(rng: np.random.Generator, crop: Crop, config: SceneConfig, floor: float) -> Crop:
    """``crop`` off by the configured roll, shift and zoom; never smaller than ``floor`` (a fist seen end on)."""
    more = 2.5 if rng.random() < config.loose else 1.0
    side = max(crop.side, floor * CROP_FACTOR) * np.exp(rng.uniform(-config.zoom, config.zoom) * (1 + more) / 2)
    shift = rng.uniform(-config.shift, config.shift, 2) * more * crop.side
    angle = crop.angle + rng.uniform(-config.roll, config.roll) * more
    return Crop((crop.center[0] + shift[0], crop.center[1] + shift[1]), side, angle)


def _apart(a: Actor, b: Actor, camera: Camera) -> bool:
    """Whether two hands do not run through each other: apart in the picture or clearly in depth."""
    centers = camera.project(np.stack([a.joints.mean(0), b.joints.mean(0)]))
    sizes = [np.ptp(camera.project(h.joints), axis=0).max() for h in (a, b)]
    near = np.linalg.norm(centers[0] - centers[1]) < 0.35 * sum(sizes)
    return not near or abs(a.joints[:, 2].mean() - b.joints[:, 2].mean()) > 0.12 and not _covers(a, b, camera)


def _covers(a: Actor, b: Actor, camera: Camera) -> bool:
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


def _rounded(values: np.ndarray, digits: int) -> list:
    return np.round(values.astype(float), digits).tolist()
