"""An ONNX file in the making: nodes, constants and names.

Opset 17: the last before ReduceMean moved its axes, and old enough for every runtime of the last four years.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

OPSET, IR_VERSION = 17, 8
#: Domain of our own operations, run by kernels/onnx.
DOMAIN = "edge_hands"


class Value(str):
    """The name of a tensor that the file computes."""


class Graph:
    """An ONNX graph in the making."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._shared: dict[tuple, str] = {}
        self._scales: dict[str, np.ndarray] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._shapes: list[onnx.ValueInfoProto] = []
        self._names: set[str] = set()

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """A float32 input of the model."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return Value(name)

    def output(self, name: str, value: Any, shape: Sequence[int]) -> None:
        """Makes ``value`` the float32 output ``name``."""
        self._nodes.append(helper.make_node("Identity", [self.name(value)], [name], name=f"output_{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def name(self, value: Any) -> str:
        """The name of an argument; a constant is stored, and equal ones once."""
        if isinstance(value, Value):
            return value
        array = _array(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = self.store("constant", array)
        return self._shared[key]

    def store(self, label: str, value: Any) -> Value:
        """A constant of its own, called after ``label``."""
        name = Value(self._fresh(label))
        self._initializers.append(numpy_helper.from_array(_array(value), name))
        return name

    def add(self, kind: str, label: str, *inputs: Any, **attributes: Any) -> Value:
        """A node with one output, called after ``label``; ``inputs`` are values, tensors, arrays or numbers."""
        return self.add_many(kind, label, 1, *inputs, **attributes)[0]

    def add_many(self, kind: str, label: str, count: int, *inputs: Any, **attributes: Any) -> list[Value]:
        """A node with ``count`` outputs."""
        results = [Value(self._fresh(label)) for _ in range(count)]
        names = [self.name(value) for value in inputs]
        self._nodes.append(helper.make_node(kind, names, results, name=results[0], **attributes))
        return results

    def add_own(self, kind: str, label: str, shape: Sequence[int], *inputs: Any, **attributes: Any) -> Value:
        """A node of our domain; its float32 output's shape is written down, as no one else can know it."""
        result = self.add(kind, label, *inputs, domain=DOMAIN, **attributes)
        self._shapes.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, list(shape)))
        return result

    def quantize(self, label: str, value: Any, scale: float, zero: int) -> Value:
        """round(value / scale) + zero, clamped; all integers are stored 128 higher, as uint8.

        The integers mean the same. onnxruntime 1.31 on x86 is 5 times slower with int8 activations, and when it
        shifts them itself it leaves half of the layers unfused.
        """
        parts = self._parameters(label, np.asarray(scale, np.float32), np.asarray(zero + 128, np.uint8))
        return self.add("QuantizeLinear", label, value, *parts)

    def dequantize(self, label: str, value: Any, scale: Any, zero: Any, axis: int | None = None) -> Value:
        """(value - zero) x scale as float32; ``axis`` when there is a scale for each channel."""
        axes = {} if axis is None else {"axis": axis}
        if not isinstance(value, Value):
            value = self.store(f"{label}_int", value)
        result = self.add("DequantizeLinear", label, value, *self._parameters(label, scale, zero), **axes)
        self._scales[result] = _array(scale)
        return result

    def _parameters(self, label: str, scale: Any, zero: Any) -> tuple[Value, Value]:
        """Not shared: onnxruntime 1.31 rewrites zero points in place, and fails or gives up on a second user."""
        return self.store(f"{label}_scale", scale), self.store(f"{label}_zero", zero)

    def scale(self, value: Any) -> np.ndarray | None:
        """The scale (or one for each channel) of a dequantised value; None for another."""
        return self._scales.get(value) if isinstance(value, Value) else None

    def finish(self, name: str) -> bytes:
        """The file."""
        graph = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, self._initializers, value_info=self._shapes
        )
        domains = [helper.make_opsetid("", OPSET)]
        if any(node.domain == DOMAIN for node in self._nodes):
            domains.append(helper.make_opsetid(DOMAIN, 1))
        model = helper.make_model(
            graph,
            producer_name="edge_hands",
            ir_version=IR_VERSION,
            opset_imports=domains,
        )
        onnx.checker.check_model(model)
        return model.SerializeToString(deterministic=True)

    def _fresh(self, label: str) -> str:
        name, count = label, 0
        while name in self._names:
            count += 1
            name = f"{label}_{count}"
        self._names.add(name)
        return name


def _array(value: Any) -> np.ndarray:
    """A constant; a Python number is a float32 scalar."""
    if isinstance(value, Tensor):
        return value.detach().contiguous().numpy()
    return np.asarray(value, np.float32 if isinstance(value, (int, float)) else None)


def ints(values: Sequence[int]) -> np.ndarray:
    """A shape, axes or sizes, as nodes take them."""
    return np.asarray(values, np.int64)
