"""Name -> environment: a literal table, or `module:attribute` for an environment that lives elsewhere."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import replace

from envs.base import BatchEnv, MujocoBatchEnv, RewardTerms
from envs.goals import Direction, ForwardBackward, Goal, Position, Velocity
from envs.navigation import DenseGoal, NavigationEnv, SparseGoal
from envs.robots import ANT, HALF_CHEETAH, HeightBand, Robot

Factory = Callable[[str, int], BatchEnv]


class UnknownEnvironment(ValueError):
    """No environment has this name; the message holds the nearest one."""


def _robot(robot: Robot, goal: Goal, terms: RewardTerms, **settings) -> Factory:
    return lambda name, threads: MujocoBatchEnv(
        name, robot, goal, terms, threads=threads, **settings
    )


def _ant(goal: Goal, *, bonus: float, control_cost: float = 0.5, **settings) -> Factory:
    terms = RewardTerms(bonus=bonus, control_cost=control_cost)
    return _robot(ANT, goal, terms, **{"action_scale": 0.2, **settings})


def _cheetah(goal: Goal, **settings) -> Factory:
    return _robot(HALF_CHEETAH, goal, RewardTerms(control_cost=0.05), **settings)


_PROMP_ANT = replace(ANT, healthy=HeightBand(0.0, 1.0))

ENVIRONMENTS: dict[str, Factory] = {
    "ant-dir": _ant(Direction(), bonus=1.0),
    "ant-fwd-bwd": _ant(ForwardBackward(), bonus=1.0),
    "ant-goal": _ant(Position(), bonus=0.0, control_cost=0.1),
    "ant-vel": _ant(Velocity(), bonus=1.05),
    "half-cheetah-dir": _cheetah(ForwardBackward()),
    "half-cheetah-vel": _cheetah(Velocity()),
    "navigation-2d": lambda name, threads: NavigationEnv(name, DenseGoal()),
    "navigation-2d-sparse": lambda name, threads: NavigationEnv(
        name, SparseGoal(), max_step=0.1, step_scale=0.1
    ),
    "ant-dir/promp": _robot(
        _PROMP_ANT,
        Direction(),
        RewardTerms(bonus=1.0, control_cost=0.5, contact_cost=0.5e-3),
        action_scale=0.1,
        observe_contacts=True,
    ),
    "ant-dir/pearl": _ant(Direction(), bonus=1.0, action_scale=1.0),
    "half-cheetah-dir/rllib": _cheetah(ForwardBackward(), horizon=100),
}


def make(name: str, threads: int = 0) -> BatchEnv:
    """Builds an environment by name.

    Args:
        name: A name of ENVIRONMENTS, or "module:attribute", where the attribute is called as attribute(name, threads)
            and returns a BatchEnv.
        threads: Physics threads; 0 takes all cores. Results do not depend on it.

    Returns:
        The environment.

    Raises:
        UnknownEnvironment: There is no such name, module or attribute; the message names the nearest.
    """
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name](name, threads)
    if ":" in name:
        return _foreign(name)(name, threads)
    hint = _nearest(name, ENVIRONMENTS)
    raise UnknownEnvironment(f"no environment {name!r}{hint} (--list-envs shows all)")


def _foreign(name: str) -> Factory:
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith(".") or not attribute:
        raise UnknownEnvironment(
            f"{name!r}: write module:attribute, for example my_robots:make_env"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UnknownEnvironment(f"{name!r}: no module {error.name!r} can be imported") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        callables = [key for key in vars(module) if callable(getattr(module, key))]
        hint = _nearest(attribute, callables)
        raise UnknownEnvironment(f"{name!r}: {module_name} has no function {attribute!r}{hint}")
    return factory


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""
