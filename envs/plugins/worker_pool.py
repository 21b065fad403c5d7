"""Starts worker processes, sends them messages, and detects workers that hang or have died."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from metarl.envs.plugins import main_module
from metarl.envs.plugins.interface import Facts
from metarl.envs.plugins.worker import Block, serve

_STARTING = threading.Lock()
"""Held while a process starts, because the environment variables are changed meanwhile."""


class Died(Exception):
    """A worker has died; `code` is its exit status, negative for a signal."""

    def __init__(self, code: int | None):
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        if self.code is None or self.code >= 0:
            return f"exit status {self.code}"
        return signal.Signals(-self.code).name


class Failed(Exception):
    """A worker reported a failure, or hangs; `row` is the row of the batch, or None."""

    def __init__(self, row: int | None, message: str):
        super().__init__(message)
        self.row = row


class Worker:
    """Handle of one worker process.

    Args:
        make: The maker of environments.
        facts: Their properties, if known.
        timeout: Maximum time without progress [s].
    """

    def __init__(self, make: Callable[..., Any], facts: Facts | None, timeout: float):
        main_module.exit_if_imported_by_worker()
        context = multiprocessing.get_context("spawn")
        self._timeout = timeout
        self._progress = context.RawArray("q", 2)
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=serve,
            # the system counts the end of the thread that starts it as the end of the parent
            args=(other, self._progress, threading.current_thread() is threading.main_thread()),
            name=main_module.WORKER,
            daemon=True,
        )
        needs_main = main_module.defines(make)
        with _STARTING, _single_threaded(), nullcontext() if needs_main else main_module.hide():
            self._process.start()
        other.close()  # so that the death of the worker closes the pipe
        try:
            self.facts: Facts = self.ask("begin", make, facts)
        except BaseException:
            self.kill()
            raise

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Sends a message and waits for the answer."""
        self.send(verb, *arguments)
        return self.answer()

    def send(self, verb: str, *arguments: Any) -> None:
        """Sends a message.

        Raises:
            Died: The worker has died.
        """
        try:
            self._connection.send((verb, arguments))
        except OSError as error:
            raise Died(self._exit_code()) from error

    def answer(self) -> Any:
        """Waits for the answer.

        Raises:
            Died: The worker has died.
            Failed: It reports a failure, or made no progress within the time-out and was killed.
        """
        done, since = self._progress[0], time.monotonic()
        try:
            while not self._connection.poll(min(1.0, self._timeout / 4)):
                if self._progress[0] != done:
                    done, since = self._progress[0], time.monotonic()
                elif time.monotonic() - since > self._timeout:
                    row = self._progress[1]
                    self.kill()
                    raise Failed(row, f"no answer for {self._timeout:g} s")
            kind, *rest = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise Died(self._exit_code()) from error
        if kind == "failed":
            raise Failed(*rest)
        return rest[0]

    @property
    def row(self) -> int:
        """The row that the worker called last."""
        return self._progress[1]

    def _exit_code(self) -> int | None:
        self._process.join(1.0)
        return self._process.exitcode

    def kill(self) -> None:
        """Kills the process: a plug-in that hangs does not react to anything milder."""
        self._process.kill()
        self._process.join()
        self._connection.close()


@dataclass
class Resources:
    """Worker processes and shared memory, which must be released explicitly."""

    workers: list[Worker] = field(default_factory=list)
    block: Block | None = None

    def release(self) -> None:
        """Kills the workers and deletes the shared memory."""
        for worker in self.workers:
            worker.kill()
        self.workers.clear()
        if self.block is not None:
            self.block.release(unlink=True)
            self.block = None


@contextmanager
def _single_threaded() -> Generator[None]:
    """Makes processes started inside compute on one thread each: there is one per core."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
