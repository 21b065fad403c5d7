"""Errors with exit codes and messages of one line, and suggestions for misspelt names."""

from __future__ import annotations

import importlib
import math
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

from metarl.core.messages import escape_unencodable, notify, show


class MetarlError(Exception):
    """Base of the errors that end a command.

    The message says in one line what is wrong and where, with a hint; `exit_code` is the status of
    the process.
    """

    exit_code = 1


class ConfigError(MetarlError):
    """A flag, a preset or the name of a run folder is unusable; nothing has been written."""

    exit_code = 2


class RunExists(ConfigError):
    """The folder of a new run exists; runs are never overwritten."""


class EnvironmentContractError(MetarlError):
    """An environment violates the contract of `BatchEnv`."""

    exit_code = 3


class NumericalError(MetarlError):
    """A number that training depends on is not finite."""

    exit_code = 4


class CheckpointError(MetarlError):
    """A run has no intact checkpoint, or the folder is no run."""

    exit_code = 5


class ResourceError(MetarlError):
    """The machine lacks a GPU, memory, disk space, or a package that is not always installed."""

    exit_code = 6


class Preempted(MetarlError):
    """The run was stopped by a signal, is saved and can be resumed."""

    exit_code = 75


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP as an exception, so that code which handles Ctrl-C handles it too.

    Attributes:
        number: The signal.
    """

    def __init__(self, *args: object, number: int = signal.SIGTERM):
        super().__init__(*args)
        self.number = number


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a command; a terminal sends SIGHUP when it is closed, as by a lost ssh."""


def interrupt(number: int, frame: object) -> None:
    """Handles SIGINT, SIGTERM and SIGHUP.

    Raises:
        KeyboardInterrupt: Always; Terminated for SIGTERM and SIGHUP.
    """
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number=number)


@contextmanager
def handle_signals(
    handler: Callable[[int, Any], None] | signal.Handlers,
    numbers: Sequence[int] = STOPPING,
) -> Generator[None]:
    """Gives signals to a handler inside the block, and to those before it afterwards.

    Does nothing outside the main thread, the only one in which Python handles signals. A SIGHUP
    that is ignored, as below nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    numbers = [n for n in numbers if n != signal.SIGHUP or not is_ignored]
    handlers = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, before in zip(numbers, handlers, strict=True):
            signal.signal(number, before)


def require(ok: bool, field: str, value: object, hint: str) -> None:
    """Checks the value of a field.

    Args:
        ok: The value is usable.
        field: Dotted name as in the config.
        value: The value.
        hint: The usable values, after "must be".

    Raises:
        ConfigError: Not ok; the message names field, value and hint.
    """
    if not ok:
        raise ConfigError(f"{field} = {value!r}: must be {hint}")


def require_package(name: str, extra: str, subject: str) -> Any:
    """Imports a package that not every installation has.

    Args:
        name: The module.
        extra: Extra of metarl that installs it.
        subject: What needs it, the beginning of the message.

    Raises:
        ResourceError: It cannot be imported; the message has the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = f"install it with: pip install 'metarl-robots[{extra}]'"
        raise ResourceError(f"{subject}: {error}; {hint}") from error


@contextmanager
def name_failures(where: str) -> Generator[None]:
    """Converts exceptions of learners and environments to MetarlErrors that name the place.

    Args:
        where: Prefix of the message, for example "iteration 12".

    Raises:
        MetarlError: For one of the same class.
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
        hint = "free some, or take fewer --sampler.num-tasks in a new run"
        raise ResourceError(f"{where}: no memory left; {hint}") from error


_ALLOCATOR = (
    *("DefaultCPUAllocator", "not enough memory", "Storage size calculation overflowed"),
    "can't start new thread",
)
"""Parts of the messages of torch's allocator, which raises a RuntimeError."""


