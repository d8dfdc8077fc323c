"""Folding, the fake-quant graph, its storage, and what the quantizer leaves alone."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from torch import nn  # noqa: E402

from edge_hands import models  # noqa: E402
from edge_hands.errors import DataError, ExportError  # noqa: E402
from edge_hands.quantization import checkpoint, qat  # noqa: E402
from edge_hands.quantization.fold import fold_batch_norms  # noqa: E402
from edge_hands.quantization.quantizer import SCANS, layer_name  # noqa: E402
from edge_hands.quantization.sensitivity import layers  # noqa: E402

SMALL = {"depths": (1, 0, 1, 1, 0, 0)}


def lived_in(name: str) -> nn.Module:
    """A model whose norms and sampling layers are no longer as they start, in eval mode."""
    torch.manual_seed(3)
    model = models.create(name, **SMALL)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".offset." in key or ".weight_proj." in key:
                parameter.add_(torch.randn_like(parameter) * 0.05)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return model.eval()


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Smooth images (count, 64, 64, 3) in [0, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (64, 64), mode="bilinear").permute(0, 2, 3, 1).contiguous()


@pytest.fixture(scope="module")
def calibrated() -> tuple[nn.Module, torch.fx.GraphModule]:
    """A float model and its prepared graph with ranges."""
    model = lived_in("test_dfmamba")
    graph = qat.prepare(model)
    qat.observe(graph, observers=True, fake_quant=False)
    with torch.no_grad():
        graph(pictures(16))
    qat.observe(graph, observers=False, fake_quant=True)
    return model, graph


@pytest.fixture(scope="module")
def converted(calibrated) -> qat.QuantizedModel:
    """What it becomes; nobody may change it."""
    return qat.convert(*reversed(calibrated))


@pytest.mark.parametrize("name", ["test_dfmamba", "test_detector"])
def test_folding_keeps_the_outputs_and_leaves_no_norm(name: str) -> None:
    model = lived_in(name)
    folded = fold_batch_norms(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())  # the original is left alone
    image = pictures(3).permute(0, 3, 1, 2)
    with torch.inference_mode():
        before, after = model.features(image), folded.features(image)
    for key, tensor in before.items():
        assert (after[key] - tensor).abs().max() <= 1e-4 * max(1.0, float(tensor.abs().max())), key


def test_a_layer_norm_cannot_fold_and_says_so() -> None:
    with pytest.raises(ExportError, match="cannot fold backbone.stage3.0.norm.*norm='batch'"):
        fold_batch_norms(models.create("test_dfmamba", norm="layer", **SMALL))


def test_float_layers_stay_out_of_int8(converted) -> None:
    quantised, plain = set(), set()
    for node in converted.body.graph.nodes:
        if node.op == "call_function" and node.target is torch.ops.aten.conv2d.default:
            layer = list(node.meta["nn_module_stack"].values())[-1][0]
            is_int8 = "dequantize_per_channel" in str(node.args[1].target)
            (quantised if is_int8 else plain).add(layer.rsplit("model.", 1)[-1])
    assert {name.split(".")[-1] for name in plain} == {"offset", "weight_proj", "project", "delta", "maps"}
    assert any("mix.offset" in name for name in plain)
    assert any("mix.project" in name for name in plain)
    assert any("head.maps" in name for name in plain)
    assert not any("mix" in name for name in quantised)
    assert any("stage3.0.enter" in name for name in quantised)
    assert len(quantised) > len(plain)


def test_large_float_layers_hold_float16_numbers() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(256, 256, 1), nn.Conv2d(256, 2, 1))
    before = [layer.weight.detach().clone() for layer in layers]
    graph = torch.export.export(layers, (torch.zeros(1, 256, 2, 2),)).module()
    qat._snap(graph)
    large, small = (parameter.detach() for name, parameter in graph.named_parameters() if "weight" in name)
    assert torch.equal(large, before[0].half().float()) and not torch.equal(large, before[0])
    assert torch.equal(small, before[1])
    assert [qat.fits_half(weight) for weight in (large, before[0], small.half().float())] == [True, False, False]


def test_weights_are_symmetric_per_channel_and_activations_int8(converted) -> None:
    body, ops = converted.body, torch.ops.quantized_decomposed
    weights = [n for n in body.graph.nodes if n.target is ops.quantize_per_channel.default]
    assert weights
    for node in weights:
        zero_points = body.get_buffer(node.args[2].target) if node.args[2].op == "get_attr" else None
        assert zero_points is None or not zero_points.any()
        assert node.args[3:6] == (0, -127, 127)
    for scale, zero_point in qat.activation_scales(body):
        assert scale > 0
        assert -128 <= zero_point <= 127


def test_prepared_and_converted_graphs_agree_but_for_rounding(calibrated, converted) -> None:
    model, graph = calibrated
    images = pictures(4, seed=1)
    with torch.inference_mode():
        prepared, found, exact = graph(images), converted.body(images), graph_free(model, images)
    for key in prepared:
        noise = (prepared[key] - exact[key]).abs().mean()  # values rounded apart early differ in all that follows
        assert (prepared[key] - found[key]).abs().mean() <= 2.0 * noise + 1e-6, key


def test_weights_and_biases_lie_on_the_grid_of_the_kernels(converted) -> None:
    """No converter can round them to another integer: each is a whole number of steps already."""
    body, ops = converted.body, torch.ops.quantized_decomposed
    seen = 0
    for layer in body.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default):
        x, weight, bias = layer.args[:3]
        if weight.target is not ops.dequantize_per_channel.default:
            continue
        source, scale = weight.args[0].args[:2]
        values, scales = body.get_parameter(source.target).double(), attrgetter(scale.target)(body).double()
        steps = values / scales.view(-1, 1, 1, 1)
        assert (steps - steps.round()).abs().max() < 1e-4
        steps = body.get_parameter(bias.target).double() / (x.args[1] * scales)
        small = steps.abs() < 2**20
        assert (steps - steps.round())[small].abs().max() < 0.1
        seen += 1
    assert seen > 10


def graph_free(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return model.features(images.permute(0, 3, 1, 2))


def test_the_quantised_model_keeps_the_interface_and_stays_near_the_float_one(calibrated, converted) -> None:
    model, _ = calibrated
    images = pictures(4)
    with torch.inference_mode():
        outputs, exact = converted(images), model(images)
    assert tuple(outputs) == model.outputs.names
    assert converted.eval() is converted
    assert (outputs["joints_uv"] - exact["joints_uv"]).abs().max() < 0.02
    assert (outputs["confidence"] - exact["confidence"]).abs().max() < 0.1


def test_fine_tuning_reaches_every_weight_through_the_fake_quant(calibrated) -> None:
    model, _ = calibrated
    graph = qat.prepare(model)
    qat.observe(graph, observers=True, fake_quant=True)
    features = graph(pictures(4))
    sum(tensor.square().mean() for tensor in features.values()).backward()
    silent = [key for key, p in graph.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_a_quantised_checkpoint_comes_back_as_it_was(calibrated, converted, tmp_path: Path) -> None:
    _, graph = calibrated
    meta = checkpoint.Meta("test_dfmamba", {"depths": list(SMALL["depths"])}, step=7, stage=qat.STAGE)
    checkpoint.save(tmp_path, graph, meta)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "model.safetensors"]  # no pickle
    content = json.loads((tmp_path / checkpoint.META).read_text())
    assert content.pop("scheme") == {}
    (tmp_path / checkpoint.META).write_text(json.dumps(content))  # as from before schemes
    again = qat.load_quantized(tmp_path)
    assert qat.activation_scales(again.body) == qat.activation_scales(converted.body)
    images = pictures(4, seed=2)
    with torch.inference_mode():
        before, found = converted(images), again(images)
    for key, tensor in before.items():
        assert torch.allclose(found[key], tensor, atol=2e-3), key


def test_a_float_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, models.create("test_dfmamba", **SMALL), checkpoint.Meta("test_dfmamba", SMALL))
    with pytest.raises(DataError, match="is a float checkpoint.*edge-hands quantize"):
        qat.load_quantized(tmp_path)


def test_tensors_of_another_model_are_refused(calibrated, tmp_path: Path) -> None:
    _, graph = calibrated
    checkpoint.save(tmp_path, graph, checkpoint.Meta("test_dfmamba", SMALL, stage=qat.STAGE))
    path = tmp_path / checkpoint.META
    path.write_text(json.dumps(json.loads(path.read_text()) | {"overrides": {"depths": [1, 0, 1, 0, 0, 0]}}))
    with pytest.raises(DataError, match="do not fit the quantised graph of test_dfmamba"):
        qat.load_quantized(tmp_path)


#: Layers of the test model, by the names that ``--sensitivity`` prints.
KEPT = ("backbone.stem.1.0", "backbone.stage3.0.enter")


@pytest.fixture(scope="module")
def chosen() -> tuple[torch.fx.GraphModule, torch.fx.GraphModule, qat.Scheme]:
    """A calibrated graph with two layers kept in float32 and int8 scans, what it becomes, and that scheme."""
    scheme = qat.Scheme(KEPT, int8_scans=True)
    model = lived_in("test_dfmamba")
    graph = qat.prepare(model, scheme)
    qat.observe(graph, observers=True, fake_quant=False)
    with torch.no_grad():
        graph(pictures(16))
    qat.observe(graph, observers=False, fake_quant=True)
    return graph, qat.convert(graph, model).body, scheme


def test_a_kept_layer_is_float_and_its_neighbours_are_not(calibrated, chosen) -> None:
    graph, body, _ = chosen
    every, fewer = layers(calibrated[1]), layers(graph)
    assert every.keys() - fewer.keys() == set(KEPT)
    assert fewer.keys() - every.keys() == {"backbone.stage3.0.mix"}  # the scan
    for node in body.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default):
        if layer_name(node) in KEPT:
            assert node.args[1].op == "get_attr"  # float weights


def test_a_kept_layer_computes_what_the_float_network_computes(chosen) -> None:
    _, body, _ = chosen
    images = pictures(2)
    float_stem = fold_batch_norms(lived_in("test_dfmamba")).backbone.stem
    convolutions = body.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    layer = next(node for node in convolutions if layer_name(node) == KEPT[0])
    seen: dict[str, torch.Tensor] = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            seen[node.name] = value
            return value

    with torch.inference_mode():
        Watch(body).run(images)
        exact = float_stem[1][0](seen[layer.args[0].name])
    assert torch.allclose(seen[layer.name], exact, atol=1e-5)


def test_int8_scans_read_the_scale_of_the_layer_before_and_have_their_own(chosen) -> None:
    _, body, _ = chosen
    (scan,) = (node for node in body.graph.nodes if node.target in SCANS)
    ops = torch.ops.quantized_decomposed
    before, (after,) = scan.args[0], scan.users
    assert before.target is ops.dequantize_per_tensor.default
    assert after.target is ops.quantize_per_tensor.default
    made = before.args[0].args[0]
    while made.target is not ops.dequantize_per_tensor.default:
        made = made.args[0]
    assert made.args[1:3] == before.args[1:3]
    assert after.args[1] > 0 and after.args[1:3] != before.args[1:3]


def test_the_scheme_travels_with_the_checkpoint(chosen, tmp_path: Path) -> None:
    graph, body, scheme = chosen
    meta = checkpoint.Meta("test_dfmamba", SMALL, stage=qat.STAGE, scheme=scheme.as_dict())
    checkpoint.save(tmp_path, graph, meta)
    assert json.loads((tmp_path / checkpoint.META).read_text())["scheme"] == {
        "keep_float": list(KEPT),
        "int8_scans": True,
    }
    assert qat.activation_scales(qat.load_quantized(tmp_path).body) == qat.activation_scales(body)
    config = {"model": "test_dfmamba", "overrides": SMALL}  # without the scheme another graph
    with pytest.raises(DataError, match="do not fit the quantised graph"):
        qat.rebuild(checkpoint.load_tensors(tmp_path, checkpoint.MODEL, 0), config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "backbone.stem.1.1",
            r"no int8 layer is called 'backbone.stem.1.1'; near it are backbone.stem.1.0, .*--sensit",
        ),
        ("zzz", r"no int8 layer is called 'zzz' \(`edge-hands quantize --sensitivity` lists all\)"),
        ("head.maps", "head.maps is float32 in any case"),
    ],
)
def test_a_layer_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        qat.prepare(models.create("test_dfmamba", **SMALL), qat.Scheme((KEPT[0], name)))


@pytest.mark.parametrize("stored", [{"keep_float": "a"}, {"keep_float": [1]}, {"int8_scans": 1}, {"else": True}])
def test_a_scheme_that_is_none_is_refused(stored: dict) -> None:
    with pytest.raises(DataError, match="a quantisation scheme holds keep_float"):
        qat.Scheme.of(stored)
