"""Rows of a BatchEnv that begin anew by themselves: the machine under every adapter.

`metarl` steps a batch in lock-step and lets a fallen robot lie; other libraries want the next episode at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metarl.core.env import BatchEnv, EnvSpec, RestartableEnv, supports
from metarl.core.tasks import TaskDistribution

Streams = Callable[[int, int], np.random.Generator]
"""(episode, row) -> the generator that this episode of this row draws its task and its start from."""


def streams(seed: int) -> Streams:
    """Streams keyed by hashing (seed, episode, row): seeds next to each other share none."""

    def stream(episode: int, row: int) -> np.random.Generator:
        text = f"{seed}\x00{episode}\x00{row}"
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))

    return stream


@dataclass(frozen=True)
class Finished:
    """An episode that has ended.

    Attributes:
        row: Where.
        index: How many episodes the row has begun before, since the streams were set.
        total: Return.
        length: Steps that count; one that broke down does not.
        terminated: The task ended.
        fault: The simulation broke down. Neither: the horizon was reached.
    """

    row: int
    index: int
    total: float
    length: int
    terminated: bool
    fault: bool


@dataclass(frozen=True)
class Transition:
    """One step of M rows; its arrays belong to the caller.

    Attributes:
        obs: (M, S) to act on next; where an episode has ended, the first one of the next episode.
        reward: (M,).
        terminated: (M,).
        truncated: (M,) by the horizon or a fault.
        fault: (M,).
        final_obs: (M, S) after the step, before anything began anew.
        finished: The episodes that ended.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    fault: np.ndarray
    final_obs: np.ndarray
    finished: tuple[Finished, ...]


class Rows(Protocol):
    """What the adapters need: M rows that begin anew by themselves."""

    num_rows: int
    obs_size: int
    spec: EnvSpec

    def restart(self, streams: Streams, tasks: np.ndarray | TaskDistribution | None = None) -> None:
        """Sets streams, and tasks if given, for the next reset."""

    def reset(self) -> np.ndarray:
        """Begins in every row; returns obs (M, S)."""

    def step(self, action: np.ndarray) -> Transition:
        """Steps every row with action (M, A) [policy output]."""


class Episodes:
    """M rows of a BatchEnv, each of which begins the next episode in the step in which one ends.

    Args:
        env: The environment; it must be able to begin episodes in single rows (`reset_rows`).
        tasks: One task (D,) for all rows, one for each row (M, D), or a distribution to draw from.
        num_rows: M.
        streams: Where episodes draw their task and their start from.
        episodes_per_task: Episodes of a row before it draws another task.

    Raises:
        ValueError: The environment has no reset_rows.
    """

    def __init__(
        self,
        env: BatchEnv,
        tasks: np.ndarray | TaskDistribution,
        num_rows: int,
        streams: Streams,
        *,
        episodes_per_task: int = 1,
    ):
        if not supports(env, RestartableEnv):
            raise ValueError(
                f"{env.spec.name} cannot begin an episode in one row while others go on; "
                "give it reset_rows, see RestartableEnv in metarl/core/env.py"
            )
        self.env: RestartableEnv = env
        self.spec, self.obs_size, self.num_rows = env.spec, env.spec.obs_size, num_rows
        self.episodes_per_task = episodes_per_task
        self.restart(streams, tasks)

    def restart(self, streams: Streams, tasks: np.ndarray | TaskDistribution | None = None) -> None:
        """Sets streams, and tasks if given, and counts episodes from 0 again; to be followed by reset."""
        self._streams = streams
        self._tasks = self._tasks if tasks is None else tasks
        self.index = np.full(self.num_rows, -1)

    def reset(self) -> np.ndarray:
        """Begins an episode, and a task, in every row; returns obs (M, S)."""
        begun = int(self.index.max()) + 1
        # on to the next multiple: a row draws its task where this divides the index
        self.index[:] = -(-begun // self.episodes_per_task) * self.episodes_per_task
        rngs = [self._streams(int(index), row) for row, index in enumerate(self.index)]
        self.tasks = np.array([self._draw(row, rng) for row, rng in enumerate(rngs)])
        self._total, self._length = np.zeros(self.num_rows), np.zeros(self.num_rows, dtype=int)
        self.env.set_tasks(self.tasks, 1)
        self._obs = self.env.reset(rngs).astype(np.float32)
        return self._obs.copy()

    def _draw(self, row: int, rng: np.random.Generator) -> np.ndarray:
        if isinstance(self._tasks, np.ndarray):
            return np.broadcast_to(self._tasks, (self.num_rows, self._tasks.shape[-1]))[row]
        return self._tasks.sample(rng, 1)[0]

    def step(self, action: np.ndarray) -> Transition:
        """Steps every row with action (M, A) [policy output].

        Raises:
            ValueError: The environment gave a number that is not finite and called it no fault; names the row.
        """
        step = self.env.step(action, np.ones(self.num_rows, dtype=bool))
        fault, reward = step.fault.copy(), step.reward.astype(np.float64)
        final = np.where(fault[:, None], self._obs, step.obs.astype(np.float32))
        self._check_finite(final, reward)
        terminated = step.terminated & ~fault
        self._length += ~fault
        self._total += reward
        truncated = fault | (~terminated & (self._length >= self.spec.horizon))
        ended = terminated | truncated
        finished = tuple(
            Finished(
                int(row),
                int(self.index[row]),
                float(self._total[row]),
                int(self._length[row]),
                bool(terminated[row]),
                bool(fault[row]),
            )
            for row in np.flatnonzero(ended)
        )
        self._obs = self._begin(ended) if finished else final
        return Transition(
            self._obs.copy(), reward, terminated, truncated, fault, final.copy(), finished
        )

    def _begin(self, rows: np.ndarray) -> np.ndarray:
        """Begins the next episode in the rows of a mask (M,); returns obs (M, S)."""
        self.index[rows] += 1
        self._total[rows], self._length[rows] = 0.0, 0
        ids = np.flatnonzero(rows)
        rngs = [self._streams(int(self.index[row]), int(row)) for row in ids]
        for row, rng in zip(ids, rngs, strict=True):
            if self.index[row] % self.episodes_per_task == 0:
                self.tasks[row] = self._draw(row, rng)
        return self.env.reset_rows(rows, rngs, self.tasks[rows]).astype(np.float32)

    def _check_finite(self, obs: np.ndarray, reward: np.ndarray) -> None:
        good = np.isfinite(obs).all(axis=1) & np.isfinite(reward)
        if not good.all():
            row = int(np.argmin(good))
            raise ValueError(
                f"{self.spec.name}, row {row}, step {self._length[row]}: obs or reward is not finite "
                "and was called no fault"
            )
