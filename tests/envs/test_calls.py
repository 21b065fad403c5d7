"""Calls of an environment in the wrong order, and with arguments of the wrong shape."""

from contextlib import closing

import numpy as np
import plugin_envs
import pytest

from metarl.envs import make
from metarl.envs.calls import Calls
from metarl.envs.plugins.subproc_env import SubprocEnv
from metarl.envs.wrappers.mirrored import Mirrored

MAKERS = {
    "navigation-2d": lambda: make("navigation-2d"),
    "half-cheetah-vel": lambda: make("half-cheetah-vel", 1),
    "mirrored quadruped": lambda: Mirrored(make("quadruped-vel", 1)),
    "spots": lambda: SubprocEnv("spots", plugin_envs.Spot, 1),
}


@pytest.fixture(params=MAKERS)
def env(request):
    with closing(MAKERS[request.param]()) as made:
        yield made


def start(env, num_tasks=2, num_episodes=2):
    """Starts the episodes of tasks; returns an action (M, A) and the mask of all rows (M,)."""
    rng = np.random.default_rng(0)
    env.set_tasks(env.spec.tasks.sample(rng, num_tasks), num_episodes)
    rows = num_tasks * num_episodes
    env.reset([np.random.default_rng(i) for i in range(rows)])
    return np.zeros((rows, env.spec.action_size)), np.ones(rows, dtype=bool)


def test_action_of_another_shape_is_refused(env):
    action, alive = start(env)
    for wrong in (action[0], action[:1], action[:, :0], action[:3], 0.0, action.astype(complex)):
        with pytest.raises(ValueError, match=r"action must be numbers \(4, \d+\), got .*\("):
            env.step(wrong, alive)
    for wrong in (alive[:3], True, np.ones(4)):
        with pytest.raises(ValueError, match=r"alive must be booleans \(4,\), got .*\("):
            env.step(action, wrong)
    env.step(action, alive)


def test_step_needs_a_reset_since_the_tasks(env):
    with pytest.raises(RuntimeError, match="call reset before step"):
        env.step(np.zeros((4, env.spec.action_size)), np.ones(4, dtype=bool))
    action, alive = start(env)
    env.set_tasks(env.spec.tasks.sample(np.random.default_rng(0), 2), 2)
    with pytest.raises(RuntimeError, match="call reset before step"):
        env.step(action, alive)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", None])
def test_num_episodes_is_a_whole_number(env, count):
    tasks = env.spec.tasks.sample(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match="num_episodes must be a whole number >= 1, got"):
        env.set_tasks(tasks, count)
    with pytest.raises(ValueError, match=r"tasks must be at least one, got \(0, "):
        env.set_tasks(tasks[:0], 1)
    env.set_tasks(tasks, np.int64(2))


def test_closed_environment_needs_tasks_again(env):
    action, alive = start(env)
    env.close()
    env.close()  # a second one does nothing
    tasks, rngs = env.spec.tasks.sample(np.random.default_rng(0), 2), [np.random.default_rng(0)] * 4
    calls = {
        "call set_tasks before reset": lambda: env.reset(rngs),
        "call set_tasks before": lambda: env.reset_rows(alive, rngs),
        "call reset before step": lambda: env.step(action, alive),
    }
    for message, call in calls.items():
        with pytest.raises(RuntimeError, match=message):
            call()
    env.set_tasks(tasks, 2)  # it can be used again
    env.reset(rngs)
    env.step(action, alive)


def test_rows_of_the_mask_are_counted():
    with closing(make("navigation-2d")) as env:
        calls, rngs = Calls(env.spec), [np.random.default_rng(row) for row in range(3)]
    rows = np.array([True, False, True, True])
    with pytest.raises(RuntimeError, match="navigation-2d: call set_tasks before reset"):
        calls.reset_rows(rows, rngs, None)
    calls.set_tasks(np.zeros((4, 2)), 1)
    calls.reset(rngs + rngs[:1])
    assert calls.reset_rows(rows, rngs, None) is None
    tasks = calls.reset_rows(rows, rngs, np.full((3, 2), 0.5, dtype=np.float32))
    assert tasks.dtype == np.float64 and tasks.shape == (3, 2)
    with pytest.raises(ValueError, match="3 rows need as many streams, got 2"):
        calls.reset_rows(rows, rngs[:2], None)
    with pytest.raises(ValueError, match="3 rows need as many tasks, got 4"):
        calls.reset_rows(rows, rngs, np.full((4, 2), 0.5))
