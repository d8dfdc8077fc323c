"""Bisection of an export: the layer that was changed is the one that is named."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
for _package in ("litert_torch", "onnx", "onnxruntime"):
    pytest.importorskip(_package)

from edge_hands import models  # noqa: E402
from edge_hands.errors import ExportError  # noqa: E402
from edge_hands.export_targets.bisect import Finding, bisect, candidates, cut, describe  # noqa: E402
from edge_hands.quantization import qat  # noqa: E402

#: A layer that hardly moves the outputs, and one that all depends on.
GATE, DOWN = "backbone.stage3.0.gate", "backbone.down1"


@pytest.fixture
def model(tiny) -> qat.QuantizedModel:
    return tiny()


def changed(model: qat.QuantizedModel, layer: str) -> qat.QuantizedModel:
    """A copy, one layer of which has its weights the other way round."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.body.get_parameter(f"model.{layer}.weight").neg_()
    return copied


def test_a_cut_gives_the_values_of_the_whole_graph(model: qat.QuantizedModel, crops) -> None:
    image = torch.from_numpy(crops(2)).float() / 255
    whole = model.body(image)
    (features,) = next(node for node in model.body.graph.nodes if node.op == "output").args
    names = {node.name: name for name, node in zip(whole, _leaves(features), strict=True)}
    nodes = candidates(model)
    assert set(names) <= set(nodes)
    assert len(nodes) == len(set(nodes)) > 20
    values = dict(zip(nodes, cut(model, nodes)(image).values(), strict=True))
    for node, name in names.items():
        assert torch.equal(values[node], whole[name]), name
    assert len(list(cut(model, nodes[:1]).body.graph.nodes)) < len(list(model.body.graph.nodes)) / 10


def _leaves(features) -> list:
    return list(features.values()) if isinstance(features, dict) else list(features)


def test_layers_are_named_by_module_operator_and_line(model: qat.QuantizedModel) -> None:
    layers = [describe(model.body.graph, name) for name in candidates(model)]
    scan = next(layer for layer in layers if layer.operator == "edge_hands.deformable_scan")
    assert scan.module == "backbone.stage3.0.mix"
    file, line = scan.source.split(":")
    text = (Path(models.__file__).parent.parent / file).read_text().splitlines()
    assert file == "models/dssm.py"
    assert "deformable_scan" in text[int(line) - 1]
    assert all(layer.source.startswith("models/") for layer in layers if layer.operator == "aten.conv2d")


@pytest.mark.parametrize("runtime", ["onnx", pytest.param("litert", marks=pytest.mark.slow)])
def test_a_changed_layer_is_named_even_if_the_outputs_hide_it(model: qat.QuantizedModel, crops, runtime: str) -> None:
    said: list[str] = []
    found = bisect(model, runtime, "portable", crops(2), 30.0, said.append, exported=changed(model, GATE))
    assert found.layer is not None
    assert (found.layer.module, found.layer.operator) == (GATE, "aten.conv2d")
    assert found.layer.source.startswith("models/dssm.py:")
    assert found.sqnr_db < 10 < 30 < found.before_db
    assert found.cuts == 1
    assert len(said) == 2
    assert f"is {GATE} (aten.conv2d, models/dssm.py:" in str(found)


def test_halving_finds_the_layer_above_outputs_that_differ(model: qat.QuantizedModel, crops) -> None:
    found = bisect(model, "onnx", "portable", crops(2), 30.0, exported=changed(model, DOWN), sweep=False)
    assert found.layer is not None
    assert found.layer.module == DOWN
    assert found.sqnr_db < 10 < 30 < found.before_db
    assert 3 <= found.cuts <= 14 < found.layers


@pytest.mark.slow
def test_an_honest_export_differs_nowhere(model: qat.QuantizedModel, crops) -> None:
    found = bisect(model, "litert", "portable", crops(2), 30.0)
    assert found == Finding(None, None, None, found.lowest_db, 30.0, 2, len(candidates(model)))
    assert found.lowest_db > 35
    assert f"no layer of {found.layers} differs: lowest SQNR" in str(found)


def test_what_cannot_be_bisected_is_refused(model: qat.QuantizedModel, crops) -> None:
    with pytest.raises(ExportError, match="nothing to bisect"):
        bisect(model, "torch", "only", crops(1))
    with pytest.raises(ExportError, match="no node nowhere"):
        cut(model, ["nowhere"])
