"""Synthetic hands: labels lie on the rendered hand, poses are possible, a seed gives the same data."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

ASSETS = Path(__file__).parents[2] / "node_modules"
for package in ("moderngl", "OpenEXR", "pygltflib", "skimage"):
    pytest.importorskip(package)
if not (ASSETS / "@webxr-input-profiles").is_dir():
    pytest.skip("meshes and panoramas are not here: run `make assets`", allow_module_level=True)

from edge_hands.crops import aligned_crop  # noqa: E402
from edge_hands.errors import DataError  # noqa: E402
from edge_hands.hands import BONES, FINGERTIPS, MIDDLE_MCP, REFERENCE_SKELETON_LENGTH, WRIST, skeleton_length  # noqa: E402
from edge_hands.quantization.data.synthetic import writer  # noqa: E402
from edge_hands.quantization.data.synthetic.actor import random_actor, random_view  # noqa: E402
from edge_hands.quantization.data.synthetic.config import SceneConfig  # noqa: E402
from edge_hands.quantization.data.synthetic.hand_mesh import HandMesh  # noqa: E402
from edge_hands.quantization.data.synthetic.light import random_light  # noqa: E402
from edge_hands.quantization.data.synthetic.pose import random_pose, random_shape  # noqa: E402
from edge_hands.quantization.data.synthetic.renderer import Camera, Renderer  # noqa: E402
from edge_hands.quantization.data.synthetic.scene import Scenes  # noqa: E402
from edge_hands.quantization.data.synthetic.skin import grain  # noqa: E402

CONFIG = SceneConfig()


@pytest.fixture(scope="module")
def scenes():
    try:
        made = Scenes(ASSETS)
        made.renderer(160)
    except DataError as error:
        pytest.skip(str(error))
    return made


@pytest.fixture(scope="module")
def mesh():
    return HandMesh(ASSETS)


@pytest.mark.parametrize("mirror", [False, True])
def test_joints_lie_on_the_rendered_hand(scenes, mirror):
    """Rendered alone, every joint lies on the picture of the hand and not in front of its skin; a tip, which marks the
    end of the skin, at most 2.5 pixels beside it."""
    camera = Camera(300.0, (128.0, 128.0), 256)
    renderer = Renderer(256, scenes.mesh.atlases()[:1], grain(), supersample=1)
    flip = np.diag([-1.0 if mirror else 1.0, 1, 1])
    inner = [j for j in range(21) if j not in FINGERTIPS]
    for seed in range(12):
        rng = np.random.default_rng(seed)
        hand = random_actor(rng, scenes.mesh, CONFIG, bare=True)
        hand = hand.moved(flip @ random_view(rng, CONFIG, hand.wrist), np.array([0.0, 0.0, 0.35]))
        assert hand.side == ("left" if mirror else "right")
        bare = replace(hand.solids[0], look=replace(hand.solids[0].look, atlas=0))
        _, depth = renderer.render(camera, [bare], random_light(rng, scenes.backgrounds.panoramas[0], CONFIG))
        column, row = camera.project(hand.joints).astype(int).T
        beside = cv2.distanceTransform((depth == 0).astype(np.uint8), cv2.DIST_L2, 5)[row, column]
        assert (beside[inner] == 0).all()
        assert beside.max() < 2.5
        assert (depth[row, column] < hand.joints[:, 2])[inner].all()


def test_a_crop_is_upright_and_centred_within_its_slack(scenes):
    checked = 0
    for index in range(40):
        label = writer.sample(scenes, "crop", "train", 3, index).label
        if not label["present"]:
            continue
        uv, xyz = np.array(label["uv"]), np.array(label["xyz"])
        crop = aligned_crop(uv)
        if np.linalg.norm(uv[MIDDLE_MCP] - uv[WRIST]) > 20:
            assert abs(crop.angle) < np.deg2rad(30)
        assert np.abs(np.array(crop.center) - 80).max() < 0.25 * crop.side
        assert crop.side < 128 * 1.25
        assert 0.5 < skeleton_length(xyz) / REFERENCE_SKELETON_LENGTH < 1.6
        # uv is the projection of xyz: bones in the picture and in space agree up to perspective.
        weak = (xyz[:, :2] - xyz[WRIST, :2]) * label["depth_scale"]
        assert np.abs((uv - uv[WRIST]) - weak).max() < 0.5 * 128
        checked += 1
    assert checked > 30


def test_reference_length_is_the_mean_of_the_synthetic_hands(mesh):
    lengths = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scale = random_shape(rng)
        lengths.append(skeleton_length(mesh._joints(mesh.kinematics(random_pose(rng, mesh, scale), scale), scale)))
    assert np.mean(lengths) == pytest.approx(REFERENCE_SKELETON_LENGTH, rel=0.02)


def test_rest_skeleton_is_a_grown_up_s(mesh):
    """tests/benchmarks/test_layouts.py compares its joints with those of data sets."""
    joints = mesh._joints(mesh.kinematics(np.zeros((26, 3)), np.ones((26, 3))), np.ones((26, 3)))
    lengths = [np.linalg.norm(joints[b] - joints[a]) for a, b in BONES]
    assert 0.015 < min(lengths) and max(lengths) < 0.09


def test_poses_stay_within_joint_limits(mesh):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        angles = -random_pose(rng, mesh, np.ones((26, 3)))
        mcp, pip, dip = angles[[6, 11, 16, 21], 0], angles[[7, 12, 17, 22], 0], angles[[8, 13, 18, 23], 0]
        assert mcp.min() >= -0.44 and mcp.max() <= 1.6
        assert pip.min() >= -0.1 and pip.max() <= 1.92
        assert dip.min() >= -0.26 and dip.max() <= 1.3


@pytest.mark.parametrize("kind", writer.KINDS)
def test_a_sample_depends_on_its_number_only(scenes, kind):
    first = [writer.sample(scenes, kind, "train", 5, index) for index in (0, 1, 2)]
    again = [writer.sample(scenes, kind, "train", 5, index) for index in (2, 0, 1)]
    for a, b in zip(first, (again[1], again[2], again[0])):
        assert a.label == b.label
        np.testing.assert_array_equal(a.image, b.image)
    held_out = writer.sample(scenes, kind, "val", 5, 0)
    assert not np.array_equal(held_out.image, first[0].image)


def test_frames_hold_left_and_right_hands_inside_the_picture(scenes):
    sides, counts = set(), set()
    for index in range(30):
        made = writer.sample(scenes, "frame", "train", 1, index)
        assert made.image.shape == (256, 256, 3)
        counts.add(len(made.label["hands"]))
        for hand in made.label["hands"]:
            sides.add(hand["side"])
            center = np.mean(hand["uv"], axis=0)
            assert (center > -160).all() and (center < 416).all()
            xyz = np.array(hand["xyz"])
            assert xyz[:, 2].min() > 0.03
            # Fingers curl towards the palm, which lies on opposite sides of wrist-index-little for the two hands.
            out = np.cross(xyz[5] - xyz[0], xyz[17] - xyz[0])
            curl = np.mean([(xyz[tip] - xyz[base]) @ out for tip, base in ((8, 5), (12, 9), (16, 13), (20, 17))])
            assert curl > -0.2e-4 if hand["side"] == "right" else curl < 0.2e-4
    assert sides == {"left", "right"} and counts == {0, 1, 2}


def test_shards_hold_pictures_with_labels_and_are_not_made_twice(tmp_path):
    shards = writer.plan(tmp_path, "crop", "val", 5, seed=2)
    done = []
    try:
        writer.write_shards(shards, ASSETS, 1, done.append)
    except DataError as error:
        pytest.skip(str(error))
    assert sum(done) == 5 and [p.name for p in tmp_path.iterdir()] == ["val-00000.tar"]
    with tarfile.open(shards[0].path) as tar:
        names = tar.getnames()
        label = json.load(tar.extractfile("0000003.json"))
        picture = cv2.imdecode(np.frombuffer(tar.extractfile("0000003.jpg").read(), np.uint8), cv2.IMREAD_COLOR)
    assert len(names) == 10 and label["kind"] == "crop" and picture.shape == (160, 160, 3)
    before = shards[0].path.stat().st_mtime_ns
    writer.write_shards(shards, ASSETS, 1, done.append)
    assert shards[0].path.stat().st_mtime_ns == before


def test_missing_assets_are_named(tmp_path):
    with pytest.raises(DataError, match="make assets"):
        HandMesh(tmp_path)
    with pytest.raises(DataError, match="make assets"):  # from the process that would have rendered
        writer.write_shards(writer.plan(tmp_path / "out", "crop", "val", 1, seed=2), tmp_path, 1, lambda done: None)


def test_sheet_draws_joints(scenes):
    picture = writer.contact_sheet([writer.sample(scenes, "crop", "train", 7, index) for index in range(4)])
    assert picture.shape == (192, 1920, 3)
    plain, marked = picture[:, :192], picture[:, 192:384]
    assert (plain != marked).any()
    assert io.BytesIO(cv2.imencode(".png", picture)[1].tobytes()).getbuffer().nbytes > 10_000
