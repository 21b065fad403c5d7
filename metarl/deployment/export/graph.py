"""Graphs of ONNX operators: built once, written as ONNX, or computed by torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Value = str
"""Name of a tensor of a graph."""

Operand = str | float | np.ndarray
"""A tensor of the graph by name, or a constant."""


@dataclass(frozen=True)
class Node:
    """One operator of ONNX (operator set 17).

    Attributes:
        kind: Name of the operator.
        inputs: Names of tensors.
        outputs: Names of tensors.
        attributes: Of the operator.
    """

    kind: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Port:
    """An input or an output of a graph.

    Attributes:
        shape: Sizes; the first axis is a text, the name of the dynamic size.
        dtype: Of NumPy.
    """

    shape: tuple[int | str, ...]
    dtype: type = np.float32


class Graph:
    """A list of operators, with inputs, outputs and constants.

    Attributes:
        nodes: In the order of computation.
        constants: By name.
        inputs: By name.
        defaults: Constants that a caller may replace.
        outputs: By name.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[Value, np.ndarray] = {}
        self.inputs: dict[Value, Port] = {}
        self.defaults: list[Value] = []
        self.outputs: dict[Value, Port] = {}
        self._count = 0

    def input(self, name: str, shape: Sequence[int], batch: str = "rows") -> Value:
        """Declares an input (batch, *shape), float32."""
        self.inputs[name] = Port((batch, *shape))
        return name

    def default(self, name: str, value: np.ndarray) -> Value:
        """Declares an input with a default value, float32."""
        self.constants[name] = np.ascontiguousarray(value, dtype=np.float32)
        self.defaults.append(name)
        return name

    def output(self, name: str, value: Value, shape: Sequence[int | str], dtype: type) -> None:
        """Declares an output and gives it a value."""
        self.nodes.append(Node("Identity", (value,), (name,), {}))
        self.outputs[name] = Port(tuple(shape), dtype)

    def op(self, kind: str, *operands: Operand, **attributes: Any) -> Value:
        """Adds an operator with one output; returns its name."""
        return self._add(kind, operands, 1, attributes)[0]

    def split(self, value: Value, sizes: Sequence[int]) -> tuple[Value, ...]:
        """Splits a tensor along its last axis."""
        lengths = np.array(sizes, dtype=np.int64)
        return self._add("Split", (value, lengths), len(sizes), {"axis": -1})

    def least(self, value: Value, count: int) -> Value:
        """Returns the places of the least numbers along the last axis, the first of equals."""
        number = np.array([count], dtype=np.int64)
        return self._add("TopK", (value, number), 2, {"axis": -1, "largest": 0})[1]

    def concat(self, values: Sequence[Value], axis: int = -1) -> Value:
        """Joins tensors along an axis."""
        return self.op("Concat", *values, axis=axis)

    def affine(self, value: Value, weight: Operand, bias: Operand) -> Value:
        """Computes value (M, I) @ weight (I, O) + bias (O,)."""
        return self.op("Gemm", value, weight, bias)

    def reshape(self, value: Value, *sizes: int) -> Value:
        """Changes the shape; 0 keeps the size of that axis."""
        return self.op("Reshape", value, np.array(sizes, dtype=np.int64))

    def _add(
        self, kind: str, operands: Sequence[Operand], count: int, attributes: Mapping[str, Any]
    ) -> tuple[Value, ...]:
        inputs = tuple(each if isinstance(each, str) else self._constant(each) for each in operands)
        outputs = tuple(f"v{self._count + i}" for i in range(count))
        self._count += count
        self.nodes.append(Node(kind, inputs, outputs, attributes))
        return outputs

    def _constant(self, value: float | np.ndarray) -> Value:
        array = np.array(value, dtype=np.float32) if isinstance(value, float) else value
        name = f"c{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(array)
        return name
