"""Which layers int8 hurts: one that is made hopeless is named, and every int8 layer is listed once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from edge_hands import models  # noqa: E402
from edge_hands.cli.main import main  # noqa: E402
from edge_hands.errors import DataError  # noqa: E402
from edge_hands.quantization import checkpoint, qat  # noqa: E402
from edge_hands.quantization.data.augment import CropBatches  # noqa: E402
from edge_hands.quantization.data.shards import Pool  # noqa: E402
from edge_hands.quantization.sensitivity import layers, measure, sensitivity  # noqa: E402

SMALL = {"depths": [1, 0, 1, 0, 0, 0]}
#: One channel of this layer's output is OUTLIER times the others, which then share a step or two of int8.
HOPELESS, READER = "backbone.stem.0.0", "backbone.stem.1.0"
OUTLIER = 300


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory: pytest.TempPathFactory, make_shard: Callable) -> tuple[Path, Path]:
    """(quantised checkpoint, data): in float the outlier changes nothing, its reader divides it by as much."""
    torch.manual_seed(0)
    data, folder = tmp_path_factory.mktemp("crops"), tmp_path_factory.mktemp("qat")
    make_shard(data / "val-00000.tar", "crop", 12, 2)
    model = models.create("test_dfmamba", **SMALL).eval()
    graph = qat.prepare(model)
    with torch.no_grad():
        graph.get_parameter("model.head.maps.weight").mul_(40)  # maps with peaks, as after training
        for part in ("weight", "bias"):
            graph.get_parameter(f"model.{HOPELESS}.{part}")[0] *= OUTLIER
        graph.get_parameter(f"model.{READER}.weight")[:, 0] /= OUTLIER
    pool = Pool(data, "val", "crop")
    images = CropBatches(pool, model.config.image_size, None)(np.arange(12), np.random.default_rng(0))["image"]
    qat.observe(graph, observers=True, fake_quant=False)
    with torch.no_grad():
        graph(torch.from_numpy(images).float() / 255)
    qat.observe(graph, observers=False, fake_quant=True)
    checkpoint.save(folder, graph, checkpoint.Meta("test_dfmamba", SMALL, stage=qat.STAGE))
    return folder, data


@pytest.fixture(scope="module")
def prepared(hopeless: tuple[Path, Path]) -> tuple[torch.fx.GraphModule, torch.nn.Module]:
    """Its graph and float model; tests switch the graph's rounding as they need it."""
    return qat.load_prepared(hopeless[0])


def test_the_hopeless_layer_is_named_first(hopeless: tuple[Path, Path], prepared) -> None:
    """Against the truth that the float network itself gives, so that all that int8 moves is lost."""
    graph, model = prepared
    pool = Pool(hopeless[1], "val", "crop")
    images = CropBatches(pool, 64, None)(np.arange(12), np.random.default_rng(0))["image"]
    qat.observe(graph, observers=False, fake_quant=False)
    with torch.no_grad():
        outputs = model.outputs(graph(torch.from_numpy(images).float() / 255))
    plain = {name: tensor.numpy() for name, tensor in outputs.items()}
    truth = {"uv": plain["joints_uv"], "xyz": plain["joints_xyz"], "handed": plain["handedness"]}
    fractions: list[float] = []
    found = measure(graph, model, images, truth | {"present": np.ones(12)}, 12, fractions.append)
    assert (found.kind, found.samples) == ("landmarks", 12)
    assert found.float_metrics["pa_mpjpe_mm"] < 1e-3
    changes = {cost.layer: cost.change_percent for cost in found.layers}
    assert max(changes, key=changes.get) == found.layers[0].layer == HOPELESS
    assert found.layers[0].lost["pa_mpjpe_mm"] > 2 * found.layers[1].lost["pa_mpjpe_mm"] > 0
    others = sorted(changes.values())[:-1]
    assert changes[HOPELESS] > 2 * others[-1]
    assert others[0] > 0  # each was int8 when it was measured
    costs = [cost.lost["pa_mpjpe_mm"] for cost in found.layers]
    assert costs == sorted(costs, reverse=True)
    assert found.together.change_percent > changes[HOPELESS] / 2
    assert found.together.change_percent < 2 * sum(changes.values())
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(fractions) == len(changes) + 1


def test_every_int8_layer_is_there_and_no_float_one(prepared) -> None:
    graph, model = prepared
    found = layers(graph)
    body = qat.convert(graph, model).body
    quantised = [n for n in body.graph.nodes if n.target is torch.ops.quantized_decomposed.quantize_per_channel.default]
    assert list(found) == [node.args[0].target.removeprefix("model.").removesuffix(".weight") for node in quantised]
    assert not {"head.maps", "backbone.stage3.0.mix.offset"} & found.keys()
    every = {name for name, _ in graph.named_modules() if name.startswith("activation_post_process")}
    named = [name for quantisers in found.values() for name in quantisers]
    assert {name for name in every if "." not in name} == set(named)


def test_a_float_checkpoint_is_refused(hopeless: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint.save(tmp_path, models.create("test_dfmamba", **SMALL), checkpoint.Meta("test_dfmamba", SMALL))
    with pytest.raises(DataError, match="is a float checkpoint, not a quantised one"):
        sensitivity(tmp_path, hopeless[1])


def test_the_command_prints_the_table_and_keeps_it(
    hopeless: tuple[Path, Path], prepared, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source, data = hopeless
    arguments = ("--sensitivity", "--model", str(source), "--data", str(data), "--count", "3", "--threads", "1")
    monkeypatch.setattr("sys.argv", ["edge-hands", "quantize", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    kept = json.loads((source / "sensitivity.json").read_text())
    assert kept["samples"] == 3
    assert len(kept["layers"]) == len(layers(prepared[0]))
    printed = capfd.readouterr().out
    assert "lost in int8, layer by layer, 3 samples" in printed
    assert all(cost["layer"] in printed for cost in kept["layers"])
    assert "all layers" in printed
