"""The action space of an adapted plug-in."""

from contextlib import closing

import action_envs
import numpy as np
import pytest

from metarl.deployment.signals import to_controls
from metarl.envs.plugins.subproc_env import SubprocEnv
from metarl.envs.registry import make
from metarl.envs.wrappers.gymnasium import GymEnv, action_space


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("Newtons", [-1, -1, -1], [1, 1, 1]),
        ("NewtonsScaled", [-100, -0.5, 0], [100, 0.5, 0.25]),
        ("OneSided", [0, -200, -1], [np.inf, 200, 1]),
    ],
)
def test_ends_of_the_action_space_send_the_ends_of_a_plug_in(kind, low, high):
    inner = getattr(action_envs, kind).action_space
    env = GymEnv(SubprocEnv(kind, getattr(action_envs, kind), 1), np.array([0.5]))
    with closing(env):
        np.testing.assert_array_equal([env.action_space.low, env.action_space.high], [low, high])
        for output, action in ((low, inner.low), (high, inner.high)):
            env.reset(seed=0)
            sent = env.step(np.nan_to_num(np.array(output, dtype=np.float32), posinf=7.0))[0]
            np.testing.assert_array_equal(sent, np.nan_to_num(action, posinf=7.0))


@pytest.mark.parametrize("name", ["ant-dir", "half-cheetah-dir", "humanoid-dir", "quadruped-dir"])
def test_ends_of_the_action_space_send_the_ends_of_the_controls(name):
    with closing(make(name, 1)) as env:
        env.set_tasks(env.spec.tasks.sample(np.random.default_rng(0), 2), 1)
        env.reset([np.random.default_rng(row) for row in range(2)])
        space, ends = action_space(env.spec), env.model.actuator_ctrlrange.T
        env.step(np.stack([space.low, space.high]), np.ones(2, dtype=bool))
        np.testing.assert_allclose(env._ctrl, ends, rtol=1e-6, atol=1e-6)
        beyond = 9.0 * np.array([[-1.0], [1.0]]) * np.ones(env.spec.action_size)
        np.testing.assert_array_equal(to_controls(env.spec, beyond), ends)
