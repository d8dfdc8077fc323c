"""Ingredients of the synthetic scenes: shapes, skin maps, poses, lenses, shadows, and that each can be switched off."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ASSETS = Path(__file__).parents[2] / "node_modules"
for package in ("moderngl", "OpenEXR", "pygltflib", "skimage"):
    pytest.importorskip(package)
if not (ASSETS / "@webxr-input-profiles").is_dir():
    pytest.skip("meshes and panoramas are not here: run `make assets`", allow_module_level=True)

from edge_hands.errors import DataError  # noqa: E402
from edge_hands.quantization.data.synthetic import ablation, objects, sensor  # noqa: E402
from edge_hands.quantization.data.synthetic.actor import random_actor, random_view  # noqa: E402
from edge_hands.quantization.data.synthetic.config import SceneConfig  # noqa: E402
from edge_hands.quantization.data.synthetic.hand_mesh import HandMesh  # noqa: E402
from edge_hands.quantization.data.synthetic.pose import PoseShares, random_pose, random_shape  # noqa: E402
from edge_hands.quantization.data.synthetic.renderer import Camera, Light, Renderer  # noqa: E402
from edge_hands.quantization.data.synthetic.skin import grain, skin_color  # noqa: E402

INDEX, TIPS = (5, 6, 7, 8), (8, 12, 16, 20)
BARE = replace(SceneConfig(), sleeve=0.0)


@pytest.fixture(scope="module")
def mesh():
    return HandMesh(ASSETS)


@pytest.fixture(scope="module")
def renderer(mesh):
    try:
        return Renderer(128, mesh.atlases(), grain(), supersample=1)
    except DataError as error:
        pytest.skip(str(error))


def _joints(mesh, rng, shares):
    scale = random_shape(rng)
    return mesh._joints(mesh.kinematics(random_pose(rng, mesh, scale, shares), scale), scale)


def test_the_mesh_is_closed_and_faces_outwards(mesh):
    """Every edge but the arm's seam has two faces that run along it in opposite directions."""
    rest = mesh.arm(0.1, 1.2)
    _, same = np.unique(rest.vertices.round(6), axis=0, return_inverse=True)
    faces = same.ravel()[mesh.faces]
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forth, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 1).all()
    assert np.array_equal(forth, np.unique(edges[:, ::-1], axis=0))
    corners = rest.vertices[mesh.faces]
    out = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((out * rest.normals[mesh.faces[:, 0]]).sum(1) > 0).mean() > 0.99
    np.testing.assert_allclose(rest.skin.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [objects.box(), objects.cylinder(), objects.ball(), objects.torus()])
def test_shapes_are_closed_and_face_outwards(shape):
    vertices, normals, uv, faces = shape
    assert len(vertices) == len(normals) == len(uv)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    assert (np.cross(a, b) * c).sum() > 0  # six times the enclosed volume
    assert ((np.cross(b - a, c - a) * normals[faces].mean(1)).sum(1) > 0).all()


def test_skin_maps_lie_where_they_belong(mesh):
    """Nails cover five spots on the back of the fingertips; the flexion crease of the index is at its joint."""
    crease, vein, nail, flush = np.moveaxis(mesh.atlases()[0] / 255.0, -1, 0)
    position, normal = mesh.texels.position, mesh.texels.normal
    up = mesh._bind[0, :3, 1]
    tips = mesh._bind[[4, 9, 14, 19, 24], :3, 3]
    spots = position[nail > 0.8]
    nearest = np.linalg.norm(spots[:, None] - tips, axis=-1)
    assert set(nearest.argmin(1)) == set(range(5)) and nearest.min(1).max() < 0.016
    assert (normal[(nail > 0.8)][np.isin(nearest.argmin(1), (1, 2, 3, 4))] @ up > 0).mean() > 0.95
    assert (normal[vein > 0.3] @ up > 0).all()
    frame = mesh._bind[7]  # the index's middle joint
    at = (position - frame[:3, 3]) @ frame[:3, :3]
    palmar = (normal @ frame[:3, 1] < -0.7) & (np.abs(at[..., 0]) < 0.006) & (np.abs(at[..., 1]) < 0.015)
    on, off = palmar & (np.abs(at[..., 2]) < 0.002), palmar & (np.abs(np.abs(at[..., 2]) - 0.008) < 0.002)
    assert crease[on].max() > 0.4 and crease[off].max() < 0.2
    assert flush.max() > 0.3


