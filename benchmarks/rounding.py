"""How far rounding alone moves the joints of an int8 model, and whether an integer-exact reference helps.

    python benchmarks/rounding.py --model quantization/checkpoints/landmarks --data SHARDS --count 100 \
        --float quantization/checkpoints/float/landmarks --form litert:native --form onnx:native --own \
        --cut litert:native

prints the distances of joints in space (mm) between pairs of models on val crops: mean and 99.9th percentile over all
crops, and over those with a hand. A form is compared with the graph in exact integers whose scans add in the form's own
order, and a portable one also with that of the kernels; Core ML's with the graph in float64. ``--cut`` also counts,
layer by layer, the int8 values that a runtime rounds apart from the reference on the first crops. docs/quantization.md
says what came out.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edge_hands.export_targets import bisect, gate
from edge_hands.export_targets.forms import Forms
from edge_hands.export_targets.integer import in_file, integer_exact
from edge_hands.quantization import checkpoint, qat
from edge_hands.quantization.quantizer import SCANS

#: Relative change of a scan's values: one float32 rounding.
ULP = 2.0**-23
#: Crops of ``--cut``.
CUT = 16


def nudged(model: qat.QuantizedModel) -> qat.QuantizedModel:
    """A copy whose scans' values are changed by up to one float32 rounding, as another order of sums would."""
    import copy

    model = copy.deepcopy(model)
    for node in [node for node in model.body.graph.nodes if node.target in SCANS]:
        with model.body.graph.inserting_after(node):
            new = model.body.graph.call_function(_nudge, (node,))
        node.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)
    model.body.recompile()
    return model


def _nudge(value: Tensor) -> Tensor:
    noise = torch.rand(value.shape[1:], generator=torch.Generator().manual_seed(0))
    return value * (1 + (2 * noise - 1) * ULP)


@torch.inference_mode()
def joints(model, images: np.ndarray) -> np.ndarray:
    """(n, 21, 3) metres of images (n, H, W, 3), uint8 or float32 in [0, 1]."""
    found = []
    for image in images:  # one by one, as runtimes do: a batch may be summed in another order
        part = torch.from_numpy(image[None])
        found.append(model(part.float().div(255) if part.dtype == torch.uint8 else part)["joints_xyz"].numpy())
    return np.concatenate(found)


def report(name: str, ours: np.ndarray, theirs: np.ndarray, hands: np.ndarray) -> None:
    count = min(len(ours), len(theirs))
    distance = np.linalg.norm(ours[:count] - theirs[:count], axis=-1) * 1000
    same = float((distance.max(1) < 1e-3).mean())
    parts = (distance, distance[hands[:count]])
    values = [value for part in parts for value in (part.mean(), np.percentile(part, 99.9))]
    row = "  ".join(f"{value:8.3f}" for value in values)
    print(f"{name:50} {count:5}  {row}   {same:6.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--float", type=Path, dest="plain")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--form", action="append", default=[], help="RUNTIME:SCAN, as litert:native, or coreml:only")
    parser.add_argument("--own", action="store_true", help="also what rounding does to the graph itself")
    parser.add_argument("--cut", help="RUNTIME:SCAN whose layers are compared one by one")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="edge_hands_rounding_") as folder:
        forms = Forms(asked.model, Path(folder), asked.data, asked.count, lambda text: None, patience=math.inf)
        if asked.form or asked.plain or asked.own:
            distances(forms, asked.form, asked.plain, asked.own)
        if asked.cut:
            layers(forms, *asked.cut.split(":"))


def distances(forms: Forms, wanted: list[str], plain: Path | None, own: bool) -> None:
    """The table of pairs; ``own`` adds what rounding does to the graph itself."""
    images, hands = forms.images, forms.samples["present"] > 0.5

    @cache
    def exact(runtime: str, scan: str) -> np.ndarray:
        return joints(in_file(forms.model, runtime, scan), images)

    print(f"{'mm':50} {'crops':>5}  {'mean':>8}  {'p99.9':>8}  {'hands':>8}  {'p99.9':>8}   equal", flush=True)
    found = {}
    for form in wanted:
        runtime, scan = form.split(":")
        found[form] = forms.get(runtime, scan)[0].outputs["joints_xyz"]
        for order in dict.fromkeys((scan, "native") if scan == "portable" else (scan,)):
            report(f"{form} to exact, {order} scans", found[form], exact(runtime, order), hands)
    if own:
        precise, fake = exact("litert", "native"), joints(forms.model, images)
        nudge = joints(nudged(integer_exact(forms.model)), images)
        report("integer-exact, scans changed by 1 ulp, to itself", nudge, precise, hands)
        report("integer-exact, ONNX's division, to multiplication", exact("onnx", "native"), precise, hands)
        for form in wanted:
            report(f"{form} to fake-quant", found[form], fake, hands)
        report("integer-exact to fake-quant", precise, fake, hands)
        rng = np.random.default_rng(0)
        changed = images.astype(np.float32) / 255
        changed += rng.uniform(-gate.INVISIBLE, gate.INVISIBLE, images.shape).astype(np.float32)
        report("fake-quant, image changed by 1e-6, to itself", joints(forms.model, changed), fake, hands)
        again = joints(integer_exact(forms.model), changed)
        report("integer-exact, image changed by 1e-6, to itself", again, precise, hands)
    if plain:
        network, _ = checkpoint.load_model(plain)
        report("integer-exact to float32", exact("litert", "native"), joints(network, images), hands)


def layers(forms: Forms, runtime: str, scan: str) -> None:
    """Where int8 values of a runtime differ from those of the two references, in the order of the graph."""
    images = forms.images[:CUT]
    nodes = bisect.candidates(forms.model)
    cut = bisect.cut(forms.model, nodes)
    fake = gate.outputs_of(bisect._in_torch(cut), images)
    theirs = bisect._in_runtime(cut, runtime, scan, images, gate.Reference(fake, fake))
    precise = gate.outputs_of(bisect._in_torch(in_file(cut, runtime, scan)), images)
    steps = {node.name: node.args[1] for node in forms.model.body.graph.nodes if node.target is bisect._DEQUANTIZE}
    for title, reference in (("fake-quant", fake), ("integer-exact", precise)):
        first = np.full(len(images), -1)
        print(f"{runtime}, {scan} scans, to {title}, {len(images)} crops: values apart by a step or more", flush=True)
        for place, name in enumerate(nodes):
            if name not in steps:
                continue
            apart = (np.abs(theirs[name] - reference[name]) > 0.5 * steps[name]).reshape(len(images), -1)
            new = apart.any(1) & (first < 0)
            first[new] = place
            layer = bisect.describe(forms.model.body.graph, name)
            print(
                f"  {layer.module:36} {layer.operator:20} {apart.sum(1).mean():9.2f} of {apart.shape[1]:6}, first in "
                f"{int(new.sum())} crops",
                flush=True,
            )


if __name__ == "__main__":
    main()
