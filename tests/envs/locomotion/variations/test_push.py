"""Pushes come at their interval and change the velocity of the base alone."""

from contextlib import closing

import numpy as np
import pytest

from metarl.envs.registry import make


@pytest.mark.parametrize(
    ("robot", "task", "change"),
    [
        ("quadruped", [0.5, 4.0, np.pi / 2], [0.0, 0.5]),
        ("half-cheetah", [-0.5, 4.0], [-0.5]),
    ],
)
def test_push_changes_the_base_velocity_at_its_interval(robot, task, change):
    with closing(make(f"{robot}-vel-push", 1)) as env:
        goals = len(env.spec.tasks.variables) - len(task)
        env.set_tasks(np.tile([0.5] * goals + task, (2, 1)), 1)
        env.reset([np.random.default_rng(row) for row in range(2)])
        world, pushed = env._world, []
        for _ in range(8):
            before = world.qvel.copy()
            world.drive()
            pushed.append(world.qvel - before)
    pushed = np.array(pushed)
    assert np.flatnonzero(pushed[:, 0].any(axis=1)).tolist() == [3, 7]
    np.testing.assert_allclose(pushed[3, :, : len(change)], [change] * 2, atol=1e-12)
    assert not pushed[3, :, len(change) :].any()


def test_push_leaves_rows_that_rest():
    with closing(make("quadruped-vel-push", 1)) as env:
        env.set_tasks(np.tile([0.5, 0.5, 2.0, 0.0], (2, 1)), 1)
        env.reset([np.random.default_rng(row) for row in range(2)])
        before = env._qvel[1].copy()
        for _ in range(4):
            env.step(np.zeros((2, 12)), np.array([True, False]))
        np.testing.assert_array_equal(env._qvel[1], before)