def test_grain_tiles():
    noise = grain().astype(float)
    assert noise.std(axis=(0, 1)).min() > 30
    across = np.abs(noise[:, 0, 0] - noise[:, -1, 0]).mean()
    assert across < 3 * np.abs(np.diff(noise[:, :, 0], axis=1)).mean()


def test_families_of_poses(mesh):
    """Pinches touch, fists are closed, hooks are bent beyond a straight knuckle."""
    rng = np.random.default_rng(3)
    only = dict(together=0, signs=0, hooked=0, fist=0, pinch=0, grip=0)
    pinches = [_joints(mesh, rng, PoseShares(**only | {"pinch": 1})) for _ in range(30)]
    reach = [np.linalg.norm(j[list(TIPS)] - j[4], axis=1).min() for j in pinches]
    assert np.median(reach) < 0.022
    fists = [_joints(mesh, rng, PoseShares(**only | {"fist": 1})) for _ in range(20)]
    apart = [np.linalg.norm(j[list(TIPS)] - j[[5, 9, 13, 17]], axis=1).mean() for j in fists]
    opened = [_joints(mesh, rng, PoseShares(**only | {"together": 1})) for _ in range(20)]
    assert np.median(apart) < 0.045 and max(apart) < 0.065 < np.mean([np.linalg.norm(j[8] - j[5]) for j in opened])
    hooks = [random_pose(rng, mesh, np.ones((26, 3)), PoseShares(**only | {"hooked": 1})) for _ in range(20)]
    mcp, pip = -np.array(hooks)[:, [6, 11, 16, 21], 0], -np.array(hooks)[:, [7, 12, 17, 22], 0]
    bent = pip > 0.7
    assert bent.mean() > 0.5 and mcp[bent].max() < 0.75


def test_held_things_meet_the_hand_and_rings_its_finger(mesh):
    rng = np.random.default_rng(1)
    for _ in range(20):
        hand = random_actor(rng, mesh, replace(BARE, held_object=1.0, ring=1.0, glove=0.0, watch=0.0))
        skin, thing, ring = hand.solids
        assert np.linalg.norm(thing.vertices.mean(0) - hand.joints, axis=1).min() < 0.09
        center = ring.vertices.mean(0)
        roots = hand.joints[[5, 9, 13, 17]]
        bones = hand.joints[[6, 10, 14, 18]] - roots
        along = ((center - roots) * bones).sum(1) / (bones * bones).sum(1)
        beside = np.linalg.norm(center - roots - along[:, None] * bones, axis=1)
        assert 0.4 < along[beside.argmin()] < 0.8 and beside.min() < 0.003
        assert np.linalg.norm(skin.vertices - center, axis=1).min() < 0.013


def test_egocentric_views_look_from_the_wrist_at_the_back(mesh):
    rng = np.random.default_rng(0)
    config = replace(SceneConfig(), any_view=0.0, side_view=0.0, ego_view=1.0)
    farther, back = [], []
    for _ in range(40):
        hand = random_actor(rng, mesh, BARE, bare=True)
        turned = hand.moved(random_view(rng, config, hand.wrist), np.array([0, 0, 0.4]))
        farther.append(turned.joints[9, 2] > turned.joints[0, 2])
        back.append(turned.wrist[2, 1] < 0)  # +y leaves the back of the hand; the camera looks along +z
    assert np.mean(farther) > 0.9 and np.mean(back) > 0.8


def test_a_wide_lens_moves_points_with_the_picture():
    rng = np.random.default_rng(0)
    points = rng.uniform(30, 130, (12, 2))
    for seed in range(5):
        image = np.zeros((160, 160, 3), np.uint8)
        rows, columns = np.indices((160, 160))
        warped_points = sensor.fisheye(np.random.default_rng(seed), image, [points])[1][0]
        for point, moved in zip(points[:4], warped_points):
            spot = np.exp(-((columns + 0.5 - point[0]) ** 2 + (rows + 0.5 - point[1]) ** 2) / 18)
            picture = np.repeat((spot * 255).astype(np.uint8)[..., None], 3, 2)
            seen = sensor.fisheye(np.random.default_rng(seed), picture, [])[0][..., 0].astype(float)
            center = np.array([(seen * (columns + 0.5)).sum(), (seen * (rows + 0.5)).sum()]) / seen.sum()
            assert np.abs(center - moved).max() < 0.25


