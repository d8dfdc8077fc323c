"""What a manifest says of how its model was quantised."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchao")

from edge_hands.bundle import Variant  # noqa: E402
from edge_hands.errors import DataError  # noqa: E402
from edge_hands.export_targets.manifest import make_manifest  # noqa: E402
from edge_hands.quantization import checkpoint  # noqa: E402


def scheme_of(model, folder: Path, scheme: dict) -> dict:
    meta = checkpoint.Meta("test_dfmamba", stage="qat", scheme=scheme)
    names = {name: str(place) for place, name in enumerate(model.outputs.names)}
    (folder / "model.pte").write_bytes(b"not really")
    variant = Variant(runtime="executorch", path="model.pte", input_names={"image": "0"}, output_names=names)
    return make_manifest(model, meta, "board", [variant], {}, folder).quantization


def test_the_rules_and_what_was_chosen_beside_them(tiny, tmp_path: Path) -> None:
    plain = scheme_of(tiny(), tmp_path, {})
    assert plain["layers"] == "convolutions and linears, with their ReLU"
    assert plain["activations"] == "int8, affine, per tensor, static"
    chosen = scheme_of(tiny(), tmp_path, {"keep_float": ["backbone.down1", "head.lift"], "int8_scans": True})
    assert chosen["layers"] == plain["layers"] + ", but for backbone.down1, head.lift"
    assert chosen["activations"] == plain["activations"] + "; x and y of the scans as well"
    assert {name for name in plain if plain[name] != chosen[name]} == {"layers", "activations"}


def test_a_scheme_that_is_none_is_refused(tiny, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a quantisation scheme holds keep_float"):
        scheme_of(tiny(), tmp_path, {"int4": True})
