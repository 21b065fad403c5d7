"""Values of plug-ins: those of a wrong kind are named."""

import numpy as np
import plugin_envs
import pytest

from metarl.envs.plugins.interface import draw_tasks, read_facts
from metarl.envs.plugins.values import InvalidPlugin, read_array, read_reward


@pytest.fixture
def env():
    return plugin_envs.Spot()


@pytest.mark.parametrize("value", [-1e39, np.float64(1e300), np.array(1e39)])
def test_reward_beyond_float32_is_refused(value):
    assert read_reward(3e38) == 3e38
    with pytest.raises(InvalidPlugin, match=r"the reward is .*; it must be at most 3.4e\+38"):
        read_reward(value)


@pytest.mark.parametrize("kind", [float, np.float16, np.float32, np.uint8, np.int64, bool])
def test_observation_beyond_float32_is_refused(kind):
    np.testing.assert_array_equal(read_array(np.array([0, 1], kind), (2,)), [0, 1])
    message = r"obs\[1\] is -1e\+200; observations must be at most 3.4e\+38"
    with pytest.raises(InvalidPlugin, match=message):
        read_array(np.array([0.0, -1e200]), (2,))


@pytest.mark.parametrize("found", [None, 5])
def test_tasks_that_are_no_list_are_refused(env, found):
    env.sample_tasks = env.sample_test_tasks = lambda rng, size: found
    for draw, method in ((0, "sample_tasks"), (-1, "sample_test_tasks")):
        message = rf"{method}\(rng, 4\) returned {found}; it must be a list of 4 tasks"
        with pytest.raises(InvalidPlugin, match=message):
            draw_tasks(env, draw, 4)


@pytest.mark.parametrize("rows", [5, "angle", 1.5])
def test_task_variables_that_are_no_list_are_refused(env, rows):
    env.task_variables = rows
    with pytest.raises(InvalidPlugin, match=r"task_variables is .*; it must be a list of \(name,"):
        read_facts(env, type(env))