def test_a_camera_without_effects_changes_nothing_and_a_grey_one_has_no_colour():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(sensor.expose(rng, image, sensor.SensorConfig.none()), image)
    grey = sensor.expose(rng, image, replace(sensor.SensorConfig.none(), grey=1.0))
    assert (np.ptp(grey.astype(int), axis=2) == 0).all() and grey.std() > 5


def test_shadows_only_darken(mesh, renderer):
    rng = np.random.default_rng(4)
    hand = random_actor(rng, mesh, BARE, bare=True)
    hand = hand.moved(random_view(rng, BARE, hand.wrist), np.array([0, 0, 0.4]))
    sh = np.zeros((9, 3))
    sh[0] = 0.3
    direct = np.array([0.9, -0.3, -0.3]) / np.linalg.norm([0.9, -0.3, -0.3])
    camera = Camera(300.0, (64.0, 64.0), 128)
    light = Light(sh, np.eye(3), direct, np.full(3, 0.8))
    shaded, depth = renderer.render(camera, list(hand.solids), light)
    plain, _ = renderer.render(camera, list(hand.solids), replace(light, shadows=False))
    change = shaded[depth > 0].astype(int) - plain[depth > 0]
    assert change.max() <= 1 and (change < -20).any() and (change == 0).any()


def test_tones_span_light_to_dark():
    tones = np.array([skin_color(np.random.default_rng(seed)) for seed in range(300)]).mean(1)
    assert tones.min() < 0.3 and tones.max() > 0.75


def test_every_ingredient_of_the_ablation_changes_the_scene():
    full = SceneConfig()
    for name in ablation.WITHOUT:
        assert ablation.variant(name) != full
    assert ablation.variant(ablation.EVERYTHING) == full


def test_the_ablation_table_shows_changes_beside_the_noise():
    def record(name, repeat, error):
        return {"name": name, "repeat": repeat, "scores": {"real": {"error_2d_percent": error, "pa_mpjpe_mm": 10.0}}}

    lines = ablation.table(
        [record("everything", 0, 4.0), record("skin maps", 0, 4.6), record("everything", 1, 4.2)]
    ).splitlines()
    assert lines[2] == "| nothing (mean of 2) | 4.10 | 10.00 |"
    assert lines[3] == "| spread of those | 0.20 | 0.00 |"
    assert lines[4] == "| skin maps | +0.50 | +0.00 |"


@pytest.mark.slow
def test_an_ablation_keeps_the_runs_that_are_done(crop_shards, tmp_path, monkeypatch):
    """The command for real, in small: rendered, fine-tuned, measured; again, with nothing to do but the table."""
    pytest.importorskip("safetensors")
    from typer import Typer
    from typer.testing import CliRunner

    from edge_hands import models
    from edge_hands.errors import DataError
    from edge_hands.quantization import checkpoint

    start, out = tmp_path / "start", tmp_path / "out"
    checkpoint.save(start, models.create("test_dfmamba"), checkpoint.Meta("test_dfmamba"))
    app = Typer()
    app.command()(ablation.command)
    words = ["--out", out, "--test", f"drawn={crop_shards}", "--start", start, "--assets", ASSETS, "--repeats", 1]
    words += ["--only", "skin maps", "--count", 32, "--samples", 32, "--evaluate", 8]

    def ablate(*changes) -> list[str]:
        done = CliRunner().invoke(app, list(map(str, [*words, *changes])), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output.splitlines()

    lines = ablate()
    assert [json.loads(line)["name"] for line in lines[:2]] == ["everything", "skin maps"]
    assert lines[2].startswith("| left out | drawn: error_2d_percent") and lines[-1].startswith("| skin maps |")
    assert (out / "table.md").read_text().splitlines() == lines[2:]
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "table.md"}
    assert ablate() == lines
    assert {path: path.stat().st_mtime_ns for path in made} == made
    with pytest.raises(DataError, match=r"made with other settings \(samples\)"):
        ablate("--samples", 64)
