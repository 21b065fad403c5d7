"""Commands: drawn from the episode's stream, observed, and rewarded as the formula says."""

import math
from contextlib import closing

import mujoco
import numpy as np
import pytest

from metarl.envs.locomotion.goals.command import Command
from metarl.envs.registry import make
from metarl.envs.robots.included.quadruped import QUADRUPED

HOLD = 100  # control steps of a command: 2 s of 0.02 s
ALL = np.ones(3, dtype=bool)


def streams(first=0):
    return [np.random.default_rng(first + row) for row in range(3)]


@pytest.fixture
def env():
    with closing(make("quadruped-command", threads=1)) as env:
        env.set_tasks(np.empty((3, 0)), 1)
        yield env


def commands_of(env, steps):
    action = np.zeros((3, 12))
    return np.array([env.step(action, ALL).obs[:, -3:].copy() for _ in range(steps)])


def test_command_is_observed_and_changes_after_its_period(env):
    first = env.reset(streams())[:, -3:].copy()
    later = commands_of(env, HOLD + 1)
    assert (later[: HOLD - 1] == first).all()
    assert (later[HOLD - 1] != first).any(axis=1).all()
    assert (later[HOLD] == later[HOLD - 1]).all()
    assert len(np.unique(first, axis=0)) == 3


def test_commands_depend_on_the_stream_of_the_episode_only(env):
    one = env.reset(streams())[:, -3:].copy(), commands_of(env, HOLD)
    env.reset(streams(7))
    assert not (commands_of(env, 1)[0] == one[0]).all()
    again = env.reset(streams())[:, -3:].copy(), commands_of(env, HOLD)
    np.testing.assert_array_equal(one[0], again[0])
    np.testing.assert_array_equal(one[1], again[1])


def test_restart_of_a_row_draws_its_commands_only(env):
    first = env.reset(streams())[:, -3:].copy()
    commands_of(env, 3)
    rows = np.array([False, True, False])
    after = env.reset_rows(rows, [np.random.default_rng(2)])[:, -3:]
    np.testing.assert_array_equal(after[[0, 2]], first[[0, 2]])
    np.testing.assert_array_equal(after[1], first[2])


def test_reward_is_that_of_the_formula(env):
    env.reset(streams())
    rng, goal, before = np.random.default_rng(5), Command(), np.zeros((3, 12))
    force = env._batch.bind("actuator_force")
    limits = np.tile([24.0, 24.0, 36.0], 4)
    for _ in range(4):
        command, action = env._commands.now.copy(), rng.normal(0.0, 0.7, (3, 12))
        step = env.step(action, ALL)
        low, high = (env.model.actuator_ctrlrange[:, i] for i in (0, 1))
        centre = np.array(QUADRUPED.action_centre)
        clipped = (np.clip(centre + 0.4 * action, low, high) - centre) / 0.4
        for row in range(3):
            qpos, qvel = env._qpos[row], env._qvel[row]
            inverse, speed = np.zeros(4), np.zeros(3)
            mujoco.mju_negQuat(inverse, np.ascontiguousarray(qpos[3:7]))
            mujoco.mju_rotVecQuat(speed, np.ascontiguousarray(qvel[:3]), inverse)
            error = command[row] - [speed[0], speed[1], qvel[5]]
            expected = math.exp(-(error[0] ** 2 + error[1] ** 2) / 0.25)
            expected += 0.5 * math.exp(-(error[2] ** 2) / 0.25)
            expected -= 0.5 * qvel[2] ** 2 + 0.02 * (qvel[3] ** 2 + qvel[4] ** 2)
            expected -= 0.005 * ((clipped[row] - before[row]) ** 2).sum()
            expected -= 0.2 * ((force[row] / limits) ** 2).mean()
            expected += 0.5 - 0.01 * (clipped[row] ** 2).sum()
            assert step.reward[row] == pytest.approx(expected, rel=1e-9)
        before = clipped
    assert goal.formula.startswith("exp(-|e_xy|^2/0.25)")


def test_floor_is_the_mean_over_commands_in_closed_form():
    def mean(low, high, width=0.25):
        root = math.sqrt(width)
        area = math.erf(high / root) - math.erf(low / root)
        return root * math.sqrt(math.pi) / 2 * area / (high - low)

    moving = mean(-0.6, 1.0) * mean(-0.4, 0.4) + 0.5 * mean(-1.0, 1.0)
    assert Command().floors()["stand still"] == pytest.approx(0.9 * moving + 0.1 * 1.5, rel=0.01)


def test_perfect_motion_earns_the_most():
    command = np.array([[0.5, -0.2, 0.3]])
    assert Command().tracking(command, command) == 1.5
    assert Command().tracking(command, command + [0.1, 0.0, 0.0]) < 1.5


def test_command_of_rest_is_drawn_in_its_share():
    drawn = Command().draw(np.random.default_rng(0), 5000)
    assert (drawn == 0.0).all(axis=1).mean() == pytest.approx(0.1, abs=0.02)
    assert (np.abs(drawn) <= [1.0, 0.4, 1.0]).all() and drawn[:, 0].min() < -0.55
