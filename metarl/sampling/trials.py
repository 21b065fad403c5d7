"""Trials: their random streams, the loop over rollouts, and what runs them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.core.env import BatchEnv, HasRewardTerms, supports
from metarl.core.learner import C, Learner, SeesTasks, SplittableContext
from metarl.core.rng import stream
from metarl.core.rollout import Metrics, Rollout


@dataclass(frozen=True)
class Key:
    """Names the streams of a trial.

    Every episode draws from the stream (seed, stream, iteration, k, task, episode).

    Attributes:
        seed: Seed of the run.
        stream: Purpose of the trial: "train", "evaluate", "video".
        iteration: Number of the trial.
        first_task: Number of the first task in its trial, where only some of them are played.
    """

    seed: int
    stream: str
    iteration: int
    first_task: int = 0

    def episodes(self, k: int, num_tasks: int, num_episodes: int) -> list[np.random.Generator]:
        """Returns the generators of rollout k, row by row (N * E)."""
        return [
            stream(self.seed, self.stream, self.iteration, k, self.first_task + task, episode)
            for task in range(num_tasks)
            for episode in range(num_episodes)
        ]

    def tasks(self, purpose: str, k: int, num_tasks: int) -> list[np.random.Generator]:
        """Returns the streams that a learner draws from, one for each task.

        Args:
            purpose: "begin" or "adapt".
            k: Rollouts collected so far in the trial.
            num_tasks: N.
        """
        name, own = f"{self.stream}/{purpose}", range(self.first_task, self.first_task + num_tasks)
        return [stream(self.seed, name, self.iteration, k, task) for task in own]


class TrialCollector(Protocol):
    """Runs the trials of a training, here or on other machines."""

    def trial(
        self,
        learner: Learner[C],
        tasks: np.ndarray,
        num_episodes: int,
        num_adaptations: int,
        key: Key,
        *,
        is_training: bool = False,
    ) -> tuple[list[Rollout], C]:
        """Runs K + 1 rollouts of tasks (N, D); see `run_trial`."""

    def set_level(self, level: float) -> None:
        """Sets the level of difficulty of the episodes from now on, see `GradedEnv`."""

    def take_reward_terms(self) -> dict[str, float]:
        """Returns the mean of each part of the reward over the steps since the last call."""

    def take_counts(self) -> Metrics:
        """Returns numbers about the collection itself since the last call, for the log."""

    def close(self) -> None:
        """Releases what the collection needs; the environment stays open."""


class Player(Protocol):
    """Plays single rollouts of tasks that are set before."""

    def set_tasks(self, tasks: np.ndarray, num_episodes: int, *, whole: bool = False) -> None:
        """Gives tasks (N, D) to the environment, each to num_episodes neighbouring rows."""

    def rollout(
        self, learner: Learner[C], context: C, key: Key, k: int, *, explore: bool = True
    ) -> tuple[Rollout, C]:
        """Runs one episode in each of the N * E rows."""


def run_trial(
    player: Player,
    learner: Learner[C],
    tasks: np.ndarray,
    size: tuple[int, int],
    key: Key,
    *,
    is_training: bool = False,
) -> tuple[list[Rollout], C]:
    """Runs K + 1 rollouts of the same tasks with `adapt` between them.

    Args:
        player: Plays the rollouts.
        learner: The learner; it is not changed.
        tasks: (N, D).
        size: E, K.
        key: The streams.
        is_training: The learner may see the tasks, if it wants to (`SeesTasks`).

    Returns:
        The rollouts and the context after the last one.

    Raises:
        FloatingPointError: The policy chose an action that is not finite.
        EnvironmentContractError: An observation or a reward is not finite, without a fault.
    """
    (num_episodes, num_adaptations), num_tasks = size, len(tasks)
    rngs = key.tasks("begin", 0, num_tasks)
    if is_training and supports(learner, SeesTasks):
        context = learner.begin_training(tasks, num_episodes, rngs)
    else:
        context = learner.begin(num_tasks, num_episodes, rngs)
    player.set_tasks(tasks, num_episodes, whole=not supports(context, SplittableContext))
    rollouts: list[Rollout] = []
    for k in range(num_adaptations + 1):
        if k > 0:
            context = learner.adapt(context, rollouts[-1], key.tasks("adapt", k, num_tasks))
        collected, context = player.rollout(learner, context, key, k)
        rollouts.append(collected)
    return rollouts, context


def cut_tasks(num_tasks: int, count: int) -> list[slice]:
    """Cuts tasks into `count` neighbouring slices, whose sizes differ by one at most."""
    cuts = [num_tasks * i // count for i in range(count + 1)]
    return [slice(*pair) for pair in pairwise(cuts)]


RewardSums = tuple[Mapping[str, np.ndarray | Tensor], int]
"""Sums of the parts of the reward (L,) of L episodes, and their steps; see `HasRewardTerms`."""


def take_reward_sums(envs: Iterable[BatchEnv]) -> list[RewardSums]:
    """Takes the sums of those environments that have them."""
    return [env.take_reward_sums() for env in envs if supports(env, HasRewardTerms)]


def to_tensors(taken: Iterable[RewardSums]) -> list[RewardSums]:
    """Returns sums that the processes of a group can gather."""
    return [({n: torch.as_tensor(v) for n, v in sums.items()}, count) for sums, count in taken]


def average_terms(taken: Iterable[RewardSums]) -> dict[str, float]:
    """Returns the mean of each part over all steps.

    The sums over episodes are exactly rounded, so they do not depend on how tasks were sliced.
    """
    sums: dict[str, list[float]] = {}
    steps = 0
    for own, count in taken:
        steps += count
        for name, values in own.items():
            sums.setdefault(name, []).extend(values.tolist())
    return {name: math.fsum(values) / steps for name, values in sums.items()} if steps else {}
