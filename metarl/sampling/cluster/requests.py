"""Messages between the collector of a cluster and its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from metarl.sampling.cluster.packing import Packed
from metarl.sampling.trials import Key, RewardSums


@dataclass(frozen=True)
class Place:
    """Slice of the environment that plays tasks, as it does on one machine.

    Attributes:
        number: Of the slice.
        count: Of all slices; 1 is the whole environment.
    """

    number: int = 0
    count: int = 1


@dataclass(frozen=True)
class Shard:
    """Some neighbouring tasks of a trial, and what to do with them.

    Attributes:
        tasks: (n, D).
        num_episodes: E.
        key: The streams, with the number of the first task.
        place: Slice of the environment.
        level: Level of difficulty.
        version: Number of the learner's state; the same number is the same state.
        k: Number of the one rollout to play with `context`; -1 for a whole trial.
        context: Packed context of these tasks; None for a whole trial.
        num_adaptations: K of a whole trial.
        is_training: The learner may see the tasks.
    """

    tasks: np.ndarray
    num_episodes: int
    key: Key
    place: Place
    level: float
    version: int
    k: int = -1
    context: Packed | None = None
    num_adaptations: int = 0
    is_training: bool = False


@dataclass(frozen=True)
class Result:
    """Outcome of a shard.

    Attributes:
        packed: The list of rollouts, and the context after them; None where acting did not change
            the context that came with the shard.
        sums: Of the parts of the reward.
    """

    packed: Packed
    sums: list[RewardSums]


@dataclass(frozen=True)
class Facts:
    """Facts that must be the same for all workers.

    Attributes:
        versions: Of Python and the packages, by name.
        env: Hash of the environment's description and model.
        processor: Kind of processor; the last bits of results may depend on it.
        place: Name of the machine, for messages; not compared.
        process: Id of the process; not compared.
    """

    versions: Mapping[str, str | None]
    env: str
    processor: str
    place: str
    process: int = 0

    def describe_difference(self, other: Facts) -> str:
        """Returns in a few words what another worker has otherwise, "" if nothing."""
        for name, own in self.versions.items():
            if other.versions.get(name) != own:
                return f"{name} {other.versions.get(name)}, and this process {own}"
        return "" if self.env == other.env else "another model of the environment"


class WorkerLost(Exception):
    """A worker, its machine or its result is gone; the message says what is known."""


class StoreTooSmall(Exception):
    """The memory for objects that processes share is too small; the message says how to help."""


Call = Any
"""A running call of a worker; hashable."""

Handle = Any
"""A worker; hashable."""


class Workers(Protocol):
    """Starts workers and calls them; an engine such as Ray."""

    def capacity(self) -> int:
        """Returns the number of workers that the machines can run now."""

    def memory(self) -> int:
        """Returns the size of the smallest memory for shared objects [bytes]."""

    def start(self) -> Handle:
        """Begins to start a worker."""

    def greet(self, worker: Handle) -> Call:
        """Asks a worker for its `Facts`."""

    def put(self, state: Mapping[str, np.ndarray]) -> Any:
        """Shares the state of the learner with all workers; returns a reference to it."""

    def send(self, worker: Handle, state: Any, shard: Shard) -> Call:
        """Gives a shard to a worker, whose answer is a `Result` or an Exception."""

    def wait(self, calls: list[Call], seconds: float) -> list[Call]:
        """Waits until a call has ended, or for a time [s]; returns those that have."""

    def result(self, call: Call) -> Any:
        """Returns the answer of a call that has ended.

        Raises:
            WorkerLost: There is none.
            StoreTooSmall: The answer does not fit into the shared memory.
        """

    def stop(self, worker: Handle) -> None:
        """Ends a worker."""

    def close(self) -> None:
        """Ends all workers."""
