"""Nested mappings, such as settings and groups of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_form(tree: Any, form: Any, name: str = "") -> None:
    """Raises if a tree of JSON is not of a form.

    Args:
        tree: The tree.
        form: A type (`float` takes whole numbers too, no type takes a bool for a number); a tuple
            of forms, any of which fits; a list of one form, for a list of any length; or a dict,
            whose keys the tree must have, but those that end in "?". The key "*" is for all others.
        name: Dotted name of the tree.

    Raises:
        ValueError: It is not; names the first entry that does not fit.
    """
    if isinstance(form, dict):
        _require(isinstance(tree, dict), name, "a record")
        _check_entries(tree, form, name)
    elif isinstance(form, list):
        _require(isinstance(tree, list), name, "a list")
        for i, each in enumerate(tree):
            check_form(each, form[0], f"{name}[{i}]")
    elif isinstance(form, tuple):
        if not any(_fits(tree, each) for each in form):
            raise ValueError(f"{name or 'the whole'} is of another type")
    else:
        kinds = (int, float) if form is float else form
        is_number = not isinstance(tree, bool) or form in (bool, object)
        _require(isinstance(tree, kinds) and is_number, name, f"a {form.__name__}")


def _check_entries(tree: Mapping[str, Any], form: Mapping[str, Any], name: str) -> None:
    start = f"{name}." if name else ""
    for key, own in form.items():
        plain = key.removesuffix("?")
        if key != "*" and plain in tree:
            check_form(tree[plain], own, start + plain)
        elif key == plain != "*":
            raise ValueError(f"{start}{key} is missing")
    if "*" in form:
        for key in tree.keys() - {key.removesuffix("?") for key in form}:
            check_form(tree[key], form["*"], start + key)


def _fits(tree: Any, form: Any) -> bool:
    try:
        check_form(tree, form)
    except ValueError:
        return False
    return True


def _require(is_fitting: bool, name: str, hint: str) -> None:
    if not is_fitting:
        raise ValueError(f"{name or 'the whole'} must be {hint}")


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
