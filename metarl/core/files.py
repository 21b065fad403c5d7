"""Files: atomic writes, strict YAML, and names of environments that stand for a file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from metarl.core.errors import ConfigError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the content of a file; a killed process leaves the old one or the new one whole."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def clean_name(text: str) -> str:
    """Returns a text as a file name of letters, digits and "_.+-"; empty if nothing is left.

    "/" and ":" in the name of an environment would make folders or hosts.
    """
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that rejects duplicate keys, of which PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds one mapping of the document."""
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: key {key} is given twice")
            keys.add(key)
        return super().construct_mapping(node, deep=deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file whose document is a mapping.

    Raises:
        ConfigError: The file is missing, is no such YAML, or gives a key twice; the message names
            the file.
    """
    try:
        loader = _StrictLoader(path.read_text(encoding="utf-8"))
        try:
            tree = loader.get_single_data()
        finally:
            loader.dispose()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold a group of keys")
    return tree


def split_robot_file(name: str) -> tuple[Path, str] | None:
    """Splits the name `my_robot.yaml:goal-variation` of an environment; None for other names."""
    file, _, parts = name.rpartition(":")
    return (Path(file), parts) if file.endswith((".yaml", ".yml")) else None


PACKAGED = (
    *("a1", "a2", "aliengo", "anymal-b", "anymal-c", "b2", "g1", "go1", "go2", "panda", "spot"),
    "ur5e",
)
"""Names of the robots whose models come from an installed package (`envs/robots/box.py`)."""

PACKAGED_ARMS = ("panda", "ur5e")
"""Those of them that are arms."""


def split_packaged_robot(name: str) -> tuple[str, str] | None:
    """Splits the name `go2-goal-variation` of an environment; None for other names."""
    for robot in PACKAGED:
        if name.startswith(f"{robot}-"):
            return robot, name.removeprefix(f"{robot}-")
    return None
