"""A replay buffer of whole episodes, in which every task has its own, and old tasks make room.

An entry is one episode. The entries of a task are neighbours, in the order of their rollouts. They
are numbered from the start of the run, never change, and are forgotten task by task, the oldest
first. That is what `HasBoundedReplay` asks of a learner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metarl.core.machine import mapped
from metarl.core.rollout import Rollout, drop_unknown_ends

NUMBER = "number"
"""Number of an entry, by which saved entries are put back in their place."""


@dataclass(frozen=True)
class Transitions:
    """Transitions of B tasks, C of each.

    Attributes:
        obs: Before the action (B, C, S).
        action: Output of the policy (B, C, A).
        reward: (B, C).
        next_obs: After the action (B, C, S).
        terminal: (B, C) the task ended with this step, so that nothing follows. After a step that
            reaches the horizon, or that a failed simulation follows, more would have come.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminal: Tensor

    def to(self, device: torch.device | str) -> Transitions:
        """Returns the transitions on a device."""
        return Transitions(**{n: v.to(device, non_blocking=True) for n, v in vars(self).items()})


def to_entries(rollouts: Sequence[Rollout], first_task: int = 0) -> dict[str, Tensor]:
    """Returns the episodes of a trial as entries, task by task; L = N * (K + 1) * E.

    Args:
        rollouts: The K + 1 rollouts of N tasks with E episodes.
        first_task: Number of the first of the N tasks.

    Returns:
        obs (L, T + 1, S) with the last observation behind the last valid step, action (L, T, A),
        reward (L, T), length (L,) [valid steps], terminated (L,), task (L,) [number of the task]
        and rollout (L,) [0 to K].
    """
    tasks = torch.arange(first_task, first_task + len(rollouts[0].obs))
    parts = [_of_rollout(rollout, k, tasks) for k, rollout in enumerate(rollouts)]
    return {n: torch.cat([part[n] for part in parts], dim=1).flatten(0, 1) for n in parts[0]}


def _of_rollout(rollout: Rollout, k: int, tasks: Tensor) -> dict[str, Tensor]:
    """Returns the entries (N, E, ...) of one rollout."""
    size, length = rollout.valid.shape[:2], rollout.valid.sum(dim=2)
    obs = torch.cat([rollout.obs, torch.zeros_like(rollout.last_obs).unsqueeze(2)], dim=2)
    index = length[..., None, None].expand(*size, 1, obs.shape[-1])
    # a terminal observation without a value may be any finite one: nothing is worth after it
    last_obs = drop_unknown_ends(rollout).last_obs
    obs.scatter_(2, index, last_obs.unsqueeze(2))
    return {
        "obs": obs,
        "action": rollout.action,
        "reward": rollout.reward,
        "length": length,
        "terminated": rollout.terminated,
        "task": tasks.unsqueeze(1).expand(size).clone(),
        "rollout": torch.full(size, k),
    }


