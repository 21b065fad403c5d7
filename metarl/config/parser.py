"""Parser of settings: frozen dataclasses from flags and from YAML, with one reader of values.

A *tree* is a dataclass whose fields are values or further dataclasses. A field has a dotted name,
such as `learner.inner_lr`, and the flag `--learner.inner-lr`.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from metarl.core.errors import ConfigError, nearest
from metarl.core.ranges import read_field

T = TypeVar("T")
"""The class of a tree."""


def flag(name: str) -> str:
    """Returns the flag of a dotted name."""
    return "--" + name.replace("_", "-")


def field_types(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns dotted name -> type of every field that is not a dataclass itself."""
    kinds = {}
    for name, kind in typing.get_type_hints(type(tree)).items():
        value = read_field(tree, name)
        if is_dataclass(value):
            kinds |= field_types(value, f"{prefix}{name}.")
        else:
            kinds[prefix + name] = kind
    return kinds


# --- flags ----------------------------------------------------------------------------------------


def read_flags(argv: Sequence[str], tree: Any) -> dict[str, Any]:
    """Parses flags such as `--learner.inner-lr 0.1` against the fields of a tree.

    Args:
        argv: Command-line arguments; the last one counts where a flag is repeated.
        tree: The dataclass whose fields are the flags. A switch has a form with `no-`
            before its name, too, or before its group's.

    Returns:
        Nested mapping as `merge` takes it: strings, lists of strings, and booleans for switches.

    Raises:
        ConfigError: A flag is unknown (the message names the nearest one) or has too few or too
            many values.
    """
    kinds = field_types(tree)
    names = {flag(name): name for name in kinds}
    for name in (name for name, kind in kinds.items() if kind is bool):
        names[_off(name)] = names[flag(f"no-{name}")] = name
    given: dict[str, Any] = {}
    words = list(argv)
    while words:
        word, equals, text = words.pop(0).partition("=")
        key = word.replace("_", "-")
        if key not in names:
            _refuse(word, key, names)
        values = [text] if equals else []
        while not equals and words and not words[0].startswith("--"):
            values.append(words.pop(0))
        *parents, leaf = names[key].split(".")
        node = given
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = _flag_value(key, kinds[names[key]], values, names[key])
    return given


def _refuse(word: str, key: str, names: Collection[str]) -> None:
    """Raises the error of an argument that is not a flag."""
    if word.startswith("-"):
        raise ConfigError(f"unknown flag {word}{nearest(key, names)} (--help shows all)")
    hint = f"an environment is given as --env {word}" if "--env" in names else "it needs a flag"
    raise ConfigError(f"a value without a flag: {word}; {hint} (--help shows all)")


def _off(name: str) -> str:
    """Returns the flag that switches a dotted name off: --trainer.no-video."""
    parent, dot, leaf = name.rpartition(".")
    return flag(f"{parent}{dot}no-{leaf}")


def _flag_value(key: str, kind: Any, values: list[str], name: str) -> Any:
    if kind is bool:
        if values:
            hint = f"{flag(name)} switches it on and {_off(name)} off"
            raise ConfigError(f"{key} takes no value, but {values[0]!r} follows it; {hint}")
        return key == flag(name)
    if typing.get_origin(kind) is tuple:
        return _split_list(key, values)
    if len(values) != 1:
        follows = f"{' '.join(values)!r} follows it" if values else "none follows it"
        raise ConfigError(f"{key} takes one value, but {follows}")
    return values[0]


def _split_list(key: str, values: list[str]) -> list[str]:
    """Returns the entries of values such as "0,1" and "2"; a comma may end all but the last.

    Raises:
        ConfigError: An entry is empty.
    """
    text = " ".join(values).strip()
    parts = re.split(r"\s*,\s*|\s+", text) if text else []
    if "" in parts:
        hint = "separate them by single commas, such as 1,2"
        raise ConfigError(f"{key} {text!r}: an entry is empty; {hint}")
    return parts


# --- values ---------------------------------------------------------------------------------------


def merge(
    tree: T,
    given: Mapping[str, Any],
    *,
    where: str = "",
    spell: Callable[[str], str] = str,
    allowed: Collection[str] | None = None,
    prefix: str = "",
) -> T:
    """Returns a tree with the given values in it, read by the type of their field.

    Args:
        tree: The defaults.
        given: Nested mapping of keys to values of YAML or strings; PyYAML reads `3e-4` as a string.
        where: Prefix of a message: the file that the values come from.
        spell: Turns a dotted name into the form of the message.
        allowed: Keys that may be set at this level; by default all fields.
        prefix: Dotted name of this level.

    Returns:
        The new tree; the old one is unchanged.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or is out of range.
    """
    kinds = typing.get_type_hints(type(tree))
    names = sorted(kinds if allowed is None else allowed)
    changes = {}
    for key, value in given.items():
        if key not in names:
            raise ConfigError(f"{where}unknown key {prefix}{key}{nearest(str(key), names)}")
        old, name = read_field(tree, key), prefix + key
        if is_dataclass(old):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}{name} = {value!r}: must be a group of keys")
            changes[key] = merge(old, value, where=where, spell=spell, prefix=name + ".")
            continue
        try:
            changes[key] = _coerce(value, kinds[key])
        except ValueError as error:
            raise ConfigError(f"{where}{spell(name)} = {value!r}: must be {error}") from None
    try:
        return replace(tree, **changes)  # ty: ignore[invalid-argument-type]
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    except ValueError as error:  # of a plug-in learner's own config
        raise ConfigError(f"{where}{prefix.rstrip('.')}: {error}") from None


def _coerce(value: Any, kind: Any) -> Any:
    """Converts a value to `kind`; a ValueError says what it must be."""
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(choice for choice in choices if choice is not type(None))
        return None if value in (None, "None") else _coerce(value, inner)
    if origin is Literal:
        if value not in choices:
            raise ValueError("one of " + ", ".join(choices) + nearest(str(value), choices))
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError("a list")
        return tuple(_coerce(item, choices[0]) for item in value)
    if kind is Path and isinstance(value, str) and value.startswith("hf://"):
        raise ValueError("a path; an address on the hub is not taken here, download it first")
    if kind is Path and isinstance(value, (str, Path)) and "\0" in str(value):
        raise ValueError("a path, which has no zero character")
    if kind in (str, Path) and isinstance(value, (str, Path)):
        return kind(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind in (int, float) and isinstance(value, (int, float, str)):
        return _number(value, kind)
    raise ValueError(_KINDS.get(kind, "a text"))


_KINDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def _number(value: float | str, kind: type) -> float:
    """Converts to a number; a whole number may be written 1e6."""
    if isinstance(value, bool):
        raise ValueError(_KINDS[kind])
    try:
        if kind is float or isinstance(value, int):
            return kind(value)
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9_]+", value):
            return int(value)
        if float(value).is_integer():
            return int(float(value))
    except (ValueError, OverflowError):
        pass
    raise ValueError(_KINDS[kind])


def nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested mappings from settings with dotted names.

    Raises:
        ConfigError: A group is given a value that is not a mapping.
    """
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *groups, leaf = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{group} = {node!r}: must be a group of keys")
        old = node.get(leaf, {})
        is_group = isinstance(value, Mapping) and isinstance(old, dict)
        node[leaf] = {**old, **value} if is_group else value
    return tree


def plain(value: Any) -> Any:
    """Returns nested mappings and sequences as dicts and lists, and paths as strings, for YAML."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
