"""Real samples of other data sets: their hands are read rightly, and our joints are where they have theirs."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from edge_hands.crops import aligned_crop  # noqa: E402

LAYOUTS = Path(__file__).parents[3] / "shared/data/layouts"
ASSETS = Path(__file__).parents[2] / "node_modules"


@pytest.fixture(scope="module")
def bench(script):
    return script("layouts")


@pytest.fixture(scope="module")
def hands(bench):
    found = list(bench.hands(LAYOUTS))
    if not found:
        pytest.skip(f"no samples in {LAYOUTS}")
    return found


def test_a_folder_without_samples_is_said(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["layouts.py", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match="no samples in"):
        bench.main()


def test_distances_are_compared_at_one_scale(bench, rng):
    joints = rng.normal(size=(21, 3)) * 0.05
    assert bench.convention_error(joints, [joints * 3.0, joints * 3.0]) < 1e-12
    moved = joints.copy()
    moved[0] += 0.03
    assert bench.convention_error(moved, [joints]) > 0.003


def test_hands_have_joints_where_their_pictures_and_cameras_say(hands):
    assert {hand.data_set for hand in hands} == {"FreiHAND", "RHD", "InterHand2.6M"}
    for hand in hands:
        assert hand.image.is_file() and hand.uv.shape == (21, 2)
        assert aligned_crop(hand.uv).side > 20
        if hand.xyz is not None:
            flat = hand.xyz[:, :2] / hand.xyz[:, 2:]  # a camera scales and shifts it
            slope = [np.polyfit(flat[:, axis], hand.uv[:, axis], 1)[0] for axis in (0, 1)]
            assert slope[0] == pytest.approx(slope[1], rel=0.05) and slope[0] > 100


@pytest.mark.parametrize("data_set", ["RHD", "InterHand2.6M"])
def test_synthetic_joints_are_where_data_sets_have_them(bench, hands, data_set):
    """Within 3 mm, as far as the two data sets differ themselves; until 2026-11-30 it was 5.6 and 3.2 mm."""
    hand_mesh = pytest.importorskip("edge_hands.quantization.data.synthetic.hand_mesh")
    pytest.importorskip("pygltflib")
    if not (ASSETS / "@webxr-input-profiles").is_dir():
        pytest.skip("the mesh is not here: run `make assets`")
    mesh = hand_mesh.HandMesh(ASSETS)
    joints = mesh._joints(mesh.kinematics(np.zeros((26, 3)), np.ones((26, 3))), np.ones((26, 3)))
    others = [hand.xyz for hand in hands if hand.data_set == data_set]
    assert len(others) >= 3
    assert bench.convention_error(joints, others) < 0.003
