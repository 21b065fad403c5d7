"""Nested mappings, such as settings and groups of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Returns the leaves of nested mappings by their joined keys, in order.

    Args:
        tree: Nested mappings.
        separator: Joins the keys: {"a": {"b": 1}} becomes {"a.b": 1}.
    """
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            inner = flatten(value, separator)
            leaves |= {f"{name}{separator}{key}": leaf for key, leaf in inner.items()}
        else:
            leaves[str(name)] = value
    return leaves
