"""Episodes of `plugin_envs.Spot` in worker processes, and the same episodes in a loop."""

from contextlib import closing

import numpy as np
import plugin_envs
import pytest

from metarl.envs.plugins.subproc_env import PluginFailure, SubprocEnv

TASKS = np.array([[-0.9], [0.2], [0.7]])
EPISODES = 2
ROWS = len(TASKS) * EPISODES
STEPS = plugin_envs.Spot.horizon


def streams(first=0):
    return [np.random.default_rng([first, row]) for row in range(ROWS)]


def actions(size=1):
    return np.random.default_rng(7).normal(size=(STEPS, ROWS, size)).astype(np.float32)


def play(env, before=lambda t: None, first=0):
    """Plays an episode in every row: obs (T + 1, M, S), reward (T, M), terminated (T, M)."""
    obs, reward, ended = [env.reset(streams(first)).copy()], [], []
    alive = np.ones(ROWS, dtype=bool)
    for t, action in enumerate(actions()):
        before(t)
        step = env.step(action, alive)
        obs.append(step.obs.copy()), reward.append(step.reward), ended.append(step.terminated)
        alive = alive & ~step.terminated
    return np.array(obs), np.array(reward), np.array(ended)


def play_episode(kind, threads=2, **options):
    with closing(SubprocEnv(kind.__name__, kind, threads, **options)) as env:
        env.set_tasks(TASKS, EPISODES)
        return play(env)


def same(some, others):
    return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))


def message(call):
    with pytest.raises(PluginFailure) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def play_in_a_loop():
    """Plays the same episodes one after another, without workers."""
    obs, reward = np.zeros((STEPS + 1, ROWS, 2)), np.zeros((STEPS, ROWS))
    for row, rng in enumerate(streams()):
        env = plugin_envs.Spot()
        env.set_task({"spot": TASKS[row // EPISODES, 0]})
        obs[0, row], _ = env.reset(seed=int(rng.integers(2**31)))
        for t, action in enumerate(actions()[:, row]):
            obs[t + 1, row], reward[t, row], *_ = env.step(action.clip(-1.0, 1.0))
    return obs, reward, np.zeros((STEPS, ROWS), dtype=bool)


def process_ids(env):
    return [worker._process.pid for worker in env._resources.workers]
