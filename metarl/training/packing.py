"""Values that processes exchange, as text and tensors; no pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    str(dtype): dtype
    for dtype in (torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool)
}

_ALIGNMENT = 8
"""Bytes to a multiple of which texts and tensors are filled, so that bytes can be viewed."""


def pack(value: Any) -> tuple[str, list[Tensor]]:
    """Returns a value as text and the tensors in it, for `Group.gather` (`core.machine.parallel`).

    Raises:
        TypeError: A part of the value is of another kind.
    """
    tensors: list[Tensor] = []

    def describe(part: Any) -> Any:
        if part is None or isinstance(part, (bool, int, float, str)):
            return {"value": part}
        if isinstance(part, Tensor):
            tensors.append(part.detach())
            return {"tensor": len(tensors) - 1}
        if isinstance(part, (list, tuple)):
            kind = "tuple" if isinstance(part, tuple) else "list"
            return {kind: [describe(item) for item in part]}
        if isinstance(part, dict):
            return {"dict": [[key, describe(item)] for key, item in part.items()]}
        raise TypeError(f"a {type(part).__name__} cannot be exchanged between processes")

    return json.dumps(describe(value)), tensors


def unpack(text: str, tensors: Sequence[Tensor]) -> Any:
    """Returns the value that `pack` has described, with these tensors."""

    def build(node: dict[str, Any]) -> Any:
        ((kind, content),) = node.items()
        if kind == "value":
            return content
        if kind == "tensor":
            return tensors[content]
        if kind == "dict":
            return {key: build(item) for key, item in content}
        items = [build(item) for item in content]
        return tuple(items) if kind == "tuple" else items

    return build(json.loads(text))


def to_bytes(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Returns the contents of tensors, one after the other (B,) uint8, on a device."""
    parts = []
    for tensor in tensors:
        flat = tensor.to(device).reshape(-1)
        if flat.stride() != (1,):  # also that of one number, which counts as contiguous
            flat = flat.clone(memory_format=torch.contiguous_format)
        raw = flat.view(torch.uint8)
        parts += [raw, raw.new_zeros(-len(raw) % _ALIGNMENT)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8, device=device)


def from_bytes(raw: Tensor, forms: Sequence[tuple[str, Sequence[int]]]) -> list[Tensor]:
    """Returns the tensors of these dtypes and shapes, as views of their bytes (B,)."""
    tensors, start = [], 0
    for name, shape in forms:
        dtype = _DTYPES[name]
        size = torch.Size(shape).numel() * dtype.itemsize
        tensors.append(raw[start : start + size].view(dtype).reshape(shape))
        start += size + -size % _ALIGNMENT
    return tensors


def list_forms(tensors: Sequence[Tensor]) -> list[list[Any]]:
    """Returns [dtype, shape] of tensors, as `from_bytes` needs them."""
    return [[str(tensor.dtype), list(tensor.shape)] for tensor in tensors]
