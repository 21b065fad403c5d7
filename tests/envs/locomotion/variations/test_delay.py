"""Controls that come late or pass a filter, by the robot's file and by the variation `delay`."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from metarl.core.errors import ConfigError
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.failures import Actuator
from metarl.envs.locomotion.goals.hidden import Forward, RewardTerms
from metarl.envs.locomotion.mechanics import Delay
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.registry import make
from metarl.envs.robots.guessing.guess import robot_from_mjcf
from metarl.envs.robots.included.quadruped import QUADRUPED

HOME, SCALE, DT = np.array(QUADRUPED.action_centre), QUADRUPED.action_scale, 0.02


def build(*variations, tasks=((), ()), terms=None, **changes):
    recipe = Recipe(replace(QUADRUPED, **changes), Forward(), terms or RewardTerms(), variations)
    env = MujocoBatchEnv("test", recipe, 1)
    env.set_tasks(np.array(tasks, dtype=float), 1)
    env.reset([np.random.default_rng(row) for row in range(len(tasks))])
    return env


def actions(steps, rows=2, seed=0):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (steps, rows, 12))


def controls(env, commands, alive=None):
    """Returns the controls (T, M, A) that arrive, in units of the policy's output."""
    found = []
    for step, command in enumerate(commands):
        env.step(command, np.ones(len(command), dtype=bool) if alive is None else alive[step])
        found.append((env._ctrl - HOME) / SCALE)
    return np.array(found)


def slow(commands, late, tau):
    """Returns them from the definition: a delay, then y' = (u - y) / tau in 1,000 small steps."""
    found, output = [], np.zeros(12)
    for step in range(len(commands)):
        target = commands[step - late] if step >= late else np.zeros(12)
        for _ in range(1000 if tau else 0):
            output = output + DT / 1000 / tau * (target - output)
        found.append(output if tau else target)
    return np.array(found)


@pytest.mark.parametrize(("delay", "lowpass"), [(0, 0.05), (3, 0.0), (2, 0.01), (1, 0.2)])
def test_controls_come_late_and_filtered(delay, lowpass):
    commands = actions(12)
    with closing(build(delay=delay, lowpass=lowpass)) as env:
        found = controls(env, commands)
    for row in range(2):
        expected = slow(commands[:, row], delay, lowpass)
        np.testing.assert_allclose(found[:, row], expected, atol=2e-3 if lowpass else 1e-12)


def test_robot_without_delay_and_filter_keeps_nothing():
    with closing(build()) as env:
        assert len(env._world.past_ctrl) == 0 and env._world._low_pass is None
        np.testing.assert_allclose(controls(env, actions(3)), actions(3), atol=1e-12)
        assert "controls" not in env.spec.note


def test_delay_and_filter_start_anew_in_single_rows():
    commands = actions(8)
    with closing(build(delay=2, lowpass=0.04)) as env:
        first = controls(env, commands)
        env.reset_rows(np.array([False, True]), [np.random.default_rng(1)])
        mixed = controls(env, commands)
        env.reset([np.random.default_rng(row) for row in range(2)])
        again = controls(env, commands)
    with closing(build(delay=2, lowpass=0.04)) as env:
        longer = controls(env, np.concatenate([commands, commands]))[8:]
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(mixed[:, 1], first[:, 1])
    np.testing.assert_array_equal(mixed[:, 0], longer[:, 0])


def test_rows_that_are_not_stepped_keep_their_controls():
    commands = actions(6)
    with closing(build(delay=1, lowpass=0.04)) as env:
        expected = controls(env, commands)[:, 1]
    alive = np.ones((9, 2), dtype=bool)
    alive[[1, 4, 5], 1] = False
    spread = actions(9, seed=7)
    spread[alive[:, 1], 1] = commands[:, 1]
    with closing(build(delay=1, lowpass=0.04)) as env:
        found = controls(env, spread, alive)
    np.testing.assert_array_equal(found[alive[:, 1], 1], expected)


def test_control_cost_uses_the_sent_action_of_a_slow_robot():
    rewards = []
    for cost in (0.0, 1.0):
        terms = RewardTerms(control_cost=cost)
        with closing(build(delay=2, lowpass=0.1, terms=terms)) as env:
            rewards.append(env.step(actions(1)[0], np.ones(2, dtype=bool)).reward)
    np.testing.assert_allclose(rewards[0] - rewards[1], np.square(actions(1)[0]).sum(axis=1))


def test_delay_varies_with_the_task():
    tasks = [[delay] for delay in range(5)]
    commands = actions(8, rows=5)
    with closing(build(Delay(), tasks=tasks)) as env:
        found = controls(env, commands)
    for late in range(5):
        expected = slow(commands[:, late], late, 0.0)
        np.testing.assert_allclose(found[:, late], expected, atol=1e-12)


def test_delays_of_robot_and_variations_add_up():
    task = [*np.ones(12), 3.0, 4.0]
    with closing(build(Actuator(), Delay(), tasks=[task, task], delay=2)) as env:
        found = controls(env, actions(14))
    np.testing.assert_allclose(found[9:], actions(14)[:5], atol=1e-12)
    assert not found[:9].any()


def test_delay_of_four_steps_is_held_out():
    tasks = make("quadruped-dir-delay", 1).spec.tasks
    rng = np.random.default_rng(0)
    assert set(tasks.sample(rng, 200)[:, -1]) == {0.0, 1.0, 2.0, 3.0}
    assert set(tasks.test.sample(rng, 20)[:, -1]) == {4.0}


# --- the file -------------------------------------------------------------------------------------


def test_file_sets_delay_and_filter():
    robot = robot_from_mjcf(QUADRUPED.model_file, "slow", delay=2, lowpass=0.03)
    assert (robot.delay, robot.lowpass) == (2, 0.03)
    with closing(MujocoBatchEnv("test", Recipe(robot, Forward(), RewardTerms()), 1)) as env:
        note = "controls come late by 2 control steps and pass a filter of the first order with"
        assert env.spec.note == f"{note} 0.03 s; test tasks are the training tasks"


def test_keys_that_a_file_leaves_out_change_no_version():
    old = robot_from_mjcf(QUADRUPED.model_file, "old")
    assert robot_from_mjcf(QUADRUPED.model_file, "old", delay=0, lowpass=0.0) == old
    assert robot_from_mjcf(QUADRUPED.model_file, "old", delay=1).definition != old.definition


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delay": -1}, "delay = -1: must be a number from 0 to 50"),
        ({"delay": 1.5}, "delay = 1.5: must be a whole number"),
        ({"lowpass": -0.1}, "lowpass = -0.1: must be a number from 0 to 10"),
        ({"lowpass": "slow"}, "lowpass = 'slow': must be a number"),
        ({"lowpas": 0.1}, "unknown key lowpas; did you mean lowpass?"),
    ],
)
def test_wrong_delay_or_filter_is_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        robot_from_mjcf(QUADRUPED.model_file, **changes)
    assert message in str(error.value) and "\n" not in str(error.value)
