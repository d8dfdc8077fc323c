"""From a random number generator to a picture of hands with exact labels.

Two kinds of sample: a *crop*, what the landmark model sees (one upright right hand, perhaps crossed by a
second), and a *frame*, what the detector sees (none, one or two hands anywhere).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from edge_hands.crops import CROP_FACTOR, Crop, aligned_crop
from edge_hands.quantization.data.synthetic import objects
from edge_hands.quantization.data.synthetic.actor import Actor, random_actor, random_view
from edge_hands.quantization.data.synthetic.backgrounds import Backgrounds
from edge_hands.quantization.data.synthetic.bodies import Bodies
from edge_hands.quantization.data.synthetic.config import SceneConfig
from edge_hands.quantization.data.synthetic.hand_mesh import HandMesh
from edge_hands.quantization.data.synthetic.light import contact_shadow, random_light, wall_shadow
from edge_hands.quantization.data.synthetic.people import draw_limb
from edge_hands.quantization.data.synthetic.renderer import Camera, Light, Renderer, Solid
from edge_hands.quantization.data.synthetic.sensor import expose, fisheye
from edge_hands.quantization.data.synthetic.skin import grain

CROP_SIZE, CROP_BASE = 160, 128  # stored picture and the crop in its middle; the rest is room for augmentation
FRAME_SIZE = 256
#: A joint sits under up to this much of its own skin; anything nearer to the camera hides it (metres).
_OWN_SKIN = 0.016
#: A crop that shows fewer joints than this is drawn again, a few times.
_LEAST_VISIBLE, _TRIES = 3, 4


@dataclass(frozen=True)
class Sample:
    """``image`` (S, S, 3) uint8 RGB and its label, a JSON-able dict (see ``writer``)."""

    image: np.ndarray
    label: dict


class Scenes:
    """Makes samples; holds the mesh, the backgrounds and one renderer for each picture size."""

    def __init__(self, assets: Path, config: SceneConfig | None = None):
        self.assets, self.config = assets, config or SceneConfig()
        self.mesh, self.backgrounds = HandMesh(assets), Backgrounds(assets)
        self._renderers: dict[int, Renderer] = {}

    @functools.cached_property
    def bodies(self) -> Bodies:
        """The people behind hands in frames; read when the first frame is made."""
        return Bodies(self.assets)

    def crop(self, rng: np.random.Generator) -> Sample:
        """A landmark sample: (160, 160) picture whose middle 128 pixels are the aligned crop, up to the slack."""
        config = self.config
        pano = self.backgrounds.panoramas[rng.integers(len(self.backgrounds.panoramas))]
        light = random_light(rng, pano, config)
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
        hand = random_actor(rng, self.mesh, self.config)
        distance = np.exp(rng.uniform(*np.log(config.distance)))
        reach = 0.5 if rng.random() < config.off_axis else 0.25
        hand = hand.moved(
            random_view(rng, self.config, hand.wrist), np.array([*rng.uniform(-reach, reach, 2) * distance, distance])
        )
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
        light = random_light(rng, pano, config)
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
            self.bodies.draw(rng, background, camera, light)
        for _ in range(rng.poisson(config.frame_limbs)):
            draw_limb(rng, background)
        if drawn and rng.random() < config.frame_face:
            uv = camera.project(drawn[0].joints)
            reach = np.ptp(uv, axis=0).max()
            at = uv.mean(0) + rng.normal(0, 0.5, 2) * reach
            self.bodies.draw(rng, background, camera, light, at, rng.uniform(0.5, 1.1) * reach)
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

    def _framed(self, rng: np.random.Generator, camera: Camera, mirror: bool) -> Actor:
        hand = random_actor(rng, self.mesh, self.config)
        roll = Rotation.from_euler("z", rng.normal(0, 0.9) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi))
        view = roll.as_matrix() @ random_view(rng, self.config, hand.wrist)
        wanted = np.exp(rng.uniform(*np.log(self.config.frame_hand_size))) * camera.size
        extent = np.ptp(hand.joints @ view.T, axis=0)[:2].max()
        distance = float(np.clip(camera.focal * extent / wanted, 0.16, 2.5))
        spot = (rng.uniform(0.08, 0.92, 2) - 0.5) * camera.size / camera.focal * distance
        flip = np.diag([-1.0, 1, 1]) if mirror else np.eye(3)
        return hand.moved(flip @ view, np.array([*spot, distance]))

    def _companion(self, rng: np.random.Generator, hand: Actor, camera: Camera) -> Actor:
        """A second hand that crosses or neighbours the first one in the crop."""
        other = random_actor(rng, self.mesh, self.config, bare=True)
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
            hands *= 1 - contact_shadow(small, camera.focal, rng.uniform(0.05, 0.35))[..., None]
        if rng.random() < self.config.wall_shadow:
            background = background * wall_shadow(rng, alpha[..., 0])[..., None]
        image = background * (1 - alpha) + hands  # hands are premultiplied: empty pixels are black
        return image.clip(0, 255).astype(np.uint8), small

    def renderer(self, size: int) -> Renderer:
        """The renderer of pictures of ``size`` pixels."""
        if size not in self._renderers:
            self._renderers[size] = Renderer(size, self.mesh.atlases(), grain())
        return self._renderers[size]


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


def _rounded(values: np.ndarray, digits: int) -> list:
    return np.round(values.astype(float), digits).tolist()
