"""Times of the two forms of a scan in LiteRT: built-in operations ("portable") and our delegate ("native").

Single ops at DF-Mamba's sizes, L = 16 to 1024, and dfmamba_edge as a whole; one thread, inputs already set. The ops'
times join the table of test_scans.py, whose rows are the same kernels without a runtime around them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from edge_hands.export_targets import litert  # noqa: E402
from edge_hands.kernels import torch_ops  # noqa: E402, F401  (registers the operators)
from edge_hands.kernels.cases import DEFORM_INPUTS, NETWORK_CASES, SCAN_INPUTS, Case  # noqa: E402
from edge_hands.kernels.delegate import delegate_path  # noqa: E402

EDGE = Path(__file__).parents[2] / "quantization" / "checkpoints" / "landmarks"
CASES = [c for c in NETWORK_CASES if c.name in ("edge_stage3", "edge_stage5", "paper_d160", "long_n16")]
each_form = pytest.mark.parametrize("form", litert.SCANS)


def loaded(content: bytes, form: str, inputs: dict[str, np.ndarray]) -> Callable[[], None]:
    """A call that runs the file on these inputs, on one thread."""
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    delegates = None
    if form == "native":
        if delegate_path() is None:
            pytest.skip("libedge_hands_tflite.so is not built")
        delegates = [load_delegate(str(delegate_path()), {"threads": 1})]
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_delegates=delegates)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        name = details["name"].removeprefix("serving_default_").split(":")[0]
        interpreter.set_tensor(details["index"], inputs[name])
    return interpreter.invoke


class Op(torch.nn.Module):
    """One scan whose A and D are constants, as in a network."""

    def __init__(self, case: Case, op: str, inputs: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.op, self.further = op, case.deform if op == "deformable" else ()
        self.A, self.D = (torch.nn.Buffer(torch.from_numpy(inputs[name])) for name in ("A", "D"))

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        names = DEFORM_INPUTS if self.further else SCAN_INPUTS
        tensors = [getattr(self, name, None) if name in "AD" else inputs[name] for name in names]
        return getattr(torch.ops.edge_hands, f"{self.op}_scan")(*tensors, *self.further)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("op", ["selective", "deformable"])
@each_form
def test_op(benchmark, case, op, form, rng):
    inputs = case.inputs(rng)
    names = [name for name in (DEFORM_INPUTS if op == "deformable" else SCAN_INPUTS) if name not in "AD"]
    tensors = {name: torch.from_numpy(inputs[name]) for name in names}
    content = litert.convert_module(Op(case, op, inputs), tensors, quantized=False, scan=form)
    benchmark.pedantic(loaded(content, form, inputs), warmup_rounds=3, rounds=50)
    benchmark.extra_info.update(
        op=op,
        case=case.name,
        way=f"LiteRT {form}",
        ns_per_update=benchmark.stats.stats.min * 1e9 / case.updates,
    )


@each_form
def test_dfmamba_edge(benchmark, form, rng):
    """The quantised landmark model of the package, one image."""
    from edge_hands.quantization import qat

    model = qat.load_quantized(EDGE)
    size = model.config.image_size
    image = rng.random((1, size, size, 3), np.float32)
    content = litert.convert(model, quantized=True, scan=form)
    benchmark.pedantic(loaded(content, form, {"image": image}), warmup_rounds=5, rounds=300)
    benchmark.extra_info.update(model=model.name, form=form, bytes=len(content))
