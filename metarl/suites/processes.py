"""Processes of runs, on this machine or on others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeVar

ENDS_WITH_STDIN = "METARL_ENDS_WITH_STDIN"
"""Variable of the environment that makes a process stop at the end of its standard input: with
the value "kill" at once, with another one as by SIGTERM."""


Code = TypeVar("Code", int, int | None)

NOTHING: Mapping[str, str] = MappingProxyType({})


class Process(Protocol):
    """A running process of a run."""

    @property
    def loss(self) -> str:
        """Why the process was lost with its machine, "" if it was not."""

    @property
    def refusal(self) -> str:
        """Why its machine cannot run it, "" if it can; another one may."""

    def is_waiting(self) -> bool:
        """Returns whether it waits for a free processor."""

    def poll(self) -> int | None:
        """Returns the exit code, minus the number of the signal if one ended it; None before."""

    def send_signal(self, number: int, /) -> None:
        """Sends a signal; does nothing once the process has ended."""

    def wait(self) -> object:
        """Waits until it has ended or is lost."""


class Machines(Protocol):
    """Starts processes of runs."""

    def capacity(self) -> int:
        """Returns the number of runs that have a core each."""

    def spawn(self, command: Sequence[str], log: Path) -> Process:
        """Starts `metarl` with some arguments; its output is appended to a file."""

    def close(self) -> None:
        """Releases the machines."""


class Child(subprocess.Popen[bytes]):
    """A process of this machine; it stops when this process ends in any way.

    A terminal sends Ctrl-C to its whole group of processes, and a second signal would stop a run at
    once, so it has a group of its own.

    Args:
        command: Arguments of metarl.
        log: File to which the output is appended.
        folder: Where it works; by default where this process does.
        environment: Variables that replace those of this process.
    """

    loss = refusal = ""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        folder: str | None = None,
        environment: Mapping[str, str] = NOTHING,
    ):
        # libraries of linear algebra would start a thread for each core in each process
        own = {"OMP_NUM_THREADS": "1", ENDS_WITH_STDIN: "save"}
        with open(log, "ab") as output:
            super().__init__(
                [sys.executable, "-m", "metarl", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **own, **environment},
                cwd=folder,
                process_group=0,
            )

    def is_waiting(self) -> bool:
        """See `Process`."""
        return False

    def poll(self) -> int | None:
        """See `Process`."""
        return self._close(super().poll())

    def wait(self, timeout: float | None = None) -> int:
        """See `Process`."""
        return self._close(super().wait(timeout))

    def _close(self, code: Code) -> Code:
        """Closes the pipe that tells the process of the end of this one."""
        if code is not None and self.stdin is not None:
            self.stdin.close()
        return code


class ThisMachine:
    """The cores that this process may use."""

    def capacity(self) -> int:
        """See `Machines`."""
        return len(os.sched_getaffinity(0))

    def spawn(self, command: Sequence[str], log: Path) -> Process:
        """See `Machines`."""
        return Child(command, log)

    def close(self) -> None:
        """Does nothing."""


def end_with_parent() -> None:
    """Makes this process end when the one that has started it ends, if that has said so.

    So a training is saved and ends where its suite was killed. Where another machine goes on with
    it, it ends at once. Signals that the other has blocked, as Ray does with SIGINT, are let
    through.
    """
    if how := os.environ.pop(ENDS_WITH_STDIN, ""):  # not for the children of this process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        number = signal.SIGKILL if how == "kill" else signal.SIGTERM
        threading.Thread(target=_await_end, args=(number,), daemon=True).start()


def _await_end(number: int) -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), number)
