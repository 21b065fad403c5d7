"""Pushes come at random times and change the velocity of the base alone."""

from contextlib import closing

import numpy as np
import pytest
from mujoco_runs import streams

from metarl.envs.locomotion.variations import VARIATIONS
from metarl.envs.registry import make

PUSH = VARIATIONS["push"]


def push_env(task, rows=2, name="quadruped-vel-push", threads=1):
    """Returns an environment whose rows have started episodes of a task of `push`."""
    env = make(name, threads)
    goals = len(env.spec.tasks.variables) - len(task)
    env.set_tasks(np.tile([0.5] * goals + task, (rows, 1)), 1)
    env.reset(streams(rows))
    return env


def record(env, steps):
    """Returns the changes (steps, M, nv) of the velocities before the steps."""
    world, pushed = env._world, []
    for _ in range(steps):
        before = world.qvel.copy()
        world.drive()
        pushed.append(world.qvel - before)
    return np.array(pushed)


def times_of(pushed, row):
    return np.flatnonzero(pushed[:, row].any(axis=1))


@pytest.mark.parametrize(
    ("robot", "task", "change"),
    [
        ("quadruped", [0.5, 4.0, np.pi / 2], [0.0, 0.5]),
        ("half-cheetah", [-0.5, 4.0], [-0.5]),
    ],
)
def test_push_changes_the_base_velocity_alone(robot, task, change):
    with closing(push_env(task, name=f"{robot}-vel-push")) as env:
        pushed = record(env, 60)
    for row in range(2):
        times = times_of(pushed, row)
        assert len(set(np.diff(times))) > 1 and set(np.diff(times, prepend=-1)) <= {2, 3, 4, 5, 6}
        own = pushed[times, row]
        np.testing.assert_allclose(own[:, : len(change)], [change] * len(times), atol=1e-12)
        assert not own[:, len(change) :].any()


def test_gaps_of_pushes_have_the_mean_interval():
    tasks = np.array([[1.0, mean, 0.0] for mean in (1.0, 25.0, 50.0) for _ in range(50)])
    events = PUSH.draw(tasks, streams(150), 5000)
    for number, mean in enumerate((1, 25, 50)):
        own = events[50 * number : 50 * (number + 1)]
        gaps = np.concatenate([np.diff(np.flatnonzero(row)) for row in own])
        assert {gaps.min(), gaps.max()} == {mean - mean // 2, mean + mean // 2}
        assert gaps.mean() == pytest.approx(mean, rel=0.01)
        assert len(np.unique(gaps)) == 1 + 2 * (mean // 2)


def test_times_of_pushes_depend_on_the_stream_of_the_episode():
    task = [1.0, 25.0, 0.0]
    with closing(push_env(task, 3)) as env, closing(push_env(task, 3, threads=2)) as other:
        first, again = record(env, 200), record(other, 200)
        np.testing.assert_array_equal(first, again)
        times = [tuple(times_of(first, row)) for row in range(3)]
        assert len(set(times)) == 3
        env.reset_rows(np.array([False, True, False]), [np.random.default_rng(0)])
        assert tuple(times_of(record(env, 200), 1)) == times[0]
        env.reset(streams(3))
        np.testing.assert_array_equal(record(env, 200) != 0.0, first != 0.0)


def test_restart_of_a_row_keeps_the_pushes_of_the_others():
    with closing(push_env([1.0, 25.0, 0.0], 3)) as env:
        before = env._world.events["push"].copy()
        tasks = np.array([[0.5, 1.0, 2.0, 0.0]])
        env.reset_rows(np.array([False, True, False]), [np.random.default_rng(5)], tasks)
        after = env._world.events["push"]
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert after[1].sum() > 2 * before[1].sum()


def test_pushes_leave_the_other_draws_of_the_episode():
    with closing(make("quadruped-command", 1)) as plain:
        plain.set_tasks(np.zeros((2, 0)), 1)
        expected = plain.reset(streams(2)).copy()
        schedule = plain._commands._schedule
    with closing(push_env([1.0, 25.0, 0.0], name="quadruped-command-push")) as env:
        np.testing.assert_array_equal(env.reset(streams(2)), expected)
        np.testing.assert_array_equal(env._commands._schedule, schedule)


def test_no_push_comes_after_the_horizon():
    with closing(push_env([1.0, 1.0, 0.0])) as env:
        pushed = record(env, 205)
    assert pushed[:200].any(axis=2).all() and not pushed[200:].any()


def test_rare_pushes_may_be_beyond_all_numbers():
    tasks = np.array([[1.0, 1e300, 0.0], [1.0, 400.0, 0.0]])
    assert not PUSH.draw(tasks, streams(2), 200)[0].any()


def test_push_leaves_rows_that_rest():
    with closing(push_env([0.5, 2.0, 0.0])) as env:
        before = env._qvel[1].copy()
        for _ in range(4):
            env.step(np.zeros((2, 12)), np.array([True, False]))
        np.testing.assert_array_equal(env._qvel[1], before)
