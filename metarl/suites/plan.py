"""The runs that there are to do: those that a suite declares, or that a sweep asks for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from metarl.suites.suite import Run, Suite


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        run: The run.
        reason: Last message of its process, in one line.
        exit_code: Status of its process.
    """

    run: Run
    reason: str
    exit_code: int


class Plan(Protocol):
    """The runs to do, one after another.

    Attributes:
        root: Folder of the run folders; it is locked while they run.
    """

    root: Path

    def begin(self) -> None:
        """Is called once, when the folder exists and is locked."""

    def count(self) -> int:
        """Returns the number of all runs, as far as it is known."""

    def list_runs(self) -> Sequence[Run]:
        """Returns the runs that are known so far, started or not."""

    def waiting(self) -> Sequence[Run]:
        """Returns the runs still to start, or runs like them, for an estimate of the time left."""

    def take(self) -> Run | None:
        """Returns the next run; None if there is none now, or none any more if no run is active."""

    def is_lost(self, run: Run) -> bool:
        """Returns whether an active run is to be stopped, because others promise more."""

    def note_end(self, run: Run, failure: Failure | None) -> None:
        """Notes that a run is finished, was stopped as lost, or failed."""


class Declared:
    """The plan of a suite: all runs are known from the start, and none is stopped."""

    def __init__(self, suite: Suite):
        self.root, self._runs = suite.root, suite.runs
        self._waiting = deque(suite.runs)

    def begin(self) -> None:
        """Does nothing."""

    def count(self) -> int:
        """See `Plan`."""
        return len(self._runs)

    def list_runs(self) -> Sequence[Run]:
        """See `Plan`."""
        return self._runs

    def waiting(self) -> Sequence[Run]:
        """See `Plan`."""
        return list(self._waiting)

    def take(self) -> Run | None:
        """See `Plan`."""
        return self._waiting.popleft() if self._waiting else None

    def is_lost(self, run: Run) -> bool:
        """See `Plan`."""
        return False

    def note_end(self, run: Run, failure: Failure | None) -> None:
        """Does nothing."""