_LOADER = "failed to map segment", "annot allocate memory"
"""Parts of the messages of the loader of libraries."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception says that memory is missing."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _ALLOCATOR)


def run_command(command: Callable[[], None]) -> int:
    """Runs a command, prints an error as one line and returns the exit code.

    Standard streams that are closed are opened on the null device before, so that no file takes
    their descriptor. As in a shell, Ctrl-C is 130, SIGTERM 143 and SIGHUP 129, unless the command
    raises a Preempted for them.

    Raises:
        Exception: A bug; its traceback will be printed without control characters.
    """
    open_standard_streams()
    escape_unencodable()
    try:
        with handle_signals(interrupt, [signal.SIGTERM, signal.SIGHUP]):
            _require_directory()
            command()
            sys.stdout.flush()
    except MetarlError as error:
        return _report(error)
    except BrokenPipeError:
        # the reader, as in `... | head`, has ended; without this Python prints an error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _report(ResourceError("the reader of the output has ended"))
    except OSError as error:
        return _report(ResourceError(" ".join(str(error).split())))
    except MemoryError:
        return _report(ResourceError("no memory left"))
    except ImportError as error:  # of a library that the limit of `ulimit -v` leaves no room for
        if not any(text in str(error) for text in _LOADER):
            sys.excepthook = _show_bug
            raise
        hint = "raise the limit of this shell (ulimit -v)"
        return _report(ResourceError(f"the memory is too small to load a library; {hint}"))
    except RuntimeError as error:
        if not any(text in str(error) for text in _ALLOCATOR):
            sys.excepthook = _show_bug
            raise
        hint = "choose smaller sizes, such as --sampler.num-tasks or those of the network"
        return _report(ResourceError(f"the machine has too little memory; {hint}"))
    except Exception:
        sys.excepthook = _show_bug
        raise
    except KeyboardInterrupt as error:
        notify(f"interrupted{f'; {error}' if str(error) else ''}")
        return 128 + (error.number if isinstance(error, Terminated) else signal.SIGINT)
    return 0


def _require_directory() -> None:
    """Requires that the current directory exists: libraries end the process without it.

    Raises:
        ConfigError: It was deleted.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError("the current directory was deleted; change to another one") from error


def open_standard_streams() -> None:
    """Opens the standard streams that were closed, as by `>&-`, on the null device."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")


def _report(error: MetarlError) -> int:
    prefix = "" if isinstance(error, Preempted) else "error: "
    notify(f"{prefix}{error}")
    return error.exit_code


def _show_bug(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Prints a traceback, which may hold texts of others."""
    lines = traceback.format_exception(kind, error, trace)
    show("".join(lines), end="", stream=sys.stderr)


# --- suggestions for misspelt names ---------------------------------------------------------------


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns "; did you mean X?" for the most similar of the names, or "" if none is similar.

    Two names are similar if they differ by a few typing errors, if one abbreviates the words of the
    other (`ant-direction`, `ant-dir`), or if one is the beginning or end of the other and has at
    least half of its words (`ppo`, `sb3-ppo`). A dotted name may lack its groups: `inner-lr` is
    `learner.inner-lr`. A flag is never similar to a name without dashes.
    """
    choices = [choice for choice in names if choice.startswith("-") is name.startswith("-")]
    distances = [_name_distance(_split(name), _split(choice)) for choice in choices]
    smallest = min(distances, default=math.inf)
    if smallest == math.inf:
        return ""
    return f"; did you mean {choices[distances.index(smallest)]}?"


def _split(name: str) -> list[str]:
    return name.lstrip("-").lower().replace("_", "-").split(".")


def _name_distance(given: list[str], known: list[str]) -> float:
    if len(given) != len(known):
        given, known = given[-1:], known[-1:]
    return sum(_part_distance(*pair) for pair in zip(given, known, strict=True))


def _part_distance(given: str, known: str) -> float:
    """Returns a number that orders similar texts, infinity for texts that are not similar."""
    if given == known:
        return 0.0
    words = re.split("[-/]", given), re.split("[-/]", known)
    same_count = len(words[0]) == len(words[1])
    if same_count and all(map(_is_abbreviation, *words)):
        return 0.5
    edits = _edit_distance(given, known)
    few_edits = 3 * edits <= max(len(given), len(known))
    if few_edits and (not same_count or all(map(_is_typo, *words))):
        return edits
    short, long = sorted(words, key=len)
    is_end = short in (long[: len(short)], long[-len(short) :])
    return edits if is_end and 2 * len(short) >= len(long) else math.inf


def _is_abbreviation(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return one == other or (len(short) >= 3 and long.startswith(short))


def _is_typo(one: str, other: str) -> bool:
    return _edit_distance(one, other) <= max(1, max(len(one), len(other)) // 3)


def _edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Counts the letters to insert, remove, replace or exchange with their neighbour."""
    last, row = [0], list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before_last, last, row = last, row, [i]
        for j, wanted in enumerate(other, 1):
            edits = min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and (letter, wanted) == (other[j - 2], one[i - 2]):
                edits = min(edits, before_last[j - 2] + 1)
            row.append(edits)
    return row[-1]
