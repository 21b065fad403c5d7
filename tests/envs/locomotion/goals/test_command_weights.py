"""Weights of the goal command: joint limits and time in the air against slow, plain loops."""

from contextlib import closing
from dataclasses import fields

import mujoco
import numpy as np
import pytest

from metarl.core.errors import ConfigError
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.goals.command import Command
from metarl.envs.registry import make, recipe_of
from metarl.envs.robots.guessing.guess import robot_from_mjcf
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.envs.robots.own import WEIGHTS

ROWS = 3


def dog(**keys):
    return robot_from_mjcf(QUADRUPED.model_file, "dog", **keys)


def play(robot, steps=60, restart=None):
    """Returns the contacts, qpos, commands and rewards of steps with wild actions, and the sums."""
    env = MujocoBatchEnv("test", recipe_of(robot, "command"), 1)
    feet = [env.model.geom(name).id for name in robot.feet]
    contacts, records = np.zeros((steps, ROWS, len(feet)), dtype=bool), []
    with closing(env):
        env.set_tasks(np.zeros((ROWS, 0)), 1)
        env.reset([np.random.default_rng(row) for row in range(ROWS)])
        rng = np.random.default_rng(9)
        for t in range(steps):
            if t == restart:
                env.reset_rows(np.array([False, True, False]), [np.random.default_rng(7)])
            command = env._commands.now.copy()
            alive = np.array([True, True, t % 10 < 7])
            step = env.step(2.0 * rng.standard_normal((ROWS, 12)), alive)
            for row in range(ROWS):
                data = env._batch.get_data(row)
                mujoco.mj_forward(env._batch.get_model(row), data)
                touching = data.contact.geom.ravel().tolist()
                contacts[t, row] = [foot in touching for foot in feet]
            records.append((env.snapshot(), command, step.reward.copy(), alive))
        return contacts, records, env.take_reward_sums()[0]


def test_weights_are_fields_of_the_goal():
    assert set(WEIGHTS) < {each.name for each in fields(Command)}
    assert (Command().limits, Command().air_time) == (0.0, 0.0)


def test_terms_without_weight_are_not_there():
    plain = play(dog(), 20)
    zero = play(dog(command={"limits": 0.0, "air_time": 0.0}), 20)
    for (_, _, first, _), (_, _, other, _) in zip(plain[1], zero[1], strict=True):
        np.testing.assert_array_equal(first, other)
    assert not {"limits", "air_time"} & set(plain[2]) and set(plain[2]) == set(zero[2])
    assert make("quadruped-command", 1).spec.version == 2


def test_weights_do_not_change_the_physics():
    for (plain, *_), (weighted, *_) in zip(
        play(dog(), 30)[1], play(dog(command={"limits": 1, "air_time": 1}), 30)[1], strict=True
    ):
        np.testing.assert_array_equal(plain, weighted)


def test_limits_cost_what_is_beyond_the_soft_range():
    _, records, sums = play(dog(command={"limits": 2.0}), 30)
    model, expected = dog().model(), np.zeros(ROWS)
    for qpos, _, _, alive in records:
        for row in np.flatnonzero(alive):
            for joint in range(1, model.njnt):
                low, high = model.jnt_range[joint]
                margin = 0.05 * (high - low)
                angle = qpos[row, model.jnt_qposadr[joint]]
                excess = max(angle - (high - margin), low + margin - angle, 0.0)
                expected[row] -= 2.0 * excess
    assert (expected < 0.0).sum() >= 2
    np.testing.assert_allclose(sums["limits"], expected, rtol=1e-9)


@pytest.mark.parametrize("observes", [False, True])
def test_air_time_is_paid_when_a_foot_lands(observes):
    keys = {"command": {"air_time": 3.0}}
    if observes:
        terms = ("joint positions", "foot contacts")
        keys["observation"] = {t: {"scale": 1.0, "clip": 0.0, "noise": 0.0} for t in terms}
    contacts, records, sums = play(dog(**keys), 80, restart=40)
    since, expected, landings = np.zeros(contacts.shape[1:]), np.zeros(ROWS), 0
    for t, (_, command, _, alive) in enumerate(records):
        if t == 40:
            since[1] = 0.0
        for row in np.flatnonzero(alive):
            for foot, touches in enumerate(contacts[t, row]):
                before, since[row, foot] = since[row, foot], since[row, foot] + 0.02
                if touches and before > 0.0 and np.hypot(*command[row, :2]) > 0.1:
                    expected[row] += 3.0 * (since[row, foot] - 0.5)
                    landings += 1
                if touches:
                    since[row, foot] = 0.0
    assert landings > 10
    np.testing.assert_allclose(sums["air_time"], expected, rtol=1e-9)


def test_formula_names_the_weights():
    formula = recipe_of(dog(command={"limits": 2, "air_time": 0.5}), "command").spec("x").reward
    assert "- 2 sum excess + 0.5 sum (t_air - 0.5)" in formula


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"limit": 1.0}, "torque, limits, air_time alone; did you mean limits?"),
        ({"limits": -1.0}, "command.limits = -1.0: must be a number from 0 to 1e.06"),
        ([1.0], "must be a mapping of weights to numbers"),
    ],
)
def test_unknown_weight_is_refused_in_one_line(weights, text):
    with pytest.raises(ConfigError, match=text) as caught:
        dog(command=weights)
    assert "\n" not in str(caught.value)


def test_air_time_needs_feet():
    with pytest.raises(ConfigError, match="air_time = 1.0: must be 0 for a robot without feet"):
        dog(feet=[], command={"air_time": 1.0})
