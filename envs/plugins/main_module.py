"""The main module of the program, which a worker imports again if the environment is in it.

`multiprocessing` lets every process that it starts run the script of its parent again. A script
without `if __name__ == "__main__":` would then start workers in its workers. So a worker runs the
script only if it must find the maker of environments there.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import Any

from metarl.envs.plugins.values import PluginFailure

WORKER = "metarl-worker"
"""Name of every worker process, which it has before it runs the script."""

NO_GUARD = 86
"""Exit status of a worker whose script makes an environment when it is imported."""

HINT = 'put the calls of the script under if __name__ == "__main__":, or move {} to a module'
"""What to do about a script that a worker cannot import."""

_ORIGIN = ("__spec__", "__file__")
"""Attributes of the main module from which `multiprocessing` imports it."""

_HIDDEN = threading.Lock()
"""Held while the attributes are cleared."""


def defines(make: Callable[..., Any]) -> bool:
    """Returns whether a worker needs the main module in order to unpickle a maker.

    Raises:
        Exception: The maker cannot be pickled.
    """
    return b"__main__" in bytes(ForkingPickler.dumps(make))


def is_importable() -> bool:
    """Returns whether the main module comes from a file; a notebook and `python -c` have none."""
    main = vars(sys.modules["__main__"])
    with _HIDDEN:
        return any(main.get(name) is not None for name in _ORIGIN)


def require_reachable(name: str, make: Callable[..., Any]) -> bool:
    """Requires that workers can get a maker; returns whether they need the main module for it.

    Args:
        name: Registry name, for the message.
        make: The maker.

    Raises:
        PluginFailure: It cannot be pickled, or the main module cannot be imported.
    """
    try:
        is_in_main = defines(make)
    except Exception as error:
        raise PluginFailure(f"{name}: {make!r} cannot be sent to a worker: {error}") from error
    if is_in_main and not is_importable():
        hint = "move it to a module, a file such as my_env.py"
        raise PluginFailure(f"{name}: a worker cannot import it from a notebook; {hint}")
    return is_in_main


@contextmanager
def hide() -> Generator[None]:
    """Makes processes started inside leave the main module alone.

    `multiprocessing` finds nothing to import if the module does not tell where it comes from.
    """
    main = vars(sys.modules["__main__"])
    with _HIDDEN:
        origin = {name: main[name] for name in _ORIGIN if name in main}
        main.update(dict.fromkeys(origin))
        try:
            yield
        finally:
            main.update(origin)


def exit_if_imported_by_worker() -> None:
    """Ends a worker that still imports the script: the script has no guard.

    At once and silently, because the parent process reports the status.
    """
    if multiprocessing.current_process().name != WORKER:
        return
    # during the import `__main__` is still the module that multiprocessing began with
    imported = sys.modules.get("__mp_main__", sys.modules["__main__"])
    if imported is not sys.modules["__main__"]:
        os._exit(NO_GUARD)
