"""Rows of a BatchEnv that restart by themselves, on which every adapter builds.

metarl steps a batch in lock-step and leaves a fallen robot where it lies; other libraries expect
the next episode to begin at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metarl.core.env import BatchEnv, EnvSpec, RestartableEnv, supports
from metarl.core.rng import stream
from metarl.core.tasks import TaskDistribution

Streams = Callable[[int, int], np.random.Generator]
"""(episode, row) -> the generator from which this episode of this row draws its task and start."""


def make_streams(seed: int) -> Streams:
    """Makes streams keyed by (seed, episode, row); neighbouring seeds share none."""
    return lambda episode, row: stream(seed, "autoreset", episode, row)


@dataclass(frozen=True)
class FinishedEpisode:
    """An episode that has ended.

    Attributes:
        row: Its row.
        index: Number of earlier episodes in the row since the streams were set.
        total: Return.
        length: Number of valid steps; a step with a fault is not valid.
        terminated: The task ended.
        fault: The simulation failed. If neither is set, the episode reached the horizon.
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
        obs: (M, S) for the next action; after an end, the first one of the next episode.
        reward: (M,).
        terminated: (M,).
        truncated: (M,) by the horizon or a fault.
        fault: (M,).
        final_obs: (M, S) after the step, before any row restarted.
        finished: The episodes that ended.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    fault: np.ndarray
    final_obs: np.ndarray
    finished: tuple[FinishedEpisode, ...]


class Rows(Protocol):
    """M rows that restart by themselves: the interface that the adapters need."""

    num_rows: int
    obs_size: int
    spec: EnvSpec

    def restart(self, streams: Streams, tasks: np.ndarray | TaskDistribution | None = None) -> None:
        """Sets the streams, and the tasks if given, from the next reset on."""

    def reset(self) -> np.ndarray:
        """Starts an episode in every row; returns obs (M, S)."""

    def step(self, action: np.ndarray) -> Transition:
        """Steps every row with action (M, A) [policy output]."""


class Episodes:
    """M rows of a BatchEnv; the step that ends an episode of a row also starts the next one.

    Attributes:
        index: (M,) index of each row's current episode.
        tasks: (M, D) task of each row's current episode.

    Args:
        env: The environment; it must support `RestartableEnv`.
        tasks: One task (D,) for all rows, one for each row (M, D), or a distribution.
        num_rows: M.
        streams: Source of the task and the start of each episode.
        episodes_per_task: Episodes of a row between two draws of a task.

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
                f"{env.spec.name} cannot start an episode in one row while others go on; "
                "give it reset_rows, see RestartableEnv in metarl/core/env.py"
            )
        self.env: RestartableEnv = env
        self.spec, self.obs_size, self.num_rows = env.spec, env.spec.obs_size, num_rows
        self.episodes_per_task = episodes_per_task
        self.restart(streams, tasks)

    def restart(self, streams: Streams, tasks: np.ndarray | TaskDistribution | None = None) -> None:
        """Sets the streams, and the tasks if given, and counts episodes from 0; call reset next."""
        self._streams = streams
        self._tasks = self._tasks if tasks is None else tasks
        self.index = np.full(self.num_rows, -1)

    def reset(self) -> np.ndarray:
        """Starts an episode with a new task in every row; returns obs (M, S)."""
        next_index = int(self.index.max()) + 1
        # rounded up: a row draws its task at multiples of episodes_per_task
        self.index[:] = -(-next_index // self.episodes_per_task) * self.episodes_per_task
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
            ValueError: An observation or reward is not finite although the environment reported no
                fault; names the row.
        """
        step = self.env.step(action, np.ones(self.num_rows, dtype=bool))
        fault = step.fault.copy()
        reward = np.where(fault, 0.0, step.reward.astype(np.float64))
        final = np.where(fault[:, None], self._obs, step.obs.astype(np.float32))
        self._check_finite(final, reward)
        terminated = step.terminated & ~fault
        self._length += ~fault
        self._total += reward
        truncated = fault | (~terminated & (self._length >= self.spec.horizon))
        ended = terminated | truncated
        finished = tuple(
            FinishedEpisode(
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
        """Starts the next episode in the rows of a mask (M,); returns obs (M, S)."""
        self.index[rows] += 1
        self._total[rows], self._length[rows] = 0.0, 0
        ids = np.flatnonzero(rows)
        rngs = [self._streams(int(self.index[row]), int(row)) for row in ids]
        for row, rng in zip(ids, rngs, strict=True):
            if self.index[row] % self.episodes_per_task == 0:
                self.tasks[row] = self._draw(row, rng)
        return self.env.reset_rows(rows, rngs, self.tasks[rows]).astype(np.float32)

    def _check_finite(self, obs: np.ndarray, reward: np.ndarray) -> None:
        finite = np.isfinite(obs).all(axis=1) & np.isfinite(reward)
        if not finite.all():
            row = int(np.argmin(finite))
            raise ValueError(
                f"{self.spec.name}, row {row}, step {self._length[row]}: obs or reward is not "
                "finite, and the environment reported no fault"
            )
