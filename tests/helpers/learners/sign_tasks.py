"""Tasks that differ in a sign, which shows in the rewards alone."""

from types import SimpleNamespace

import numpy as np
from whole_trial import trial

from metarl.core.rng import stream
from metarl.sampling.sampler import Key


class SignBatch:
    """The task is a sign that shows in rewards only: reward = sign * clip(action, -1, 1).

    If eventful, rows end at random, and the simulations of the last task fail in the second step.
    """

    def __init__(self, horizon=4, *, eventful=False):
        self.spec = SimpleNamespace(obs_size=2, action_size=1, horizon=horizon, name="sign")
        self.eventful = eventful

    def set_tasks(self, tasks, num_episodes):
        self.sign = np.repeat(tasks[:, 0], num_episodes)
        self.is_fragile = np.arange(len(self.sign)) >= len(self.sign) - num_episodes

    def reset(self, rngs):
        self.ends = np.array([rng.integers(1, 2 * self.spec.horizon) for rng in rngs])
        self.steps = np.zeros(len(rngs), dtype=int)
        self.noise = np.array([rng.standard_normal((self.spec.horizon + 1, 2)) for rng in rngs])
        return self.noise[:, 0]

    def step(self, action, alive):
        self.steps += alive
        reward = self.sign * np.clip(action[:, 0], -1.0, 1.0)
        return SimpleNamespace(
            obs=self.noise[np.arange(len(alive)), self.steps],
            reward=reward,
            terminated=alive & self.eventful & (self.steps >= self.ends),
            fault=alive & self.eventful & self.is_fragile & (self.steps == 2),
        )


def signs(num_tasks, iteration=0):
    return stream(0, "signs", iteration).choice([-1.0, 1.0], (num_tasks, 1))


def collect(learner, env, iteration=0, num_tasks=6, num_adaptations=1, num_episodes=2):
    tasks = signs(num_tasks, iteration)
    key = Key(0, "train", iteration)
    return trial(env, learner, tasks, num_episodes, num_adaptations, key)


class ChoiceBatch(SignBatch):
    """The same with two alternatives for the signs -1 and 1."""

    def __init__(self, horizon=4, *, eventful=False):
        super().__init__(horizon, eventful=eventful)
        self.spec.action_size = 2

    def step(self, action, alive):
        assert (action[alive].sum(axis=1) == 1).all() and np.isin(action, (0, 1)).all()
        return super().step(action[:, 1:] - action[:, :1], alive)
