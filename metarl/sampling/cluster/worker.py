"""A worker: an environment and a copy of the learner, which play shards of trials."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from metarl.core.env import BatchEnv, supports
from metarl.core.learner import HasOptimiser, Learner
from metarl.core.machine.allocation import keep_freed_memory
from metarl.sampling.cluster.packing import Packed, pack, unpack
from metarl.sampling.cluster.requests import Facts, Place, Result, Shard
from metarl.sampling.sampler import Collector
from metarl.sampling.trials import take_reward_sums

Build = Callable[[], tuple[BatchEnv, Learner[Any], int, Facts]]
"""Makes the environment, the learner, the number of slices, and the facts to be compared."""


def read_state(learner: Learner[Any]) -> dict[str, np.ndarray]:
    """Returns what acting and adapting need of the state of a learner, as arrays."""
    state = learner.state_dict()
    if supports(learner, HasOptimiser):
        state = {name: value for name, value in state.items() if not learner.is_optimiser(name)}
    return {name: value.numpy() for name, value in state.items()}


class Worker:
    """Plays shards of trials, one at a time, on one thread.

    Args:
        build: Makes what it works with.
    """

    def __init__(self, build: Build):
        torch.set_num_threads(1)
        keep_freed_memory()
        self._env, self._learner, slices, self._facts = build()
        self._whole = Collector(self._env, slices)
        self._players: dict[Place, Collector] = {}
        self._version: int | None = None

    def facts(self) -> Facts:
        """Returns what must be the same for all workers."""
        return self._facts

    def run(self, state: Mapping[str, np.ndarray], shard: Shard) -> Result | Exception:
        """Plays a shard; returns an exception of the learner or the environment as a value."""
        try:
            return self._run(state, shard)
        except Exception as error:
            error.add_note(traceback.format_exc())
            return error

    def _run(self, state: Mapping[str, np.ndarray], shard: Shard) -> Result:
        self._load(state, shard.version)
        player = self._find_player(shard.place)
        take_reward_sums([player.env])  # of a shard that failed
        player.set_level(shard.level)
        packed = _play_trial(player, self._learner, shard)
        return Result(packed, take_reward_sums([player.env]))

    def _load(self, state: Mapping[str, np.ndarray], version: int) -> None:
        if version == self._version:
            return
        given = {name: torch.tensor(value) for name, value in state.items()}
        self._learner.load_state_dict({**self._learner.state_dict(), **given})
        self._version = version

    def _find_player(self, place: Place) -> Collector:
        if place not in self._players:
            # processes of a group may cut more slices than the environment has parts here; each of
            # them plays its own in its first parts too
            parts = self._whole.list_parts(place.count) or [self._env]
            self._players[place] = Collector(parts[place.number % len(parts)], 1)
        return self._players[place]


def _play_trial(player: Collector, learner: Learner[Any], shard: Shard) -> Packed:
    tasks, episodes = shard.tasks, shard.num_episodes
    if shard.context is None:
        sizes = episodes, shard.num_adaptations
        rollouts, after = player.trial(
            learner, tasks, *sizes, shard.key, is_training=shard.is_training
        )
        return pack((rollouts, after))
    before = unpack(shard.context)
    player.set_tasks(tasks, episodes)
    rollout, after = player.rollout(learner, before, shard.key, shard.k)
    return pack(([rollout], None if after is before else after))
