"""Runs trials on the workers of a cluster, with the bits of one machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from metarl.core.env import supports
from metarl.core.errors import ConfigError, ResourceError
from metarl.core.learner import C, JoinableContext, Learner, TreatsTasksApart
from metarl.core.machine.parallel import ALONE, Group, own_slice
from metarl.core.rollout import Metrics, Rollout
from metarl.sampling.cluster.packing import (
    Packed,
    from_tree,
    list_kinds,
    pack,
    to_tree,
    unpack,
)
from metarl.sampling.cluster.pool import Pool
from metarl.sampling.cluster.requests import Place, Result, Shard, Workers
from metarl.sampling.cluster.worker import read_state
from metarl.sampling.recording import Arrays, allocate, to_rollout
from metarl.sampling.sampler import Collector
from metarl.sampling.trials import (
    Key,
    RewardSums,
    average_terms,
    cut_tasks,
    run_trial,
    to_tensors,
)


class ClusterCollector:
    """Runs trials on workers; see `Collector`, whose results it gives bit for bit.

    A learner that treats tasks apart (`TreatsTasksApart`) has whole trials of some tasks played by
    a worker, adaptation included. Others play one rollout in the slices of a single machine, on as
    many workers, and adapt here, because the last bits of a product of matrices depend on the
    number of its rows.

    The processes of a group each have workers of their own, which play a share of the shards, and
    give each other the results. Fewer shards than processes are played by all of them.

    Args:
        local: The collector of this machine, which is not played.
        workers: Starts and calls the workers of this process.
        pool: Gives them shards.
        group: The processes.
        keeps_slices: The environment treats a task by its place in its slice.
    """

    def __init__(
        self,
        local: Collector,
        workers: Workers,
        pool: Pool,
        *,
        group: Group = ALONE,
        keeps_slices: bool = False,
    ):
        self._local, self._workers, self._pool, self._group = local, workers, pool, group
        self._keeps_slices, self._level, self._version = keeps_slices, 1.0, 0
        self._memory: dict[int, Arrays] = {}
        self._sums: list[RewardSums] = []
        self._state: Any = None
        self._num_episodes, self._tasks, self._whole = 0, np.zeros((0, 0)), False

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
        """Runs K + 1 rollouts of tasks (N, D); see `run_trial`.

        Raises:
            ResourceError: No worker is left, or the shared memory is too small.
        """
        state = read_state(learner)
        self._version += 1
        self._state = self._workers.put(state)
        self._pool.counts.bytes += sum(array.nbytes for array in state.values())
        size = num_episodes, num_adaptations
        if not supports(learner, TreatsTasksApart):
            return run_trial(self, learner, tasks, size, key, is_training=is_training)
        self.set_tasks(tasks, num_episodes)
        options: dict[str, Any] = {"num_adaptations": num_adaptations, "is_training": is_training}
        shards = [self._shard(*cut, key, **options) for cut in self._cut_freely()]
        rollouts, contexts = self._play(shards, range(num_adaptations + 1))
        return rollouts, learner.join_trials(contexts)

    def set_tasks(self, tasks: np.ndarray, num_episodes: int, *, whole: bool = False) -> None:
        """Notes the tasks (N, D) of the next rollouts, each for num_episodes neighbouring rows."""
        self._tasks, self._num_episodes, self._whole = tasks, num_episodes, whole

    def rollout(
        self, learner: Learner[C], context: C, key: Key, k: int, *, explore: bool = True
    ) -> tuple[Rollout, C]:
        """Runs one episode in each of the N * E rows, in the slices of a single machine.

        Raises:
            ConfigError: Acting changed contexts that cannot be joined.
            ValueError: Not `explore`; only trainings are collected here.
        """
        del learner
        if not explore:
            raise ValueError("a cluster collects with exploration only")
        cuts, held = self._cut(), cast(Any, context)
        is_one = len(cuts) == 1
        before: list[Any] = [
            held if is_one else held.slice_tasks(own.start, own.stop) for own, _ in cuts
        ]
        shards = [
            self._shard(*cut, key, k=k, context=pack(part))
            for cut, part in zip(cuts, before, strict=True)
        ]
        (rollout,), found = self._play(shards, [k])
        if all(part is None for part in found):
            return rollout, context
        after = [old if new is None else new for old, new in zip(before, found, strict=True)]
        if is_one:
            return rollout, after[0]
        if not supports(context, JoinableContext):
            hint = "give it `join`, or leave out `slice_tasks` (metarl/core/learner.py)"
            raise ConfigError(f"{type(context).__name__} was changed by `act`; {hint}")
        return rollout, type(held).join(after)

    def require_memory(self, num_tasks: int, num_episodes: int, num_adaptations: int) -> None:
        """Checks that the shared memory of every machine can hold a shard of a trial.

        Raises:
            ResourceError: It cannot; names both sizes.
        """
        count = self._local.count_slices(num_tasks, num_episodes)
        if not self._keeps_slices:
            count = max(count, min(num_tasks, self._pool.target() * self._group.size))
        row = sum(array.nbytes for array in allocate(self._local.env.spec, 1).values())
        rows = -(-num_tasks // count) * num_episodes
        # once as rollouts, and once at most as what the learner made of them
        needed, found = 2 * rows * row * (num_adaptations + 1), self._workers.memory()
        if needed > found:
            sizes = f"{found / 1e6:.0f} MB, and the experience of a worker needs {needed / 1e6:.0f}"
            hint = "start Ray with a larger --object-store-memory, or take more workers"
            raise ResourceError(f"the object store of the cluster has {sizes}; {hint}")

    def set_level(self, level: float) -> None:
        """Sets the level of difficulty of the episodes from now on, see `GradedEnv`."""
        self._level = level

    def take_reward_terms(self) -> dict[str, float]:
        """Returns the mean of each part of the reward over the steps since the last call."""
        taken, self._sums = self._sums, []
        return average_terms(taken)

    def take_counts(self) -> Metrics:
        """Returns the number of workers, and what happened to them since the last call."""
        found = self._group.gather(self._pool.take_counts)
        return {name: sum(own[name] for own in found) for name in found[0]}

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()
        self._local.close()
        self._memory.clear()

    def _cut(self) -> list[tuple[slice, Place]]:
        """Returns the slices in which a single machine plays the tasks."""
        num_tasks = len(self._tasks)
        count = self._local.count_slices(num_tasks, self._num_episodes, whole=self._whole)
        cuts = cut_tasks(num_tasks, count)
        return [(own, Place(number, count)) for number, own in enumerate(cuts)]

    def _cut_freely(self) -> list[tuple[slice, Place]]:
        """Returns as many slices of the tasks as there are workers."""
        if self._keeps_slices:
            return self._cut()
        num_tasks, num_workers = len(self._tasks), sum(self._group.gather(self._pool.target))
        return [(own, Place()) for own in cut_tasks(num_tasks, min(num_tasks, num_workers))]

    def _shard(self, own: slice, place: Place, key: Key, **options: Any) -> Shard:
        key = replace(key, first_task=own.start)
        common = (self._num_episodes, key, place, self._level, self._version)
        return Shard(self._tasks[own], *common, **options)

    def _play(self, shards: Sequence[Shard], ks: Sequence[int]) -> tuple[list[Rollout], list[Any]]:
        """Has the shards played; returns the rollouts k of all tasks, and the shards' contexts."""
        size = len(self._tasks), self._num_episodes
        arrays = [self._arrays(k) for k in ks]
        contexts: list[Any] = [None] * len(shards)

        def take(index: int, result: Result) -> None:
            contexts[index] = _take_in(result.packed, shards[index], arrays)
            self._sums += result.sums

        if len(shards) < self._group.size or self._group.size == 1:
            self._pool.run(shards, self._state, take)
        else:
            self._share(shards, take)
        return [to_rollout(each, size) for each in arrays], contexts

    def _share(self, shards: Sequence[Shard], take: Callable[[int, Result], None]) -> None:
        """Has this process's share of the shards played, and takes the results of the others."""
        cut = own_slice(len(shards), self._group)
        # acting may have changed contexts only where other processes played
        kinds = list_kinds([shard.context.form for shard in shards if shard.context])

        def play() -> list[Any]:
            played: list[Any] = []

            def note(number: int, result: Result) -> None:
                index = cut.start + number
                take(index, result)
                kinds.update(list_kinds(result.packed.form))
                played.append((index, _to_tree(result.packed), to_tensors(result.sums)))

            self._pool.run(shards[cut], self._state, note)
            return played

        for rank, found in enumerate(self._group.gather(play)):
            if rank != self._group.rank:
                for index, tree, sums in found:
                    take(index, Result(from_tree(tree, kinds), sums))

    def _arrays(self, k: int) -> Arrays:
        spec, rows = self._local.env.spec, len(self._tasks) * self._num_episodes
        if k not in self._memory or len(self._memory[k]["valid"]) != rows:
            self._memory[k] = allocate(spec, rows)
        return self._memory[k]


def _to_tree(packed: Packed) -> dict[str, Any]:
    """Returns a packed result that the processes of a group can gather.

    Raises:
        ConfigError: The context of the learner has something that they cannot exchange.
    """
    try:
        return to_tree(packed)
    except TypeError as error:
        hint = "keep tensors and numbers in it, or start one process"
        raise ConfigError(f"the learner's context: {error}; {hint}") from error


def _take_in(packed: Packed, shard: Shard, arrays: Sequence[Arrays]) -> Any:
    """Copies the rollouts of a shard into arrays of all tasks; returns the shard's context.

    The context shares the memory of the rollouts as it did in the worker.
    """
    records, context = packed.form
    size = len(shard.tasks), shard.num_episodes
    first = shard.key.first_task * shard.num_episodes
    given = {}
    for record, target in zip(records, arrays, strict=True):
        for name, slot in record.values.items():
            own = target[name][first : first + size[0] * size[1]]
            np.copyto(own, packed.arrays[slot.index].reshape(own.shape))
            given[slot.index] = torch.from_numpy(own).unflatten(0, size)
    return unpack(Packed(context, packed.arrays), given)
