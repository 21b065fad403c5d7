"""Robots of Python code: registered in this process, or by an installed package.

A package names a robot in the entry-point group `metarl.robots`: name -> "module:attribute", a
`Robot`, a function without arguments that returns one, or the path of a robot's file. Nothing of it
is imported before its name is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from metarl.core.errors import ConfigError
from metarl.core.machine.files import PACKAGED
from metarl.envs.robots.own import read_robot
from metarl.envs.robots.robot import Robot

GROUP = "metarl.robots"
"""Entry-point group of robots."""

BUILT_IN = (
    "ant",
    "arm",
    "half-cheetah",
    "hopper",
    "humanoid",
    "navigation",
    "quadruped",
    "walker2d",
)
"""Beginnings of the names of built-in environments."""

_REGISTERED: dict[str, Robot] = {}


def register_robot(robot: Robot) -> None:
    """Makes `robot.name-goal-variation` a name of environments, in this process.

    A robot may be registered again under its name; the last one counts.

    Raises:
        ConfigError: The name has other characters than small letters, digits, _ and -, or is that
            of another robot of metarl.
    """
    name = robot.name
    if not re.fullmatch(r"[a-z0-9_][a-z0-9_-]*", name):
        raise ConfigError(f"robot {name!r}: the name may have a to z, 0 to 9, _ and - only")
    for other in (*BUILT_IN, *PACKAGED):
        if name == other or name.startswith(f"{other}-"):
            raise ConfigError(f"robot {name!r}: the name belongs to {other}; choose another")
    _REGISTERED[name] = robot


def find(name: str) -> tuple[Robot, str] | None:
    """Finds the registered robot with which the name of an environment begins, the longest first.

    Returns:
        The robot, and the rest of the name: its goal and variations; None for other names.

    Raises:
        ConfigError: A package's robot cannot be loaded or is none.
    """
    for robot in sorted({*_REGISTERED, *entry_points()}, key=len, reverse=True):
        if name.startswith(f"{robot}-"):
            found = _REGISTERED.get(robot) or _load(robot)
            return found, name.removeprefix(f"{robot}-")
    return None


def entry_points() -> Iterator[str]:
    """Yields the names that installed packages give, without loading the packages."""
    yield from metadata.entry_points(group=GROUP).names


def _load(name: str) -> Robot:
    """Loads the robot of a package."""
    (point, *_) = metadata.entry_points(group=GROUP, name=name)
    try:
        found: Any = point.load()
        if callable(found) and not isinstance(found, type):
            found = found()
    except Exception as error:  # code of a stranger
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"robot {name} of the package {point.module}: {text:.300}") from error
    if isinstance(found, str | Path):
        return read_robot(Path(found))
    if not isinstance(found, Robot):
        hint = "a Robot, a function that returns one, or a path"
        raise ConfigError(f"robot {name} of {point.value}: is a {type(found).__name__}, not {hint}")
    return found
