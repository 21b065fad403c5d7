"""Learning histories: the episodes of a trial, one after another, as data sets have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from metarl.core.rollout import Rollout


def list_episodes(
    rollouts: Sequence[Rollout], tasks: np.ndarray, pools_episodes: bool, discrete: bool = False
) -> Iterator[dict[str, Any]]:
    """Yields the episodes of a trial as fields of Minari's `EpisodeBuffer`, trial by trial.

    Args:
        rollouts: The K + 1 rollouts of N tasks x E episodes.
        tasks: (N, D).
        pools_episodes: Each adaptation uses all E episodes of a task, so they are one trial.
            Otherwise each of the E robots has a trial of its own.
        discrete: An action is the index of its largest entry.
    """
    num_episodes = rollouts[0].valid.shape[1]
    places = [(k, e) for k in range(len(rollouts)) for e in range(num_episodes)]
    if pools_episodes:
        trials = [places]
    else:
        trials = [[(k, e) for k, e in places if e == own] for own in range(num_episodes)]
    for task, numbers in enumerate(tasks):
        for own, order in enumerate(trials):
            for episode, (k, e) in enumerate(order):
                indices = {"trial": task * len(trials) + own, "episode": episode, "adaptations": k}
                fields = _read_episode(rollouts[k], task, e, discrete)
                length = len(fields["rewards"]) + 1
                infos = {name: np.full(length, value) for name, value in indices.items()}
                infos["task"] = np.tile(numbers, (length, 1))
                if length > 1:
                    yield fields | {"infos": infos}


def _read_episode(rollout: Rollout, task: int, episode: int, discrete: bool) -> dict[str, Any]:
    """Copies the L valid steps of an episode: observations (L + 1, S), the other fields (L, ...).

    A copy, because the rollout may be played again into the same memory.
    """
    row = (task, episode)
    valid = rollout.valid[row].numpy()
    last = rollout.last_obs[row].numpy()
    action = rollout.action[row].numpy()[valid]
    ends = np.zeros(len(action), dtype=bool)
    ends[-1:] = True
    is_terminated = bool(rollout.terminated[row])
    return {
        "observations": np.concatenate([rollout.obs[row].numpy()[valid], last[None]]),
        "actions": action.argmax(axis=1) if discrete else action,
        "rewards": rollout.reward[row].numpy()[valid],
        "terminations": ends & is_terminated,
        "truncations": ends & (not is_terminated),
    }
