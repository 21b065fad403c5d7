"""Environments and robots from Python: made, registered and checked.

MuJoCo is imported when a function needs it, so that `import metarl` stays light.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarl import builders
from metarl.config.trust import trust
from metarl.core.errors import ConfigError


def robot_from_mjcf(path: str | Path, name: str = "", **keys: Any) -> Any:
    """Makes a robot from a model, with a definition guessed as by `metarl new-robot`.

    Args:
        path: The MJCF file.
        name: Of the robot; by default that of the file.
        **keys: Keys of a robot's file (docs/own-robot.md) with values other than the guess; a list
            may be a tuple or an array.

    Returns:
        A `metarl.envs.robots.robot.Robot`, for `make_env` and `register_robot`.

    Raises:
        ConfigError: The model is not supported, or a key is unknown or does not fit it.
    """
    from metarl.envs.robots.guessing import guess

    return guess.robot_from_mjcf(path, name, **keys)


class _RobotType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return _is_robot(instance)


class Robot(metaclass=_RobotType):
    """Name of robots without MuJoCo: robots are of the class `metarl.envs.robots.robot.Robot`.

    Raises:
        ConfigError: It is called; robots are made by `from_mjcf`.
    """

    from_mjcf = staticmethod(robot_from_mjcf)

    def __new__(cls, *arguments: Any, **keys: Any) -> Any:
        """Refuses: a robot needs a model."""
        hint = "a robot is made from a model: metarl.Robot.from_mjcf('my_robot.xml')"
        raise ConfigError(f"metarl.Robot is no class to call; {hint}")


def register_robot(robot: Any) -> None:
    """Makes `robot.name-goal-variation` a name of environments, in this process.

    Args:
        robot: A robot, as `robot_from_mjcf` makes it.

    Raises:
        ConfigError: The name cannot be used.
    """
    from metarl.envs.robots import registered

    registered.register_robot(robot)


def make_env(
    env: Any,
    threads: int = 0,
    *,
    goal: str = "",
    variations: Sequence[str] = (),
    observe_task: bool = False,
    observe_terrain: bool = False,
) -> Any:
    """Builds an environment batch, as `metarl.builders.make_env` does.

    Args:
        env: A name, a class or function that makes a Gymnasium environment, a `BatchEnv`, or a
            robot (`robot_from_mjcf`), which is registered.
        threads: Physics threads; 0 uses all cores.
        goal: Of a robot; "" is forward, with variations.
        variations: Of a robot.
        observe_task: Append the task to the observation.
        observe_terrain: Append heights of the ground around the robot to the observation.

    Raises:
        ConfigError: There is no such name, and the message names the nearest; or goal or variations
            are given and env is no robot.
        EnvironmentContractError: The code of a plug-in fails; the message names the line.
    """
    if _is_robot(env):
        if not (goal or variations):
            raise ConfigError(f"make_env: {env.name} needs a goal or a variation, as in goal='dir'")
        register_robot(env)
        env = "-".join([env.name, *filter(None, [goal, *variations])])
    elif goal or variations:
        hint = "they belong to a robot; a name has its own"
        raise ConfigError(f"make_env({env!r:.100}, goal={goal!r}): {hint}")
    trust(env)
    return builders.make_env(
        env, threads, observe_task=observe_task, observe_terrain=observe_terrain
    )


def check_env(env: Any) -> list[Any]:
    """Tests the contract of `BatchEnv` on an environment; returns one finding for each test."""
    from metarl.envs.env_checker import check

    if builders.is_batch_env(env):
        hint = "give a name, a class or a function, because the checks compare two of it"
        raise ConfigError(f"env = {env.spec.name}: {hint}")
    return check(lambda threads: builders.make_env(env, threads))


def _is_robot(env: Any) -> bool:
    """Returns whether env is a robot, without importing MuJoCo for the others."""
    if isinstance(env, str) or "metarl.envs.robots.robot" not in sys.modules:
        return False
    from metarl.envs.robots.robot import Robot

    return isinstance(env, Robot)
