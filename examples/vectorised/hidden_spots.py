"""A BatchEnv: all carts of examples/hidden_spot in one array, without processes.

PYTHONPATH=examples/vectorised python train.py --env hidden_spots:make
"""

import numpy as np

from metarl.core.env import EnvSpec, NoPictures, Step, check_streams, check_tasks
from metarl.core.tasks import Uniform, Variable


class HiddenSpots:
    """M carts on a line; the reward is -|x - spot|, the observation is x [m]."""

    def __init__(self, name):
        self.spec = EnvSpec(
            name=name,
            version=1,
            obs_size=1,
            action_size=1,
            horizon=50,
            dt=0.1,
            action_scale=1.0,
            tasks=Uniform((Variable("spot", "m", -1.0, 1.0),)),
            reward="-|x - spot|",
            floors={"stand still": -25.0},
        )
        self._spots = None

    def set_tasks(self, tasks, num_episodes):
        """Sets tasks (N, D); row task * E + episode is element (task, episode)."""
        self._spots = np.repeat(check_tasks(self.spec, tasks), num_episodes, axis=0)

    def reset(self, rngs):
        """Starts M episodes; all randomness of row m comes from rngs[m]."""
        check_streams(self.spec, None if self._spots is None else len(self._spots), rngs)
        self._x = np.array([rng.uniform(-0.1, 0.1, 1) for rng in rngs])
        return self._x

    def step(self, action, alive):
        """Steps the rows of the mask alive (M,); the other rows keep their state."""
        fault = alive & ~np.isfinite(action).all(axis=1)
        stepped = (alive & ~fault)[:, None]
        move = 0.1 * np.clip(action.astype(float), -1.0, 1.0)
        self._x = np.where(stepped, self._x + move, self._x)
        reward = np.where(stepped, -np.abs(self._x - self._spots), 0.0)[:, 0]
        return Step(self._x, reward, np.zeros(len(reward), dtype=bool), fault)

    def snapshot(self):
        """Would return the states that `render` draws; this example has no pictures."""
        raise NoPictures(f"{self.spec.name} draws no pictures")

    def render(self, states, task, *, width, height):
        """Would yield one picture (height, width, 3) for each snapshot."""
        raise NoPictures(f"{self.spec.name} draws no pictures")

    def close(self):
        """Has no threads and no memory to release."""


def make(name, threads):
    """Makes the environment that `--env hidden_spots:make` names."""
    return HiddenSpots(name)
