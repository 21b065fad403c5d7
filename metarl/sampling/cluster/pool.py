"""Workers that come and go, and the shards that they are given."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from metarl.core.errors import ResourceError
from metarl.core.machine.parallel import ALONE, Group, own_slice
from metarl.core.rollout import Metrics
from metarl.sampling.cluster.requests import (
    Call,
    Facts,
    Handle,
    Result,
    Shard,
    StoreTooSmall,
    WorkerLost,
    Workers,
)

START_LIMIT = 540.0
"""Time in which a first worker must answer, also when all others are lost [s]. Ray starts and
imports torch in a few seconds, but took 150 s on two busy cores. Other processes of a group wait
for 600 s, so that the one without a worker says what is wrong."""

MOST_FAILED_STARTS = 3
"""Workers in a row that end before they have answered; then the next would too."""

LEAST_PATIENCE = 1.0
"""Time before which no shard is given to a second worker [s]."""

PATIENCE = 2.0
"""Multiple of the median time of a shard after which a second worker gets it too."""

POLL = 0.5
"""Time after which the cluster is looked at again [s]."""


@dataclass
class _Running:
    """A call that plays a shard; its shard is None if the trial no longer needs it."""

    worker: Handle
    shard: int | None
    since: float


@dataclass
class Counts:
    """Events since they were last taken, see docs/scaling.md."""

    lost: int = 0
    redone: int = 0
    duplicated: int = 0
    bytes: int = 0


@dataclass
class _Trial:
    """Progress of one call of `Pool.run`."""

    shards: Sequence[Shard]
    state: Any
    waiting: deque[int]
    done: set[int] = field(default_factory=set)
    failures: dict[int, Exception] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    def is_over(self) -> bool:
        return len(self.done) + len(self.failures) == len(self.shards)

    def needs(self, index: int | None) -> bool:
        return index is not None and index not in self.done and index not in self.failures


class Pool:
    """Gives shards to workers, and again to others where a worker is lost or slow.

    Args:
        workers: Starts and calls them.
        facts: What must be the same for all workers, of this process.
        wanted: Number of workers of the group; 0 takes as many as the machines can run.
        report: Receives a line for people about each loss.
        group: Processes that have workers; this one has its share of them, at least one.
    """

    def __init__(
        self,
        workers: Workers,
        facts: Facts,
        wanted: int = 0,
        report: Callable[[str], None] = print,
        group: Group = ALONE,
    ):
        self._workers, self._facts, self._wanted, self._report = workers, facts, wanted, report
        self._group = group
        self._starting: dict[Call, Handle] = {}
        self._idle: list[Handle] = []
        self._running: dict[Call, _Running] = {}
        self._median = 0.0
        self._num_refused = self._num_failed_starts = 0
        self._is_processor_told = False
        self._alone_since = time.monotonic()
        self.counts = Counts()

    def target(self) -> int:
        """Returns the number of workers that this process should have now."""
        share = own_slice(self._wanted or self._workers.capacity(), self._group)
        return max(1, share.stop - share.start - self._num_refused)

    @property
    def size(self) -> int:
        """Workers that have answered."""
        return len(self._idle) + len(self._running)

    def start(self) -> None:
        """Starts the workers, and waits until one has answered.

        Raises:
            ResourceError: No worker answers, or one has another version or model.
        """
        while not self.size:
            self._restock()
            self._collect_answers(None)

    def run(self, shards: Sequence[Shard], state: Any, take: Callable[[int, Result], None]) -> None:
        """Has every shard played; calls `take` with its number and result, in any order.

        Raises:
            Exception: A learner or environment failed in a shard; that of the first such shard.
            ResourceError: No worker is left, or the shared memory is too small.
        """
        trial = _Trial(shards, state, deque(range(len(shards))))
        for call in self._running.values():
            call.shard = None  # of an earlier trial, which was interrupted or is done
        while not trial.is_over():
            self._restock()
            self._assign(trial)
            self._collect_answers(trial, take)
        if trial.times:
            self._median = statistics.median(trial.times)
        if trial.failures:
            raise trial.failures[min(trial.failures)]

    def take_counts(self) -> Metrics:
        """Returns the number of workers, and the events since the last call."""
        counts, self.counts = self.counts, Counts()
        return {
            "workers/number": float(self.size),
            "workers/lost": float(counts.lost),
            "workers/redone": float(counts.redone),
            "workers/duplicated": float(counts.duplicated),
            "workers/megabytes": counts.bytes / 1e6,
        }

    def close(self) -> None:
        """Ends all workers."""
        self._workers.close()

    # --- workers ----------------------------------------------------------------------------------

    def _restock(self) -> None:
        """Starts workers that are missing."""
        if self._group.size > 1:
            self._end_surplus()
        for _ in range(self.target() - self.size - len(self._starting)):
            worker = self._workers.start()
            self._starting[self._workers.greet(worker)] = worker
        if self.size:
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > START_LIMIT:
            hint = "check that machines of the cluster have a free processor, and metarl"
            raise ResourceError(f"no worker has answered for {START_LIMIT:.0f} s; {hint}")

    def _end_surplus(self) -> None:
        """Ends workers that another process of the group should have, unless they are at work.

        A process alone keeps them: some may be of a machine that was lost, and which of them is
        not known before they are called.
        """
        for _ in range(self.size + len(self._starting) - self.target()):
            if self._starting:
                self._workers.stop(self._starting.popitem()[1])
            elif self._idle:
                self._workers.stop(self._idle.pop())

    def _welcome(self, call: Call) -> None:
        """Compares a worker that has answered, and uses it."""
        worker = self._starting.pop(call)
        try:
            facts = self._workers.result(call)
        except WorkerLost as error:
            self._num_failed_starts += 1
            if self._num_failed_starts >= MOST_FAILED_STARTS and not self.size:
                raise ResourceError(f"workers end when they are started: {error}") from error
            return
        self._num_failed_starts = 0
        if difference := self._facts.describe_difference(facts):
            self._refuse(worker, f"a worker on {facts.place} has {difference}")
            return
        if facts.processor != self._facts.processor and not self._is_processor_told:
            self._is_processor_told = True
            text = f"{facts.place} has another processor: last bits depend on who plays a task"
            self._report(f"warning: {text}")
        self._idle.append(worker)

    def _refuse(self, worker: Handle, text: str) -> None:
        self._workers.stop(worker)
        if not self.size:
            hint = "install the same versions on all machines"
            raise ResourceError(f"{text}; {hint}")
        self._num_refused += 1
        self._report(f"warning: {text}; it is not used")

    # --- shards -----------------------------------------------------------------------------------

    def _assign(self, trial: _Trial) -> None:
        """Gives waiting shards to idle workers, and slow ones to a second worker."""
        while self._idle and trial.waiting:
            self._send(trial, trial.waiting.popleft())
        for index in self._list_slow(trial):
            if not self._idle:
                return
            self.counts.duplicated += 1
            self._report(f"shard {index + 1} of {len(trial.shards)} is slow: played twice")
            self._send(trial, index)

    def _send(self, trial: _Trial, index: int) -> None:
        worker = self._idle.pop(0)
        call = self._workers.send(worker, trial.state, trial.shards[index])
        self._running[call] = _Running(worker, index, time.monotonic())

    def _list_slow(self, trial: _Trial) -> list[int]:
        """Returns the shards that one worker has had for long, the longest first."""
        median = statistics.median(trial.times) if trial.times else self._median
        if not (self._idle and median) or trial.waiting:
            return []
        own = [call for call in self._running.values() if trial.needs(call.shard)]
        counts = [call.shard for call in own]
        limit = time.monotonic() - max(LEAST_PATIENCE, PATIENCE * median)
        slow = sorted((call.since, call.shard) for call in own if call.since < limit)
        return [index for _, index in slow if index is not None and counts.count(index) == 1]

    def _collect_answers(
        self, trial: _Trial | None, take: Callable[[int, Result], None] | None = None
    ) -> None:
        """Waits for the next answers, of shards and of new workers."""
        for call in self._workers.wait([*self._running, *self._starting], POLL):
            if call in self._starting:
                self._welcome(call)
            else:
                self._finish(call, trial, take)

    def _finish(
        self, call: Call, trial: _Trial | None, take: Callable[[int, Result], None] | None
    ) -> None:
        running = self._running.pop(call)
        index = running.shard
        try:
            answer = self._workers.result(call)
        except WorkerLost as error:
            self._lose(running, trial, str(error))
            return
        except StoreTooSmall as error:
            raise ResourceError(f"the object store of the cluster is too small; {error}") from error
        self._idle.append(running.worker)
        if trial is None or take is None or index is None or not trial.needs(index):
            return
        trial.times.append(time.monotonic() - running.since)
        if isinstance(answer, Exception):
            trial.failures[index] = answer
            return
        self.counts.bytes += answer.packed.num_bytes()
        take(index, answer)
        trial.done.add(index)

    def _lose(self, running: _Running, trial: _Trial | None, reason: str) -> None:
        self.counts.lost += 1
        self._workers.stop(running.worker)
        index = running.shard
        text = f"a worker is lost ({reason})"
        others = [call.shard for call in self._running.values()]
        if trial is not None and trial.needs(index) and index not in others:
            assert index is not None
            trial.waiting.appendleft(index)
            self.counts.redone += 1
            text += "; its tasks are played again"
        self._report(text)
