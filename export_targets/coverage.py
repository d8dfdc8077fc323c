"""Coverage: which share of a model's multiply-accumulates a runtime's delegates run, and what falls back by name.

Counted as ``edge_hands.models.macs`` counts: layers, matrix products and scans; additions, products and reshapes of
tensors are none. Each exporter measures its own files; this module holds what they share, and LiteRT's measure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True)
class Coverage:
    """``share`` of the multiply-accumulates that delegates run, from 0 to 1, in ``delegates`` pieces, and in
    ``fallbacks`` how often each operator runs outside of them.

    A native scan runs outside of a runtime's delegates by intent, in our own kernel: ``own`` is the scans' share.
    """

    share: float
    own: float
    fallbacks: dict[str, int]
    delegates: int

    def as_config(self) -> dict[str, Any]:
        """For ``Variant.config``, where the gate reads it."""
        return {
            "delegated_macs": round(self.share, 4),
            "own_kernels_macs": round(self.own, 4),
            "delegates": self.delegates,
            "fallbacks": self.fallbacks,
        }


def scan_macs(size: int, states: int, points: int) -> int:
    """Of a scan with ``size`` outputs: the taps of its points and three for each state."""
    return size * (4 * points + 3 * states)


def of_litert(interpreter: Any) -> Coverage:
    """Of an interpreter whose tensors are allocated, so that its delegates have taken what they take.

    The operator list keeps the replaced operators beside the DELEGATE ones. A delegate runs what lies between its
    inputs and its outputs: they are walked backwards.
    """
    ops = interpreter._get_ops_details()
    shapes = {detail["index"]: tuple(map(int, detail["shape"])) for detail in interpreter.get_tensor_details()}
    delegates = [op for op in ops if op["op_name"] == "DELEGATE"]
    plain = [op for op in ops if op["op_name"] != "DELEGATE"]
    maker = {int(tensor): place for place, op in enumerate(plain) for tensor in op["outputs"]}
    inside: set[int] = set()
    for delegate in delegates:
        stop, open_ = set(map(int, delegate["inputs"])), list(map(int, delegate["outputs"]))
        while open_:
            tensor = open_.pop()
            place = maker.get(tensor)
            if tensor in stop or place is None or place in inside:
                continue
            inside.add(place)
            open_ += map(int, plain[place]["inputs"])
    taken, own, whole, fallbacks = 0, 0, 0, Counter()
    for place, op in enumerate(plain):
        macs, name = _litert_macs(op, shapes), op["op_name"]
        whole += macs
        if place not in inside:
            fallbacks[name] += 1
        elif name.startswith(_OWN):
            own += macs
        else:
            taken += macs
    whole = max(1, whole)
    return Coverage(taken / whole, own / whole, dict(sorted(fallbacks.items())), len(delegates))


#: How the names of our custom ops begin, and the points that our networks' deformable scans sample.
_OWN, _POINTS = "edge_hands.", 9


def _litert_macs(op: dict[str, Any], shapes: dict[int, tuple[int, ...]]) -> int:
    size = prod(shapes[int(op["outputs"][0])]) if len(op["outputs"]) else 0
    inputs = [shapes.get(int(tensor), ()) for tensor in op["inputs"]]
    name = op["op_name"]
    if name == "CONV_2D":
        return size * prod(inputs[1][1:])
    if name == "DEPTHWISE_CONV_2D":
        return size * prod(inputs[1][1:3])
    if name in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        return size * inputs[0][-1]
    if name.startswith(_OWN):
        states = next(shape[1] for shape in inputs if len(shape) == 2)
        return scan_macs(size, states, _POINTS if "deformable" in name else 0)
    return 0
