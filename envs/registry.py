"""Name -> environment: a literal table, or the name of a plug-in (`envs/plugins.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from envs import plugins
from envs.base import BatchEnv, MujocoBatchEnv, RewardTerms
from envs.goals import Direction, ForwardBackward, Goal, Position, Velocity
from envs.navigation import DenseGoal, NavigationEnv, SparseGoal
from envs.plugins import UnknownEnvironment, nearest
from envs.robots import ANT, HALF_CHEETAH, HeightBand, Robot

__all__ = ["ENVIRONMENTS", "UnknownEnvironment", "make"]

Factory = Callable[[str, int], BatchEnv]


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
        name: A name of ENVIRONMENTS, or of a plug-in (see `envs/plugins.py`).
        threads: Physics threads; 0 takes all cores. Results do not depend on it.

    Returns:
        The environment.

    Raises:
        UnknownEnvironment: There is no such name, module or attribute; the message names the nearest.
        UnsupportedHere: The environment needs what is not installed.
        PluginFailure: A plug-in breaks the contract.
    """
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name](name, threads)
    plug_in = plugins.find(name)
    if plug_in is not None:
        return plugins.build(name, plug_in, threads)
    hint = nearest(name, [*ENVIRONMENTS, *plugins.entry_points()])
    raise UnknownEnvironment(f"no environment {name!r}{hint} (--list-envs shows all)")
