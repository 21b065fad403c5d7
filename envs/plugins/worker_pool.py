"""Starts worker processes, sends them messages, and detects workers that hang or have died."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from metarl.envs.plugins import main_module
from metarl.envs.plugins.interface import Facts
from metarl.envs.plugins.processes.block import Block
from metarl.envs.plugins.processes.output import Output
from metarl.envs.plugins.worker import CLOSE, serve

CLOSING = 3.0
"""Time that the environments of all workers have for closing [s]."""

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
    """A worker reported a failure, or hangs.

    Attributes:
        row: The row of the batch, or None.
        is_silent: The worker gave no answer in time.
    """

    def __init__(self, row: int | None, message: str, *, is_silent: bool = False):
        super().__init__(message)
        self.row, self.is_silent = row, is_silent


@dataclass
class Patience:
    """Time to wait for workers.

    Attributes:
        seconds: Maximum time without progress [s].
        is_hurried: The user wants to stop.
    """

    seconds: float
    is_hurried: bool = False

    def limit(self, slowest: float) -> float:
        """Returns the time to wait for a call of a worker whose slowest call took `slowest` [s]."""
        return min(self.seconds, max(3.0, 2.0 * slowest)) if self.is_hurried else self.seconds


class Worker:
    """Handle of one worker process.

    Args:
        make: The maker of environments.
        facts: Their properties, if known.
        patience: How long it is waited for.
        output: Takes what it prints.
    """

    def __init__(
        self, make: Callable[..., Any], facts: Facts | None, patience: Patience, output: Output
    ):
        main_module.exit_if_imported_by_worker()
        context = multiprocessing.get_context("spawn")
        self._patience, self._output, self._slowest = patience, output, 0.0
        self._progress = context.RawArray("q", 2)
        self._connection, other = context.Pipe()
        self._printed, printer = context.Pipe(duplex=False)
        is_in_main_thread = threading.current_thread() is threading.main_thread()
        self._process = context.Process(
            target=serve,
            # the system counts the end of the thread that starts it as the end of the parent
            args=(other, self._progress, printer, is_in_main_thread),
            name=main_module.WORKER,
            daemon=True,
        )
        needs_main = main_module.defines(make)
        with _STARTING, _single_threaded(), nullcontext() if needs_main else main_module.hide():
            self._process.start()
        other.close()  # so that the death of the worker closes the pipe
        printer.close()
        output.add(self._printed)
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
            while not self._connection.poll(min(0.5, self._patience.seconds / 4)):
                waited, limit = time.monotonic() - since, self._patience.limit(self._slowest)
                if self._progress[0] != done:
                    done, since = self._progress[0], time.monotonic()
                    self._slowest = max(self._slowest, waited)
                elif waited > limit:
                    row = self._progress[1]
                    self.kill()
                    text = f"no answer for {limit:g} s; --trainer.env-timeout waits longer"
                    raise Failed(row, text, is_silent=True)
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

    def close(self) -> None:
        """Asks the process to close its environments and to exit, and does not wait for it."""
        with suppress(OSError, ValueError):
            self._connection.send((CLOSE, ()))

    def kill(self, wait: float = 0.0) -> None:
        """Kills the process, and what the plug-in has started in its group.

        Args:
            wait: Time to wait for a process that closes [s]; one that hangs reacts to nothing.
        """
        connection.wait([self._process.sentinel], wait)
        assert self._process.pid is not None
        with suppress(OSError):  # there may be no such group, or none left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._output.remove(self._printed)


def exchange(
    workers: Mapping[int, Worker], make_message: Callable[[int], tuple[Any, ...]]
) -> tuple[list[Failed], dict[int, Died]]:
    """Sends each worker its message, then waits for all answers.

    Args:
        workers: By number.
        make_message: Returns the message to a number.

    Returns:
        The failures that workers reported, and the numbers of those that have died.
    """
    failures, dead = [], {}
    for number, worker in workers.items():
        try:
            worker.send(*make_message(number))
        except Died as error:
            dead[number] = error
    for number, worker in workers.items():
        if number in dead:
            continue
        try:
            worker.answer()
        except Died as error:
            dead[number] = error
        except Failed as error:
            failures.append(error)
    return failures, dead


@dataclass
class Resources:
    """Worker processes and shared memory, which must be released explicitly."""

    workers: list[Worker] = field(default_factory=list)
    block: Block | None = None

    def release(self) -> None:
        """Ends the workers, whose environments are closed, and deletes the shared memory."""
        for worker in self.workers:
            worker.close()
        deadline = time.monotonic() + CLOSING
        for worker in self.workers:
            worker.kill(max(0.0, deadline - time.monotonic()))
        self.workers.clear()
        if self.block is not None:
            self.block.release()
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
