"""Graphs computed by torch, to be traced as TorchScript."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.deployment.export.graph import Graph, Node

Compute = Callable[..., Any]

_DTYPES = {1: torch.float32, 7: torch.int64, 11: torch.float64}
"""Types by their number in ONNX."""


def _slice(x: Tensor, start: Tensor, stop: Tensor, axis: Tensor) -> Tensor:
    return x.narrow(int(axis), int(start), int(stop) - int(start))


def _reshape(x: Tensor, shape: Tensor) -> Tensor:
    sizes = enumerate(shape.tolist())
    return x.reshape([x.shape[i] if size == 0 else size for i, size in sizes])


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, axis: int, epsilon: float) -> Tensor:
    del axis
    return functional.layer_norm(x, weight.shape, weight, bias, epsilon)


def _least(x: Tensor, count: Tensor, axis: int, largest: int) -> tuple[Tensor, Tensor]:
    del axis, largest
    values, places = x.sort(dim=-1, stable=True)
    return values[..., : int(count)], places[..., : int(count)]


_OPERATORS: dict[str, Compute] = {
    "Add": torch.add,
    "ArgMax": lambda x, axis, keepdims: x.argmax(axis, bool(keepdims)),
    "Cast": lambda x, to: x.to(_DTYPES[to]),
    "Clip": lambda x, low, high: torch.maximum(torch.minimum(x, high), low),
    "Concat": lambda *values, axis: torch.cat(values, axis),
    "Div": torch.div,
    "Elu": functional.elu,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Gemm": lambda x, weight, bias: torch.addmm(bias, x, weight),
    "Greater": torch.gt,
    "Identity": torch.clone,
    "LayerNormalization": _layer_norm,
    "MatMul": torch.matmul,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Mul": torch.mul,
    "ReduceSum": lambda x, axes, keepdims: x.sum(axes.tolist(), bool(keepdims)),
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": lambda x, axis: torch.softmax(x, axis),
    "Softplus": functional.softplus,
    "Split": lambda x, sizes, axis: x.split(sizes.tolist(), axis),
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "TopK": _least,
    "Transpose": lambda x, perm: x.permute(perm),
    "Where": torch.where,
}
"""The operators of policies."""


class GraphModule(nn.Module):
    """A graph as a module from its inputs, in their order, to its outputs.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: Graph):
        super().__init__()
        self._nodes, self._inputs = graph.nodes, tuple(graph.inputs)
        self._outputs, self._constants = tuple(graph.outputs), tuple(graph.constants)
        for name, value in graph.constants.items():
            self.register_buffer(f"constant_{name}", torch.from_numpy(np.array(value)))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs."""
        values: dict[str, Any] = dict(zip(self._inputs, inputs, strict=True))
        values |= {name: self.get_buffer(f"constant_{name}") for name in self._constants}
        for node in self._nodes:
            values |= _compute(node, values)
        return tuple(values[name] for name in self._outputs)


def _compute(node: Node, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    operands = [values[name] for name in node.inputs]
    result = _OPERATORS[node.kind](*operands, **node.attributes)
    results = result if isinstance(result, tuple) else (result,)
    return dict(zip(node.outputs, results, strict=True))


def to_torchscript(graph: Graph, files: Mapping[str, str]) -> bytes:
    """Returns a graph as a TorchScript file.

    Args:
        graph: The graph.
        files: Texts to store in the file, by name.
    """
    examples = tuple(
        torch.zeros([2 if isinstance(size, str) else size for size in port.shape])
        for port in graph.inputs.values()
    )
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # torch advises torch.export since 2.10; its archives need torch of the same version
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        # the sizes that are read while tracing are those of constants
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        traced = torch.jit.trace(GraphModule(graph), examples, check_trace=False)
        extra = {name: text.encode() for name, text in files.items()}
        torch.jit.save(traced, buffer, _extra_files=extra)
    return buffer.getvalue()
