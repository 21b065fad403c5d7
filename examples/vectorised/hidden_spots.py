"""A BatchEnv of one's own: all carts of examples/hidden_spot in one array, without processes.

PYTHONPATH=examples/vectorised python train.py --env hidden_spots:make
"""

import numpy as np

from metarl.core.env import EnvSpec, NoPictures, Step, check_streams, check_tasks
from metarl.core.tasks import Uniform, Variable


class HiddenSpots:
    """M carts on a line; the reward is -|x - spot|, the observation x [m]."""

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
        """Row task * E + episode belongs to (task, episode)."""
        self._spots = np.repeat(check_tasks(self.spec, tasks), num_episodes, axis=0)

    def reset(self, rngs):
        """All randomness of a row comes from its own stream."""
        check_streams(self.spec, None if self._spots is None else len(self._spots), rngs)
        self._x = np.array([rng.uniform(-0.1, 0.1, 1) for rng in rngs])
        return self._x

    def step(self, action, alive):
        """Rows that are not alive stay where they are."""
        fault = alive & ~np.isfinite(action).all(axis=1)
        moved = (alive & ~fault)[:, None]
        move = 0.1 * np.clip(action.astype(float), -1.0, 1.0)
        self._x = np.where(moved, self._x + move, self._x)
        reward = np.where(moved, -np.abs(self._x - self._spots), 0.0)[:, 0]
        return Step(self._x, reward, np.zeros(len(reward), dtype=bool), fault)

    def snapshot(self):
        """What a picture needs: here nothing is drawn."""
        raise NoPictures(f"{self.spec.name} draws no pictures")

    def render(self, states, task, *, width, height):
        """Would yield one picture (height, width, 3) a snapshot."""
        raise NoPictures(f"{self.spec.name} draws no pictures")

    def close(self):
        """Nothing to give back."""


def make(name, threads):
    """What --env names: called with the name and the number of threads."""
    return HiddenSpots(name)
