"""Graphs as ONNX files, with a checksum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from metarl.core.errors import require_package
from metarl.core.messages import printable
from metarl.deployment.export.graph import Graph, Port
from metarl.deployment.onnx_file import CHECKSUM, NO_CHECKSUM, checksum

OPERATORS = 17
"""Version of the operators of ONNX: onnxruntime 1.12 (2022) and later know it."""

FORMAT = 8
"""Version of the file format of ONNX that belongs to it."""


def to_onnx(graph: Graph, metadata: Mapping[str, str]) -> bytes:
    """Returns a graph as an ONNX file; the same graph gives the same bytes.

    Args:
        graph: The graph.
        metadata: Texts to store in the file.

    Raises:
        ResourceError: The package onnx is missing.
    """
    onnx, arrays = (
        require_package(name, "onnx", "export") for name in ("onnx", "onnx.numpy_helper")
    )
    helper = onnx.helper
    constants = [arrays.from_array(v, name) for name, v in graph.constants.items()]
    defaults = [(name, Port(graph.constants[name].shape)) for name in graph.defaults]
    inputs = [_port(helper, *each) for each in [*graph.inputs.items(), *defaults]]
    outputs = [_port(helper, *each) for each in graph.outputs.items()]
    nodes = [
        helper.make_node(node.kind, node.inputs, node.outputs, **node.attributes)
        for node in graph.nodes
    ]
    made = helper.make_graph(nodes, "policy", inputs, outputs, constants)
    imports = [helper.make_opsetid("", OPERATORS)]
    model = helper.make_model(made, opset_imports=imports, ir_version=FORMAT)
    model.producer_name = "metarl"
    texts = {name: printable(text, keeps_lines=True) for name, text in metadata.items()}
    helper.set_model_props(model, {**texts, CHECKSUM: NO_CHECKSUM})
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    return content.replace(NO_CHECKSUM.encode(), checksum(content).encode())


def _port(helper: Any, name: str, port: Port) -> Any:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
    return helper.make_tensor_value_info(name, kind, port.shape)
