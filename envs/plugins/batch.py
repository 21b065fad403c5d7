"""Rows of a batch in worker processes: tasks, shards, current episodes, and messages about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from metarl.envs.plugins.recording import Episode, Recording


class Batch:
    """M rows with their tasks, in shards of neighbouring rows, one for each worker.

    Args:
        tasks: (M, D).
        num_episodes: E, rows of a task.
        num_shards: Workers.

    Attributes:
        tasks: (M, D) of the current episodes.
        recording: The current episodes; None before a reset and after one that failed.
        is_task_new: The episodes that begin have new tasks, so that a failure leaves rows whose
            task is not known.
    """

    def __init__(self, tasks: np.ndarray, num_episodes: int, num_shards: int):
        self.tasks, self._num_episodes = tasks, num_episodes
        self._bounds = [len(tasks) * i // num_shards for i in range(num_shards + 1)]
        self.recording: Recording | None = None
        self._beginning, self.is_task_new = np.zeros(len(tasks), dtype=bool), False

    def reset(self, rngs: Sequence[np.random.Generator]) -> None:
        """Begins M episodes with seeds from M streams."""
        self.recording = Recording(_draw_seeds(rngs), self.tasks)
        self._beginning, self.is_task_new = np.ones(len(self.tasks), dtype=bool), False

    def restart(
        self,
        recording: Recording,
        rows: np.ndarray,
        rngs: Sequence[np.random.Generator],
        tasks: np.ndarray | None,
    ) -> None:
        """Begins episodes in the recording, in L rows of a mask (M,), with seeds from L streams.

        With tasks (L, D) these rows get them.
        """
        if tasks is not None:
            self.tasks = self.tasks.copy()  # the recorded episodes have the old ones
            self.tasks[rows] = tasks
        recording.restart(rows, _draw_seeds(rngs), self.tasks)
        self._beginning, self.is_task_new = rows.copy(), tasks is not None

    # --- shards --------------------------------------------------------------------------------

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self._bounds) - 1

    def shards_of(self, rows: np.ndarray) -> list[int]:
        """Returns the shards with a row of a mask (M,)."""
        bounds = zip(self._bounds, self._bounds[1:], strict=False)
        return [shard for shard, (start, stop) in enumerate(bounds) if rows[start:stop].any()]

    def message(self, verb: str, shard: int, block: str) -> tuple[Any, ...]:
        """Returns a message to the worker of a shard; `block` names the shared memory."""
        start, stop = self._bounds[shard : shard + 2]
        if verb == "assign":
            return verb, block, len(self.tasks), start, self.tasks[start:stop]
        if verb == "reset":
            assert self.recording is not None
            episodes = [e for e in self.recording.episodes[start:stop] if self._beginning[e.row]]
            has_task = self.is_task_new
            return verb, [(e.row - start, e.seed, e.task if has_task else None) for e in episodes]
        return (verb,)

    def replays(self, verb: str, shard: int, horizon: int) -> Iterator[tuple[int, Episode]]:
        """Yields what a new worker must replay before a message: row of the shard, episode.

        An episode that a reset follows is left out.
        """
        start, stop = self._bounds[shard : shard + 2]
        for episode in self.recording.episodes[start:stop] if self.recording else ():
            is_over = verb != "step" and len(episode.steps) >= horizon
            if not (is_over or (verb == "reset" and self._beginning[episode.row])):
                yield episode.row - start, episode

    def place(self, row: int, verb: str, describe: Callable[[np.ndarray], str]) -> str:
        """Names task, episode and step of a row; `describe` gives the text of a task (D,)."""
        task, number = divmod(row, self._num_episodes)
        place = f"task {task} ({describe(self.tasks[row])}), episode {number}"
        if self.recording is None:
            return f"{place}, {'set_task' if verb == 'assign' else verb}"
        episode = self.recording.episodes[row]
        if episode.restart:
            place += f", restart {episode.restart}"
        return f"{place}, step {len(episode.steps)}" if verb == "step" else f"{place}, {verb}"


def _draw_seeds(rngs: Sequence[np.random.Generator]) -> list[int]:
    return [int(rng.integers(2**31)) for rng in rngs]
