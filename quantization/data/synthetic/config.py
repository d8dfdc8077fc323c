"""What a random scene is made of: every ingredient is a field, so that it can be switched off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_hands.quantization.data.synthetic.backgrounds import BackgroundConfig
from edge_hands.quantization.data.synthetic.pose import PoseShares
from edge_hands.quantization.data.synthetic.sensor import SensorConfig


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
    frame_people: float = 0.8  # mean number of people behind the hands
    frame_limbs: float = 0.35  # mean number of arms and legs behind them
    frame_face: float = 0.22  # share of frames whose hand is before a face of its size
    frame_solids: float = 0.5  # mean number of things that lie or hang about
    frame_touch: float = 0.3  # share of second hands that touch, cross or hide the first
    frame_hand_size: tuple[float, float] = (0.10, 0.75)  # longer side of the joints' box over the frame
