"""A robot of one number, a learner of one gain, and their rollouts."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import torch

from metarl.core.env import Step
from metarl.core.rollout import Action, Rollout
from metarl.sampling.sampler import Key, rollout

HORIZON = 12
FIELDS = [f.name for f in dataclasses.fields(Rollout)]


class Robot:
    """A drifting point that falls beyond a limit and fails at a chosen step."""

    def __init__(self, limit, fails_at):
        self.limit, self.fails_at = limit, fails_at

    def reset(self, rng):
        self.place, self.steps = 0.1 * rng.standard_normal(2), 0
        return self.place

    def step(self, action):
        action = action.astype(float)
        self.place = 0.9 * self.place + [action[0] - action[1] + 0.3, action[2]]
        self.steps += 1
        fault = self.steps - 1 == self.fails_at
        if fault:
            self.place = np.full(2, np.nan)
        return self.place, float(-np.abs(self.place).sum()), self.place[0] > self.limit, fault


class RobotBatch:
    """Robots in a batch; values that the contract leaves open are garbage."""

    def __init__(self):
        self.spec = SimpleNamespace(obs_size=2, action_size=3, horizon=HORIZON)
        self.stepped = []

    def set_tasks(self, tasks, num_episodes):
        rows = np.repeat(tasks, num_episodes, axis=0)
        self.robots = [Robot(limit, fails_at) for limit, fails_at in rows]

    def reset(self, rngs):
        self.obs = np.stack([r.reset(rng) for r, rng in zip(self.robots, rngs, strict=True)])
        return self.obs

    def step(self, action, alive):
        self.stepped.append(alive.copy())
        rows = len(self.robots)
        reward, terminated, fault = np.full(rows, np.nan), np.ones(rows, bool), np.ones(rows, bool)
        for m in np.flatnonzero(alive):
            self.obs[m], reward[m], terminated[m], fault[m] = self.robots[m].step(action[m])
            if fault[m]:
                reward[m], terminated[m] = np.nan, True
        return Step(self.obs, reward, terminated, fault)

    def snapshot(self):
        return self.obs.copy()

    def close(self):
        pass


class Gain:
    """Multiplies the sum of the observation by a gain per task, element by element."""

    def begin(self, num_tasks, num_episodes, rngs=()):
        return torch.linspace(-0.3, 0.3, num_tasks)

    def act(self, context, obs, noise, feedback=None, *, explore):
        mean = context[:, None, None] * (obs[..., :1] + obs[..., 1:])
        value = mean + 0.5 * noise if explore else mean.expand_as(noise)
        return Action(value, noise[..., 0] * 2.0), context


TASKS = np.array([[0.8, -1.0], [9.0, 7.0], [9.0, -1.0], [1.4, 0.0], [0.5, 3.0]])
"""Limit and failing step (-1: none): falls, fails, reaches the horizon, fails at once, both."""


KEY = Key(3, "train", 2)


def collect(num_episodes=4, tasks=TASKS, k=1, env=None, **options):
    env, learner = env or RobotBatch(), Gain()
    env.set_tasks(tasks, num_episodes)
    size = (len(tasks), num_episodes)
    collected, _ = rollout(env, learner, learner.begin(*size, ()), KEY, k, size, **options)
    return collected, env


def assert_same(one, other):
    for name in FIELDS:
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name
