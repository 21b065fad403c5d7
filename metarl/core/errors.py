"""The failures that end a command, each with its exit code and a message of one line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


class MetarlError(Exception):
    """What went wrong, where, and the cure, in one line; `exit_code` is the status of the process."""

    exit_code = 1


class ConfigError(MetarlError):
    """A flag, a preset or a run folder's name cannot be used; nothing has been written."""

    exit_code = 2


class RunExists(ConfigError):
    """The folder of a new run is there already; nothing is ever overwritten."""


class EnvironmentContractError(MetarlError):
    """An environment breaks the contract of `BatchEnv`."""

    exit_code = 3


class NumericalError(MetarlError):
    """A number that training stands on is not finite."""

    exit_code = 4


class CheckpointError(MetarlError):
    """No checkpoint of a run can be trusted, or the folder is no run."""

    exit_code = 5


class ResourceError(MetarlError):
    """The machine lacks what was asked for: a GPU, memory, disk space."""

    exit_code = 6


class Preempted(MetarlError):
    """Stopped from outside; the run is saved and can be resumed."""

    exit_code = 75


class Terminated(KeyboardInterrupt):
    """SIGTERM; whatever cleans up and says how to go on after Ctrl-C does so after it too."""


def interrupt(number: int, frame: object) -> None:
    """Handles SIGINT and SIGTERM: stops what runs.

    Raises:
        KeyboardInterrupt: Always; of SIGTERM it is a Terminated.
    """
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def require(ok: bool, field: str, value: object, cure: str) -> None:
    """Refuses a field's value.

    Args:
        ok: The value is usable.
        field: Dotted name as the config spells it.
        value: What was given.
        cure: What the value must be.

    Raises:
        ConfigError: Not ok; the message names field, value and cure.
    """
    if not ok:
        raise ConfigError(f"{field} = {value!r}: must be {cure}")


@contextmanager
def name_failures(where: str) -> Generator[None]:
    """Gives what learners and environments raise in a trial an exit code, and says where it was.

    Args:
        where: Put before the message, for example "iteration 12".

    Raises:
        MetarlError: As it was, with `where` before its message.
        NumericalError: For a FloatingPointError.
        EnvironmentContractError: For a ValueError, such as that of a task without a valid step.
        ResourceError: For a MemoryError.
    """
    try:
        yield
    except MetarlError as error:
        raise type(error)(f"{where}: {error}") from error
    except FloatingPointError as error:
        raise NumericalError(f"{where}: {error}") from error
    except ValueError as error:
        raise EnvironmentContractError(f"{where}: {error}") from error
    except MemoryError as error:
        cure = "free some, or take fewer --sampler.num-tasks in a new run"
        raise ResourceError(f"{where}: no memory left; {cure}") from error


def run_command(command: Callable[[], None]) -> int:
    """Turns a failure into one line and its exit code.

    Ctrl-C is 130 and SIGTERM 143, as a shell counts them, unless the command makes a Preempted of them.
    """
    try:
        with _terminated_as_by_ctrl_c():
            command()
            sys.stdout.flush()
    except MetarlError as error:
        return _report(error)
    except BrokenPipeError:
        # the reader of `... | head` has gone; Python would complain once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _report(ResourceError("nobody reads the output any more"))
    except OSError as error:
        return _report(ResourceError(" ".join(str(error).split())))
    except MemoryError:
        return _report(ResourceError("no memory left"))
    except KeyboardInterrupt as error:
        print(f"metarl: interrupted{f'; {error}' if str(error) else ''}", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    return 0


@contextmanager
def _terminated_as_by_ctrl_c() -> Generator[None]:
    """Without it SIGTERM would end the process on the spot, with half a film left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # python handles signals in the main thread only
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _report(error: MetarlError) -> int:
    mark = "metarl" if isinstance(error, Preempted) else "metarl: error"
    print(f"{mark}: {error}", file=sys.stderr)
    return error.exit_code
