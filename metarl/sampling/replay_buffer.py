"""A replay buffer that forgets its oldest entries, and draws from one of whole episodes.

Entries are numbered from the start of the run, and never change. That is what `HasBoundedReplay`
asks of a learner. Where an entry is one episode, as `to_entries` makes them, those of a task are
neighbours, in the order of their rollouts, and are forgotten task by task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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


def episode_shapes(obs_size: int, action_size: int) -> dict[str, tuple[int | None, ...]]:
    """Returns the shapes of one entry of `to_entries`, for `ReplayBuffer.load`; T is None."""
    steps = {"obs": (None, obs_size), "action": (None, action_size), "reward": (None,)}
    return {**steps, "length": (), "terminated": (), "task": (), "rollout": ()}


@dataclass(frozen=True)
class ReplayBuffer:
    """The newest entries of a run, as a value: `append` returns another buffer.

    Both share a ring of memory. The older one stays valid until the next `append`, so that a failed
    update can go on with it; what it holds is overwritten only when neither needs it. So R is less
    than twice the sum of the entries held and those of one `append`, each at their most.

    Attributes:
        most: Newest tasks whose entries are held, or newest entries, M >= 1.
        unit: M counts tasks ("task") or entries (NUMBER).
        start: Number of the oldest entry.
        stop: Number of entries since the start of the run.
        ring: Entries by name, each (R, ...); entry i is in row i % R. Empty before the first. Large
            ones lie in a file (`metarl.core.machine.mapped`).
    """

    most: int
    unit: str = "task"
    start: int = 0
    stop: int = 0
    ring: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.stop - self.start

    def next_task(self) -> int:
        """Returns the number of the next task."""
        return int(self.read(self.stop - 1, self.stop)["task"][0]) + 1 if len(self) else 0

    def append(self, entries: Mapping[str, Tensor]) -> ReplayBuffer:
        """Returns the buffer with L more entries, of new tasks if it counts these.

        Raises:
            ValueError: They have another shape than those before.
        """
        self._check(entries)
        stop = self.stop + len(next(iter(entries.values())))
        ring = self._make_room(entries, stop - self.start)
        numbers = torch.arange(self.stop, stop)
        for name, value in entries.items():
            ring[name][numbers % len(ring[name])] = value
        whole = replace(self, stop=stop, ring=ring)
        return replace(whole, start=self.start + self._drop(whole.read_one(self.unit)))

    def set_back(self, size: int) -> ReplayBuffer:
        """Returns the buffer without the entries from number `size` on.

        It is empty where the entry before is not held: forgotten, or never appended. This buffer
        stays valid until the next `append`.
        """
        start = self.start if self.start <= size <= self.stop else size
        return replace(self, start=start, stop=size)

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
        numbers = torch.arange(self.start, self.stop)
        return numbers if name == NUMBER else self.ring[name][numbers % len(self.ring[name])]

    def load(
        self, entries: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | None, ...]]
    ) -> ReplayBuffer:
        """Returns a buffer of these entries, which `read` gave; none give an empty one.

        Those beyond the newest M units are left out.

        Args:
            entries: By name.
            shapes: Of one entry, by name; None is any size.

        Raises:
            ValueError: They are not such entries, or not finite.
        """
        if not any(len(value) for value in entries.values()):
            return ReplayBuffer(self.most, self.unit)
        if entries.keys() != {*shapes, NUMBER}:
            names = ", ".join(sorted(entries.keys() ^ {*shapes, NUMBER}))
            raise ValueError(f"the replay store has other entries: {names}")
        numbers, own = entries[NUMBER], {name: entries[name] for name in shapes}
        start = int(numbers[0])
        if not torch.equal(numbers, torch.arange(start, start + len(numbers))):
            raise ValueError("entries of the replay store are missing")
        for name, value in own.items():
            expected = len(numbers), *shapes[name]
            if not _fits(tuple(value.shape), expected):
                text = f"is of shape {tuple(value.shape)}, expected {expected}"
                raise ValueError(f"the replay store's {name!r} {text}")
            if not bool(value.isfinite().all()):
                raise ValueError(f"the replay store's {name!r} is not finite")
        first = self._drop(entries[self.unit])
        start += first
        empty = ReplayBuffer(self.most, self.unit, start, start)
        return empty.append({name: value[first:] for name, value in own.items()})

    def _drop(self, units: Tensor) -> int:
        """Returns the number of entries beyond the newest M units; units (L,), ascending."""
        return int((units <= units[-1:] - self.most).sum())

    def _check(self, entries: Mapping[str, Tensor]) -> None:
        for name, value in self.ring.items():
            if entries[name].shape[1:] != value.shape[1:]:
                shape, expected = tuple(entries[name].shape[1:]), tuple(value.shape[1:])
                raise ValueError(f"entries have {name!r} of shape {shape}, those before {expected}")

    def _make_room(self, entries: Mapping[str, Tensor], needed: int) -> dict[str, Tensor]:
        """Returns a ring of at least `needed` rows, with the entries held in their rows."""
        if self.ring and needed <= len(next(iter(self.ring.values()))):
            return dict(self.ring)
        rows = 1 << (needed - 1).bit_length()
        ring = {n: _zeros(rows, v) for n, v in entries.items()}
        numbers = torch.arange(self.start, self.stop)
        for name, value in self.ring.items():
            ring[name][numbers % rows] = value[numbers % len(value)]
        return ring


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Returns whether a shape is the expected one, in which None is any size."""
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(size in (own, None) for own, size in pairs)


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
