"""Recipes of the built-in robots, variants of publications, and the goals of other robots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from metarl.core.tasks import Choice, Variable
from metarl.envs.locomotion.goals.command import Command
from metarl.envs.locomotion.goals.hidden import (
    Direction,
    Forward,
    ForwardBackward,
    Goal,
    Position,
    RewardTerms,
    Velocity,
)
from metarl.envs.locomotion.goals.reach import Reach
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.locomotion.variations import ScaledGravity
from metarl.envs.robots.arms.arm import ARM
from metarl.envs.robots.health import HeightBand
from metarl.envs.robots.included.gymnasium import ANT, HALF_CHEETAH, HOPPER, HUMANOID, WALKER2D
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.envs.robots.robot import Robot


def _ant(
    goal: Goal, *, bonus: float, control_cost: float = 0.5, action_scale: float = 0.2, **settings
) -> Recipe:
    terms = RewardTerms(bonus=bonus, control_cost=control_cost)
    return Recipe(ANT, goal, terms, action_scale=action_scale, **settings)


def _cheetah(goal: Goal, **settings) -> Recipe:
    return Recipe(HALF_CHEETAH, goal, RewardTerms(control_cost=0.05), **settings)


def _walker(robot: Robot, goal: Goal) -> Recipe:
    return Recipe(robot, goal, RewardTerms(bonus=1.0, control_cost=1e-3))


def _quadruped(goal: Goal | Command, **settings) -> Recipe:
    terms = RewardTerms(bonus=max(0.5, goal.least_bonus), control_cost=0.01)
    return Recipe(QUADRUPED, goal, terms, **settings)


def _humanoid(goal: Goal, *, weight: float = 1.25) -> Recipe:
    terms = RewardTerms(
        bonus=5.0,
        control_cost=0.1,
        contact_cost=5e-7,
        contact_clip=np.inf,
        contact_cap=10.0,
        goal_weight=weight,
    )
    note = "contact forces are those at the start of the last physics step, not Gymnasium's"
    return Recipe(HUMANOID, goal, terms, note=note)


FAMILIES: dict[str, dict[str, Recipe]] = {
    "ant": {
        "": _ant(Forward(), bonus=1.0),
        "dir": _ant(Direction(), bonus=1.0),
        "fwd-bwd": _ant(ForwardBackward(), bonus=1.0),
        "goal": _ant(Position(), bonus=0.0, control_cost=0.1),
        "vel": _ant(Velocity(), bonus=1.05),
    },
    "half-cheetah": {
        "": _cheetah(Forward()),
        "dir": _cheetah(ForwardBackward()),
        "vel": _cheetah(Velocity()),
    },
    "walker2d": {
        "": _walker(WALKER2D, Forward()),
        "dir": _walker(WALKER2D, ForwardBackward()),
        "vel": _walker(WALKER2D, Velocity()),
    },
    "hopper": {
        "": _walker(HOPPER, Forward()),
        "dir": _walker(HOPPER, ForwardBackward()),
        "vel": _walker(HOPPER, Velocity(2.0)),
    },
    "quadruped": {
        "": _quadruped(Forward()),
        "command": _quadruped(Command()),
        "dir": _quadruped(Direction()),
        "fwd-bwd": _quadruped(ForwardBackward()),
        "goal": _quadruped(Position()),
        "vel": _quadruped(Velocity(1.5), revisions=1),  # the bonus was once 0.5
    },
    # the cost is that of a policy that holds outputs of one: 1 mm of distance for each servo
    "arm": {"reach": Recipe(ARM, Reach(ARM), RewardTerms(control_cost=0.001))},
    "humanoid": {
        "": _humanoid(Forward()),
        "dir": _humanoid(Direction()),
        "fwd-bwd": _humanoid(ForwardBackward()),
        "vel": _humanoid(Velocity(), weight=1.0),
    },
}
"""Recipes by robot and goal; "" is forward, and names an environment only with variations."""


def _list_resel() -> Iterator[tuple[str, Recipe]]:
    """Lists the robots of RESeL's gravity tasks, with rewards and horizon of Gym's v2."""
    note = "RESeL has the models of Gym's v2, and a bonus in the step of a fall, too"
    walking = RewardTerms(bonus=1.0, control_cost=1e-3)
    for recipe in (
        _ant(Forward(), bonus=1.0, action_scale=1.0),
        Recipe(HALF_CHEETAH, Forward(), RewardTerms(control_cost=0.1)),
        Recipe(HOPPER, Forward(), walking),
        Recipe(WALKER2D, Forward(), walking),
        _humanoid(Forward()),
    ):
        # a Humanoid has a smaller range there
        gravity = ScaledGravity(2.0 if recipe.robot is HUMANOID else 3.0)
        notes = "; ".join(each for each in (recipe.note, note) if each)
        yield recipe.robot.name, replace(recipe, variations=(gravity,), horizon=1000, note=notes)


_SIGNS_AS_ANGLES = Direction(
    Choice(Variable("angle", "rad", -1.0, 1.0), (-1.0, 1.0)), balanced=False
)

VARIANTS: dict[str, Recipe] = {
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
    **{f"{robot}-gravity/resel": recipe for robot, recipe in _list_resel()},
}
"""Recipes of publications, by name."""


def goals_of(robot: Robot) -> dict[str, Goal | Command]:
    """Returns the goals that a robot of a user or a package can have, by name."""
    if robot.fixed:
        return {"reach": Reach(robot)}
    goals: dict[str, Goal | Command] = {"": Forward(), "vel": Velocity(robot.top_speed)}
    goals |= {"fwd-bwd": ForwardBackward()}
    if robot.planar:
        return goals | {"dir": ForwardBackward()}
    return goals | {
        "dir": Direction(),
        "goal": Position(),
        "command": Command(**dict(robot.command)),
    }
