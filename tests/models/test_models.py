"""Networks: shapes, gradients, sizes, and that the numbers they give mean what the interface says."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_hands import models  # noqa: E402
from edge_hands.errors import DataError  # noqa: E402
from edge_hands.hands import REFERENCE_SKELETON_LENGTH, skeleton_length  # noqa: E402
from edge_hands.models.heads import GridHead, HeatmapHead, Lift  # noqa: E402


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_the_registry_lists_every_variant_by_kind() -> None:
    assert models.list_models() == ["detector_edge", "dfmamba_base", "dfmamba_edge", "test_detector", "test_dfmamba"]
    assert models.list_models("detector") == ["detector_edge", "test_detector"]


def test_overrides_reach_the_config_and_lists_become_tuples() -> None:
    model = models.create("test_dfmamba", depths=[1, 1, 2, 1, 1, 0], states=2)
    assert model.config.depths == (1, 1, 2, 1, 1, 0)
    assert (model.name, model.kind) == ("test_dfmamba", "landmarks")
    assert len(model.backbone.stage3) == 4  # two blocks and their feed-forwards


def test_an_unknown_model_or_setting_is_a_sentence() -> None:
    with pytest.raises(DataError, match="no model is called 'resnet'.*dfmamba_edge"):
        models.create("resnet")
    with pytest.raises(DataError, match="test_dfmamba has no setting width"):
        models.create("test_dfmamba", width=3)


def test_landmark_outputs_have_the_shapes_of_the_interface() -> None:
    model = models.create("test_dfmamba").eval()
    with torch.inference_mode():
        outputs = model(torch.rand(2, 64, 64, 3))
    shapes = {name: tuple(tensor.shape) for name, tensor in outputs.items()}
    assert shapes == {
        "joints_uv": (2, 21, 2),
        "joints_xyz": (2, 21, 3),
        "confidence": (2, 21),
        "presence": (2,),
        "handedness": (2,),
    }
    assert tuple(outputs) == model.outputs.names
    assert all(tensor.dtype == torch.float32 for tensor in outputs.values())
    assert outputs["joints_xyz"][:, 0].abs().max() == 0


def test_detector_outputs_have_the_shapes_of_the_interface() -> None:
    model = models.create("test_detector").eval()
    with torch.inference_mode():
        outputs = model(torch.rand(2, 64, 64, 3))
    shapes = {name: tuple(tensor.shape) for name, tensor in outputs.items()}
    assert shapes == {
        "scores": (2, 64),
        "boxes": (2, 64, 4),
        "points": (2, 64, 2, 2),
        "centers": (2, 64, 2),
        "sides": (2, 64),
        "handedness": (2, 64),
    }
    assert outputs["scores"].mean() == pytest.approx(0.018, abs=0.004)  # hands are rare at the start


@pytest.mark.parametrize("name", ["test_dfmamba", "test_detector"])
def test_gradients_reach_every_parameter(name: str) -> None:
    model = models.create(name).train()
    features = model.features(torch.rand(2, 3, 64, 64))
    sum(tensor.square().mean() for tensor in features.values()).backward()
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("name", ["test_dfmamba", "test_detector"])
def test_autocast_keeps_the_features_in_float32_and_close(name: str) -> None:
    model = models.create(name).eval()
    image = torch.rand(2, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        exact = model.features(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.features(image)
    for key, tensor in exact.items():
        assert rough[key].dtype == torch.float32
        assert torch.allclose(rough[key], tensor, atol=0.05 * float(tensor.abs().max()) + 1e-3), key


def test_maps_of_stages_reach_the_neck() -> None:
    model = models.create("test_dfmamba", stage_taps=True).eval()
    plain = models.create("test_dfmamba").eval()
    image = torch.rand(1, 3, 64, 64)
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        begun, without = (network.features(image)["heatmap_logits"] for network in (model, plain))
        assert torch.equal(begun, without)  # they begin as nothing
        for stage in model.neck.stages:
            before = model.features(image)["heatmap_logits"]
            stage[1].weight.normal_()
            assert (model.features(image)["heatmap_logits"] - before).abs().max() > 1e-3
    maps = model.backbone(image)
    shapes = [tuple(found.shape[1:]) for found in maps]
    assert shapes == [(16, 8, 8), (32, 4, 4), (64, 2, 2), (64, 2, 2), (16, 8, 8), (32, 4, 4)]


def test_the_paper_variant_takes_layer_norm_and_raster_convolutions() -> None:
    model = models.create(
        "dfmamba_base", image_size=64, stem=8, widths=(8, 16, 32, 64), depths=(1, 1, 1, 1, 1, 1), neck=32, norm="layer"
    )
    with torch.inference_mode():
        assert model.eval()(torch.rand(1, 64, 64, 3))["joints_uv"].shape == (1, 21, 2)
    assert model.config.token_conv == "raster"


def test_edge_models_stay_within_their_budgets() -> None:
    edge, detector = models.create("dfmamba_edge"), models.create("detector_edge")
    assert models.count_macs(edge) <= 140e6
    assert models.count_parameters(edge) <= 3.5e6
    assert models.count_macs(detector) <= 120e6
    assert models.count_parameters(detector) <= 1.2e6


def test_macs_agree_with_a_count_by_hand() -> None:
    model = models.create("test_detector", depths=(1, 0, 1, 1, 0, 0))
    conv = 32 * 32 * 8 * 27 + 16 * 16 * 8 * 8 * 9  # stem
    conv += 2 * 16 * 16 * 8 * 8 * 9  # stage 1
    conv += 8 * 8 * 16 * 8 * 9 + 4 * 4 * 32 * 16 * 9 + 2 * 2 * 32 * 32 * 9  # downsampling
    dssm = 16 * (3 * 32 * 32 + 32 * 9 + 32 * (18 + 9 + 2 + 2 * 4) + 2 * 32)  # enter, gate, out, conv, projections, dt
    dssm += 16 * 32 * (4 * 9 + 3 * 4)  # gather and scan
    ffn = 16 * 2 * 32 * 64
    gated = 16 * (3 * 32 * 64 + 64 * 9)
    neck = 16 * (64 * 16 + 16 * 32 + 2 * 4 * 32) + 8 * 8 * 16 * 16 * 9  # taps, smoothing
    head = 64 * 16 * 13
    assert models.count_macs(model) == conv + dssm + ffn + gated + neck + head


def test_a_planted_heat_map_is_decoded_to_its_cell() -> None:
    head = HeatmapHead(16, 16)
    maps = torch.zeros(1, 63, 16, 16)
    for joint in range(21):
        row, column = 2 + joint // 2, 15 - joint // 2
        maps[0, joint, row, column] = 50.0
        maps[0, 21 + joint] = 7.0  # depth and confidence elsewhere must not leak in
        maps[0, 21 + joint, row, column] = joint * 0.2
        maps[0, 42 + joint, row, column] = float(joint - 10)
    found = head.decode(maps)
    joints = torch.arange(21)
    expected = torch.stack([(15.5 - joints // 2) / 16, (2.5 + joints // 2) / 16], -1)
    assert torch.allclose(found["uv"][0], expected, atol=1e-5)
    assert torch.allclose(found["z"][0], joints * 0.2 * 0.25, atol=1e-5)  # crop sides, from the wrist
    assert torch.allclose(found["confidence_logits"][0], joints - 10.0, atol=1e-4)


def test_lifted_hands_have_the_reference_size_and_keep_their_shape(rng: np.random.Generator) -> None:
    uv = torch.tensor(rng.uniform(0.2, 0.8, (3, 21, 2)), dtype=torch.float32)
    z = torch.tensor(rng.normal(0, 0.1, (3, 21)), dtype=torch.float32)
    z = z - z[:, :1]
    xyz = Lift()(uv, z).numpy()
    assert skeleton_length(xyz) == pytest.approx([REFERENCE_SKELETON_LENGTH] * 3, rel=1e-5)
    assert np.abs(xyz[:, 0]).max() == 0
    ratio = xyz[:, 1:, :2] / (uv - uv[:, :1]).numpy()[:, 1:]  # one positive scale for each hand
    assert np.allclose(ratio, ratio[:, :1, :1], rtol=1e-3)
    assert (ratio > 0).all()
    assert np.allclose(xyz[:, 1:, 2] / ratio[:, :, 0], z[:, 1:], rtol=1e-3, atol=1e-6)


def test_lifting_a_hand_that_is_one_point_stays_finite() -> None:
    uv, z = torch.full((1, 21, 2), 0.5, requires_grad=True), torch.zeros(1, 21)
    xyz = Lift()(uv, z)
    xyz.sum().backward()
    assert torch.isfinite(xyz).all()
    assert torch.isfinite(uv.grad).all()


def test_a_detector_cell_speaks_of_its_own_place() -> None:
    raw = torch.zeros(1, 64, 13)
    raw[0, 19, 1:3] = torch.tensor([0.5, -0.5])  # row 2, column 3
    raw[0, 19, 3:7] = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    raw[0, 19, 7:11] = torch.tensor([0.0, 1.0, 0.0, -1.0])
    raw[0, 19, 11] = 9.0
    found = GridHead(16, 8).decode(raw)
    u, v = 3.5 / 8, 2.5 / 8
    assert found["centers"][0, 19].tolist() == pytest.approx([u + 0.125, v - 0.125])
    assert found["boxes"][0, 19].tolist() == pytest.approx([u - 0.25, v - 0.25, u + 0.25, v + 0.25])
    assert found["points"][0, 19].flatten().tolist() == pytest.approx([u, v + 0.25, u, v - 0.25])
    assert found["sides"][0, 19].item() == pytest.approx(0.25 * np.exp(3.0))  # the logarithm is clamped
    assert found["sides"][0, 0].item() == pytest.approx(0.25)


def test_the_dssm_starts_as_a_plain_scan_of_its_input() -> None:
    model = models.create("test_dfmamba")
    mix = model.backbone.stage3[0].mix
    x = torch.randn(1, 32, 4, 4)
    offset, weight = mix.offset(x), mix.weight_proj(x)
    assert offset.abs().max() == 0
    assert weight.unflatten(1, (-1, 9))[0, 0, :, 0, 0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    step = torch.nn.functional.softplus(mix.delta.bias)
    assert 0.99e-3 < step.min() < step.max() < 0.101
