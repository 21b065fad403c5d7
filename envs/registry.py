"""Name -> environment: a literal table, or `module:attribute` for an environment that lives elsewhere."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from envs.base import BatchEnv, MujocoBatchEnv
from envs.goals import Direction, ForwardBackward, Goal, Position, RewardTerms, Velocity
from envs.navigation import DenseGoal, NavigationEnv, SparseGoal
from envs.robots import ANT, HALF_CHEETAH, HOPPER, HUMANOID, WALKER2D, HeightBand, Robot
from envs.tasks import Choice, Variable

Factory = Callable[[str, int], BatchEnv]


class UnknownEnvironment(ValueError):
    """No environment has this name; the message holds the nearest one."""


@dataclass(frozen=True)
class Recipe:
    """What an environment on MuJoCo is made of.

    Attributes:
        robot: The robot.
        goal: The goal.
        terms: Bonus and costs.
        horizon: T.
        action_scale: See EnvSpec.
        observe_contacts: See MujocoBatchEnv.
        note: What a reader of results must know.
        task_split: See EnvSpec.
    """

    robot: Robot
    goal: Goal
    terms: RewardTerms
    horizon: int = 200
    action_scale: float = 1.0
    observe_contacts: bool = False
    note: str = ""
    task_split: tuple[int, int] | None = None

    def __call__(self, name: str, threads: int) -> MujocoBatchEnv:
        """Builds the environment under a name."""
        env = MujocoBatchEnv(
            name,
            self.robot,
            self.goal,
            self.terms,
            horizon=self.horizon,
            action_scale=self.action_scale,
            observe_contacts=self.observe_contacts,
            threads=threads,
        )
        note = "; ".join(words for words in (self.note, env.spec.note) if words)
        env.spec = replace(env.spec, note=note, task_split=self.task_split)
        return env


def _ant(
    goal: Goal, *, bonus: float, control_cost: float = 0.5, action_scale: float = 0.2, **settings
) -> Recipe:
    terms = RewardTerms(bonus=bonus, control_cost=control_cost)
    return Recipe(ANT, goal, terms, action_scale=action_scale, **settings)


def _cheetah(goal: Goal, **settings) -> Recipe:
    return Recipe(HALF_CHEETAH, goal, RewardTerms(control_cost=0.05), **settings)


def _walker(robot: Robot, goal: Goal) -> Recipe:
    return Recipe(robot, goal, RewardTerms(bonus=1.0, control_cost=1e-3))


def _humanoid(goal: Goal, *, weight: float = 1.25) -> Recipe:
    terms = RewardTerms(
        bonus=5.0,
        control_cost=0.1,
        contact_cost=5e-7,
        contact_clip=np.inf,
        contact_cap=10.0,
        goal_weight=weight,
    )
    return Recipe(HUMANOID, goal, terms)


_SIGNS_AS_ANGLES = Direction(
    Choice(Variable("angle", "rad", -1.0, 1.0), (-1.0, 1.0)), balanced=False
)

ENVIRONMENTS: dict[str, Factory] = {
    "ant-dir": _ant(Direction(), bonus=1.0),
    "ant-fwd-bwd": _ant(ForwardBackward(), bonus=1.0),
    "ant-goal": _ant(Position(), bonus=0.0, control_cost=0.1),
    "ant-vel": _ant(Velocity(), bonus=1.05),
    "half-cheetah-dir": _cheetah(ForwardBackward()),
    "half-cheetah-vel": _cheetah(Velocity()),
    "walker2d-dir": _walker(WALKER2D, ForwardBackward()),
    "walker2d-vel": _walker(WALKER2D, Velocity()),
    "hopper-vel": _walker(HOPPER, Velocity(2.0)),
    "humanoid-dir": _humanoid(Direction()),
    "navigation-2d": lambda name, threads: NavigationEnv(name, DenseGoal()),
    "navigation-2d-sparse": lambda name, threads: NavigationEnv(
        name, SparseGoal(), max_step=0.1, step_scale=0.1
    ),
    "ant-dir/promp": Recipe(
        replace(ANT, healthy=HeightBand(0.0, 1.0)),
        Direction(),
        RewardTerms(bonus=1.0, control_cost=0.5, contact_cost=0.5e-3),
        action_scale=0.1,
        observe_contacts=True,
    ),
    "ant-dir/pearl": _ant(Direction(), bonus=1.0, action_scale=1.0, task_split=(100, 30)),
    "ant-dir/varibad": _ant(
        _SIGNS_AS_ANGLES,
        bonus=1.0,
        action_scale=1.0,
        note="not forward and backward: the signs +-1 were used as angles [rad], "
        "a known error that several papers inherited",
    ),
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
