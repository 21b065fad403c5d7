"""The action space of an adapted plug-in."""

from contextlib import closing

import action_envs
import numpy as np
import pytest

from metarl.envs.plugins.subproc_env import SubprocEnv
from metarl.envs.wrappers.gymnasium import GymEnv


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
