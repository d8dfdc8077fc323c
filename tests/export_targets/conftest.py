"""What the tests of exports share, each made once a session: crops, calibrated test models, and exported bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ..conformance.conftest import bundle_of  # noqa: F401  (a fixture: exports that both folders test)

STORED = Path(__file__).parents[1] / "data" / "bundles" / "test_dfmamba"
#: One deformable scan, and no more than needed: every export is a conversion.
TINY = {"depths": [1, 0, 1, 0, 0, 0]}
#: Both kinds of block.
SMALL = {"depths": [1, 0, 1, 1, 0, 0]}


@pytest.fixture(scope="session")
def crops() -> Callable[[int], np.ndarray]:
    """``crops(count)`` -> (count, 64, 64, 3) uint8: the middle of packaged ones."""
    from edge_hands.export_targets.forms import SAMPLES
    from edge_hands.quantization.data.shards import Pool

    pool = Pool(SAMPLES / "crop", "val", "crop")
    return lambda count: np.stack([pool.image(index)[16:144:2, 16:144:2] for index in range(count)])


@pytest.fixture(scope="session")
def tiny(crops: Callable[[int], np.ndarray]) -> Callable:
    """``tiny(int8_scans=False)`` -> a converted test_dfmamba of one scan, as it starts. Nobody may change it."""
    from edge_hands import models
    from edge_hands.quantization import qat

    @cache
    def make(int8_scans: bool = False) -> qat.QuantizedModel:
        import torch

        torch.manual_seed(5)
        network = models.create("test_dfmamba", **TINY).eval()
        graph = qat.prepare(network, qat.Scheme(int8_scans=int8_scans))
        return qat.convert(_calibrated(graph, crops(8)), network)

    return make


@pytest.fixture(scope="session")
def small(crops: Callable[[int], np.ndarray]) -> tuple:
    """A test_dfmamba whose maps have peaks and whose taps move, as after training: the network, and its calibrated
    prepared graph. Nobody may change them."""
    import torch

    from edge_hands import models
    from edge_hands.quantization import qat

    torch.manual_seed(5)
    network = models.create("test_dfmamba", **SMALL)
    with torch.no_grad():
        network.head.maps.weight.mul_(40)
        for key, parameter in network.named_parameters():
            if ".offset." in key or ".weight_proj." in key:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return network, _calibrated(qat.prepare(network.eval()), crops(16))


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stored test_dfmamba as a quantised checkpoint."""
    from safetensors import safe_open

    from edge_hands.quantization import checkpoint

    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / checkpoint.MODEL).write_bytes((STORED / "model.safetensors").read_bytes())
    with safe_open(folder / checkpoint.MODEL, "pt") as file:
        step = int(file.metadata()["step"])
    meta = checkpoint.Meta("test_dfmamba", step=step, stage="qat", command="", date="2026-11-20T00:00:00+00:00")
    (folder / checkpoint.META).write_text(json.dumps(asdict(meta)))
    return folder


def _calibrated(graph, images: np.ndarray):
    import torch

    from edge_hands.quantization import qat

    qat.observe(graph, observers=True, fake_quant=False)
    with torch.no_grad():
        graph(torch.from_numpy(images).float() / 255)
    qat.observe(graph, observers=False, fake_quant=True)
    return graph