@dataclass(frozen=True)
class ReplayBuffer:
    """The episodes of the last M tasks, as a value: `append` returns another buffer.

    Both share a ring of memory. The older one stays valid until the next `append`, so that a failed
    update can go on with it; what it holds is overwritten only when neither needs it.

    Attributes:
        most_tasks: M >= 1.
        start: Number of the oldest entry.
        stop: Number of entries since the start of the run.
        ring: Entries by name, each (R, ...); entry i is in row i % R. Empty before the first. Large
            ones lie in a file (`metarl.core.machine.mapped`).
    """

    most_tasks: int
    start: int = 0
    stop: int = 0
    ring: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.stop - self.start

    def next_task(self) -> int:
        """Returns the number of the next task."""
        return int(self.read(self.stop - 1, self.stop)["task"][0]) + 1 if len(self) else 0

    def append(self, entries: Mapping[str, Tensor]) -> ReplayBuffer:
        """Returns the buffer with L >= 1 entries of new tasks, as `to_entries` makes them.

        Raises:
            ValueError: They have another shape than those before.
        """
        self._check(entries)
        stop = self.stop + len(entries["task"])
        ring = self._make_room(entries, stop - self.start)
        rows = torch.arange(self.stop, stop) % len(ring["task"])
        for name, value in entries.items():
            ring[name][rows] = value
        whole = ReplayBuffer(self.most_tasks, self.start, stop, ring)
        tasks = whole.read_one("task")
        return ReplayBuffer(self.most_tasks, self.start + self._drop(tasks), stop, ring)

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Returns copies of the entries start..stop, and their numbers."""
        if not self.start <= start <= stop <= self.stop:
            held = f"{self.start}..{self.stop}"
            raise ValueError(f"entries {start}..{stop} are not held: those are {held}")
        numbers = torch.arange(start, stop)
        read = {n: value[numbers % len(value)] for n, value in self.ring.items()}
        return {NUMBER: numbers, **read}

    def read_one(self, name: str) -> Tensor:
        """Returns a copy of one array of all entries."""
        value = self.ring[name]
        return value[torch.arange(self.start, self.stop) % len(value)]

    def load(self, entries: Mapping[str, Tensor], sizes: tuple[int, int]) -> ReplayBuffer:
        """Returns a buffer of exactly these entries, which `read` gave; none give an empty one.

        Args:
            entries: By name.
            sizes: S and A.

        Raises:
            ValueError: They are not such entries, or not finite.
        """
        if not entries:
            return ReplayBuffer(self.most_tasks)
        known = {"obs", "action", "reward", "length", "terminated", "task", "rollout", NUMBER}
        if entries.keys() != known:
            names = ", ".join(sorted(entries.keys() ^ known))
            raise ValueError(f"the replay store has other entries: {names}")
        found = entries["obs"].shape[-1], entries["action"].shape[-1]
        if found != sizes:
            raise ValueError(f"the replay store is of sizes {found}, expected {sizes}")
        numbers, own = entries[NUMBER], {n: v for n, v in entries.items() if n != NUMBER}
        start = int(numbers[0])
        if not torch.equal(numbers, torch.arange(start, start + len(numbers))):
            raise ValueError("entries of the replay store are missing")
        for name, value in own.items():
            if not bool(value.isfinite().all()):
                raise ValueError(f"the replay store's {name!r} is not finite")
        return ReplayBuffer(self.most_tasks, start, start).append(own)

    def _drop(self, tasks: Tensor) -> int:
        """Returns the number of entries of the oldest tasks, beyond the last M; tasks (L,)."""
        oldest = int(tasks[-1]) - self.most_tasks + 1
        return int((tasks < oldest).sum())

    def _check(self, entries: Mapping[str, Tensor]) -> None:
        for name, value in self.ring.items():
            if entries[name].shape[1:] != value.shape[1:]:
                shape, expected = tuple(entries[name].shape[1:]), tuple(value.shape[1:])
                raise ValueError(
                    f"episodes have {name!r} of shape {shape}, those before {expected}"
                )

    def _make_room(self, entries: Mapping[str, Tensor], needed: int) -> dict[str, Tensor]:
        """Returns a ring of at least `needed` rows, with the entries held in their rows."""
        if self.ring and needed <= len(self.ring["task"]):
            return dict(self.ring)
        rows = 1 << (needed - 1).bit_length()
        ring = {n: _zeros(rows, v) for n, v in entries.items()}
        numbers = torch.arange(self.start, self.stop)
        for name, value in self.ring.items():
            ring[name][numbers % rows] = value[numbers % len(value)]
        return ring


def _zeros(rows: int, like: Tensor) -> Tensor:
    """Returns rows of zeros, each as those of `like`."""
    return torch.from_numpy(mapped.zeros((rows, *like.shape[1:]), like.numpy().dtype))


class TransitionSampler:
    """Draws transitions of tasks from a buffer, each valid step of a task equally often.

    Args:
        buffer: Not empty.

    Attributes:
        counts: Valid steps of each task.
        first_counts: Those of its first rollout.
        reward_moments: Mean of the rewards of all valid steps, and one over their deviation; 0
            where they differ by rounding only.
    """

    def __init__(self, buffer: ReplayBuffer):
        self._buffer = buffer
        read = (buffer.read_one(name).numpy() for name in ("task", "length", "rollout"))
        task, length, rollout = read
        # the first entry of every task, and the number of entries as the last
        self._first = np.flatnonzero(np.diff(task, prepend=task[0] - 1, append=task[-1] + 1))
        self._num_rollouts = np.maximum.reduceat(rollout, self._first[:-1]) + 1
        self._ends = np.concatenate([[0], np.cumsum(length)])
        self.counts = np.diff(self._ends[self._first])
        self.first_counts = self._count_steps(np.arange(len(self.counts)), 1)
        self.reward_moments = _measure_rewards(buffer, length)

    def _count_steps(self, tasks: np.ndarray, num_rollouts: np.ndarray | int) -> np.ndarray:
        """Returns the valid steps (B,) of the first rollouts of tasks (B,)."""
        first = self._first[tasks]
        entries = (self._first[tasks + 1] - first) // self._num_rollouts[tasks]  # of a rollout
        return self._ends[first + entries * num_rollouts] - self._ends[first]

    def sample(self, rng: np.random.Generator, tasks: np.ndarray, count: int) -> Transitions:
        """Draws transitions with replacement.

        Args:
            rng: The stream.
            tasks: (B,), counted from the oldest task; each has `counts` > 0.
            count: C.
        """
        return self._draw(rng, tasks, count, self.counts[tasks])

    def sample_context(
        self, rng: np.random.Generator, tasks: np.ndarray, count: int
    ) -> Transitions:
        """Draws transitions of the first rollouts of a trial, as a learner meets them in it.

        The number of rollouts is drawn for each task, equally often from 1 to K: those before the
        last one. A trial with a single rollout gives that.

        Args:
            rng: The stream.
            tasks: (B,), counted from the oldest task; each has `first_counts` > 0.
            count: C.
        """
        most = np.maximum(self._num_rollouts[tasks] - 1, 1)
        number = 1 + (rng.random(len(tasks)) * most).astype(np.int64)
        return self._draw(rng, tasks, count, self._count_steps(tasks, number))

    def sample_beginnings(
        self, rng: np.random.Generator, tasks: np.ndarray, count: int
    ) -> tuple[Transitions, Tensor]:
        """Draws transitions of beginnings of episodes of first rollouts, one of each task.

        A beginning has n = ceil(L u^2) of the L valid steps of its episode, u uniform in (0, 1].
        Up to C steps they are its transitions, else C drawn from those with replacement.

        Args:
            rng: The stream.
            tasks: (B,), counted from the oldest task; each has `first_counts` > 0.
            count: C.

        Returns:
            The transitions (B, C), and the mask (B, C) of those that count.
        """
        first = self._ends[self._first[tasks]]
        place = first + (rng.random(len(tasks)) * self.first_counts[tasks]).astype(np.int64)
        entry = np.searchsorted(self._ends, place, side="right") - 1
        length = self._ends[entry + 1] - self._ends[entry]
        number = np.ceil(length * (1.0 - rng.random(len(tasks))) ** 2).astype(np.int64)[:, None]
        order = np.arange(count)
        drawn = (rng.random((len(tasks), count)) * number).astype(np.int64)
        step = np.where(number > count, drawn, np.minimum(order, number - 1))
        valid = torch.from_numpy(order < number)
        return self._gather(np.broadcast_to(entry[:, None], step.shape), step), valid

    def _draw(
        self, rng: np.random.Generator, tasks: np.ndarray, count: int, number: np.ndarray
    ) -> Transitions:
        """Draws from the first `number` (B,) valid steps of each task."""
        start = self._ends[self._first[tasks]]
        drawn = (rng.random((len(tasks), count)) * number[:, None]).astype(np.int64)
        place = start[:, None] + drawn
        entry = np.searchsorted(self._ends, place, side="right") - 1
        return self._gather(entry, place - self._ends[entry])

    def _gather(self, entry: np.ndarray, step: np.ndarray) -> Transitions:
        ring = self._buffer.ring
        shape = entry.shape
        row = torch.from_numpy((entry + self._buffer.start).ravel() % len(ring["task"]))
        at = torch.from_numpy(step.ravel())
        horizon = ring["action"].shape[1]
        obs, before, here = ring["obs"].flatten(0, 1), row * (horizon + 1) + at, row * horizon + at
        terminal = ring["terminated"][row] & (at == ring["length"][row] - 1)
        return Transitions(
            obs=obs.index_select(0, before).unflatten(0, shape),
            action=ring["action"].flatten(0, 1).index_select(0, here).unflatten(0, shape),
            reward=ring["reward"].flatten().index_select(0, here).view(shape),
            next_obs=obs.index_select(0, before + 1).unflatten(0, shape),
            terminal=terminal.view(shape),
        )


def _measure_rewards(buffer: ReplayBuffer, length: np.ndarray) -> tuple[float, float]:
    """Returns mean and one over the deviation of the rewards of the valid steps; see above."""
    reward = buffer.read_one("reward").numpy()
    valid = reward[np.arange(reward.shape[1]) < length[:, None]].astype(np.float64)
    if not len(valid):
        return 0.0, 0.0
    mean, deviation = float(valid.mean()), float(valid.std())
    least = float(np.finfo(np.float32).eps) * float(np.abs(valid).max())
    return mean, 1.0 / deviation if deviation > least else 0.0
