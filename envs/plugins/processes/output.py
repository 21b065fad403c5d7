"""Output of plug-ins: the first lines are shown, and the rest is read away."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from metarl.core.messages import LONGEST, notify, printable

MAX_LINES = 20
"""Lines of all workers of an environment that are shown."""


class Output:
    """Reads what the workers of an environment print, in a thread of its own.

    The standard output of the trainer is for its own lines, so the first lines of a plug-in go to
    the standard error, with its name.

    Args:
        name: Name of the environment.
    """

    def __init__(self, name: str):
        self._name = name
        self._lines = 0
        self._open: dict[Connection, bytes] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, connection: Connection) -> None:
        """Reads from a connection until its writers have closed it."""
        with self._lock:
            self._open[connection] = b""
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, daemon=True)
                self._thread.start()

    def remove(self, connection: Connection) -> None:
        """Reads what is left, and closes the connection, also where others still write to it."""
        with self._lock:
            if connection in self._open:
                while connection.poll(0) and self._read(connection):
                    pass
                self._end(connection)

    def _loop(self) -> None:
        while True:
            with self._lock:
                known = list(self._open)
                if not known:
                    self._thread = None
                    return
            ready = []
            with suppress(OSError, ValueError):  # one was closed meanwhile
                ready = wait(known, timeout=0.2)
            with self._lock:
                for connection in ready:
                    if connection in self._open and not self._read(connection):
                        self._end(connection)

    def _read(self, connection: Connection) -> bool:
        """Reads what there is; returns False at the end."""
        try:
            chunk = os.read(connection.fileno(), 1 << 16)
        except OSError:
            chunk = b""
        *lines, rest = (self._open[connection] + chunk).split(b"\n")
        self._open[connection] = rest[-4 * LONGEST :]
        for line in lines:
            self._show(line)
        return bool(chunk)

    def _end(self, connection: Connection) -> None:
        self._show(self._open.pop(connection))
        connection.close()

    def _show(self, line: bytes) -> None:
        if self._lines > MAX_LINES or not line.strip():
            return
        self._lines += 1
        text = printable(line.decode(errors="replace").rstrip(), longest=LONGEST)
        if self._lines > MAX_LINES:
            text = "... (more is not shown)"
        notify(f"{self._name} prints: {text}")
