"""Begin and end of a worker process."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1
"""Option of prctl in Linux's prctl.h. It also ends a plug-in that never lets go of the GIL."""


def prepare(output: Any, *, dies_with_parent: bool) -> None:
    """Separates this process from the terminal of its parent.

    It becomes a process group, which is killed together with the simulators that the plug-in
    starts; it may start some with `multiprocessing`, which daemons may not.

    Args:
        output: Writable `multiprocessing` connection that takes what the plug-in prints.
        dies_with_parent: The system is to kill this process with the thread that started it.
    """
    with suppress(OSError):
        os.setpgid(0, 0)
    multiprocessing.current_process().daemon = False
    ignore_interrupts()
    _redirect(output)
    if dies_with_parent and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def ignore_interrupts() -> None:
    """Ignores Ctrl-C: the trainer receives it too, and finishes its iteration."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _redirect(output: Any) -> None:
    """Sends the standard streams of Python and C to the connection."""
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    output.close()
    options: dict[str, Any] = {"buffering": 1, "errors": "backslashreplace", "closefd": False}
    sys.stdout = open(1, "w", encoding="utf-8", **options)
    sys.stderr = open(2, "w", encoding="utf-8", **options)


def _exit_with_parent() -> None:
    """Exits when the parent process ends, even if a step hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(1.0)  # in which the environments may close
        leave()


def leave() -> None:
    """Ends this process at once, and what the plug-in has started."""
    for child in multiprocessing.active_children():
        child.kill()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(0)
