"""Plug-ins with actions of several bounds, which observe the action that they receive."""

import numpy as np
from plugin_envs import Box, Sends


class Newtons(Sends):
    """Two forces and a throttle; no action_scale."""

    observation_space = Box(-np.inf, np.inf, (3,))
    action_space = Box(np.float32([-200.0, -1.0, 0.0]), np.float32([200.0, 1.0, 0.5]))
    action_scale = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape), {}


class Bounded(Newtons):
    action_space = Box(-1.0, 1.0, (3,))


class Fixed(Newtons):
    action_space = Box(np.float32([-3.0, 0.25, 1.0]), np.float32([1.0, 0.25, 2.0]))


class OneSided(Newtons):
    action_space = Box(np.float32([0.0, -200.0, -1.0]), np.float32([np.inf, 200.0, 1.0]))


class HugeBox(Newtons):
    action_space = Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (3,))


class NewtonsScaled(Newtons):
    action_scale = 2.0


class Whole(Newtons):
    action_space = Box(np.array([0, -1, 2]), np.array([3, 1, 9]), dtype=np.int64)
