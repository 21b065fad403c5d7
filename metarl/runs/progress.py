"""Progress of a training on the terminal."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol, TextIO

_LINE_EVERY = 2.0
"""Least time between two lines of progress where there is no terminal [s]."""


class _Progress(Protocol):
    """What a person sees of a run."""

    def show(self, values: Mapping[str, Any], left: float) -> None: ...

    def close(self) -> None: ...


def _cells(values: Mapping[str, Any], total: int, left: float) -> dict[str, str]:
    """Title -> text of everything that is shown."""

    def number(key: str, form: str) -> str:
        value = values.get(key)
        return "-" if value is None else format(value, form)

    return {
        "iteration": f"{values['iteration'] + 1}/{total}",
        "steps": number("env_steps", ","),
        "steps/s": number("steps_per_second", ",.0f"),
        "return": f"{number('return_pre', '.1f')} -> {number('return_post', '.1f')}",
        "kl": number("kl", ".4f"),
        "left": str(timedelta(seconds=round(left))) if math.isfinite(left) else "-",
    }


class _Lines:
    """A line an iteration, for a file or a pipe; not more than one every `_LINE_EVERY` seconds."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream, self._total = stream, total
        self._printed_at = -math.inf
        self._held_back: str | None = None

    def show(self, values: Mapping[str, Any], left: float) -> None:
        cells = _cells(values, self._total, left)
        line = "  ".join(f"{title} {text}" for title, text in cells.items())
        now = time.monotonic()
        if now - self._printed_at >= _LINE_EVERY or values["iteration"] + 1 == self._total:
            self._printed_at = now
            self._print(line)
        else:
            self._held_back = line

    def close(self) -> None:
        if self._held_back is not None:
            self._print(self._held_back)

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
        self._held_back = None


class _Table:
    """The last iterations as a table that a terminal draws in place."""

    def __init__(self, stream: TextIO, total: int) -> None:
        from rich.console import Console
        from rich.live import Live

        self._total = total
        self._rows: deque[dict[str, str]] = deque(maxlen=8)
        # No refreshing thread: it would wake up beside the physics threads.
        self._live = Live(console=Console(file=stream), auto_refresh=False)
        self._live.start()

    def show(self, values: Mapping[str, Any], left: float) -> None:
        from rich.table import Table

        self._rows.append(_cells(values, self._total, left))
        titles = {"return": "return before -> after", "left": "time left"}
        table = Table(*(titles.get(title, title) for title in self._rows[-1]))
        for column in table.columns:
            column.justify = "right"
        for row in self._rows:
            table.add_row(*row.values(), style="bold" if row is self._rows[-1] else "dim")
        self._live.update(table, refresh=True)

    def close(self) -> None:
        self._live.stop()
