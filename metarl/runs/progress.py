"""Progress on the terminal: a table or lines for a training, a heartbeat for any long call.

Only a thread of its own draws in place, so that a Ctrl-C, which Python
raises in the main thread, never interrupts a drawing.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol, TextIO

from metarl.config.schema import TrainConfig
from metarl.core.messages import format_number, printable, show

_LINE_EVERY = 2.0
"""Least time between two lines of finished iterations where there is no terminal [s]."""

_SILENCE = 9.0
"""Longest time without a line while an iteration runs [s]; users were promised at most 10 s."""

_CLEAR_LINE = "\r\x1b[2K"


def is_terminal(stream: TextIO) -> bool:
    """Returns whether text can be drawn in place."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def terminal_width(stream: TextIO) -> int:
    """Returns the columns of a terminal, as `rich` finds them; 80 if it does not say."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


_TAIL = 30
"""Characters at the end of a line that are kept where its middle is cut: the time left."""


def shorten(text: str, stream: TextIO) -> str:
    """Cuts the middle of a line that is drawn in place, so that it fits the terminal.

    Of a line that wraps, the terminal would clear the last part only.
    """
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    room = terminal_width(stream) - 1 - wide  # the cursor needs a column
    if len(text) <= room:
        return text
    tail = max(1, min(_TAIL, room // 2))
    return f"{text[: max(0, room - tail - 3)]}...{text[-tail:]}"


@contextmanager
def heartbeat(text: str, *, stream: TextIO | None = None, every: float = 5.0) -> Generator[None]:
    """Shows that a long call still runs: "text ... 12 s".

    A terminal shows one line that is updated in place and cleared at the end. A file or a pipe gets
    a line every `every` seconds, so a short call prints nothing. Must not be nested.

    Args:
        text: Names the call, for example "evaluating on 20 tasks".
        stream: Destination, by default the standard output.
        every: Time between two lines where there is no terminal [s].
    """
    out = stream or sys.stdout
    terminal, began, shown = is_terminal(out), time.monotonic(), printable(text)
    start, end = (_CLEAR_LINE, "") if terminal else ("", "\n")

    def beat() -> None:
        line = f"{shown} ... {time.monotonic() - began:.0f} s"
        out.write(f"{start}{shorten(line, out) if terminal else line}{end}")
        out.flush()

    pulse = _Pulse(beat, 1.0 if terminal else every)
    try:
        yield
    finally:
        pulse.stop()
        if terminal:
            out.write(_CLEAR_LINE)
            out.flush()


class _Pulse:
    """Calls an action every `interval` seconds from a thread, until it is stopped."""

    def __init__(self, action: Callable[[], None], interval: float) -> None:
        self._action, self._interval = action, interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _loop(self) -> None:
        with suppress(OSError, ValueError):  # the reader of the pipe is gone, or the file is closed
            while not self._done.wait(self._interval):
                self._action()


_FILM_EPISODES = 3000
"""Episodes whose training takes as long as a film: 2,960 for navigation-2d, 3,456 for ant-dir."""


def estimate_finish(config: TrainConfig[Any], num_adaptations: int = 3) -> float:
    """Estimates the time of the evaluation and the film after training [iterations' collection].

    An iteration has K + 1 rollouts of N tasks and E episodes. The evaluation has
    `num_adaptations` + 1 rollouts of its tasks, with E episodes too.

    Args:
        config: The settings of the run.
        num_adaptations: Of the evaluation.
    """
    sampler, trainer = config.sampler, config.trainer
    evaluation = trainer.evaluate_tasks * (num_adaptations + 1) * sampler.num_episodes
    film = _FILM_EPISODES if trainer.video else 0
    per_iteration = sampler.num_tasks * sampler.num_episodes * (sampler.num_adaptations + 1)
    return (evaluation + film) / per_iteration


class TimeLeft:
    """Estimate of the time left, from the records of the iterations since the start.

    The pace is that of the last 20 iterations or of half of all, whichever is more, so that costly
    updates that come now and then count as often as they come. The work after training has no
    updates, and goes by the time to collect.

    Args:
        total: Iterations of the whole run.
        finish: Time of the work after training [iterations' collection].
    """

    def __init__(self, total: int, finish: float) -> None:
        self._total, self._finish = total, finish
        self._records: list[tuple[int, float, float]] = []

    def update(self, record: Mapping[str, Any]) -> float:
        """Adds the record of an iteration, and returns the time left [s]."""
        done, seconds = record["iteration"], record.get("seconds", math.nan)
        self._records.append((done, seconds, record.get("time/collect", math.nan)))
        recent = self._records[-max(20, len(self._records) // 2) :]
        first_done, first_seconds, _ = recent[0]
        pace = seconds / done
        if done > first_done:
            pace = (seconds - first_seconds) / (done - first_done)
        collect = sum(each for _, _, each in recent) / len(recent)
        # an older record, or a learner with a loop of its own, does not say what collecting took
        collect = min(collect, pace) if math.isfinite(collect) else pace
        return (self._total - done) * pace + self._finish * collect


def format_time_left(seconds: float) -> str:
    """Formats an estimate: hours, minutes and seconds, or whole days from 100 days on."""
    days = seconds / 86_400
    return str(timedelta(seconds=round(seconds))) if days < 100 else f"{days:,.0f} days"


class Progress(Protocol):
    """Display of a training."""

    def start(self) -> None:
        """Begins to show that the next iteration runs."""

    def show(self, values: Mapping[str, Any], left: float) -> None:
        """Shows the record of a finished iteration and the time left [s]."""

    def notify(self, text: str) -> None:
        """Shows a message; safe in a signal handler."""

    def close(self) -> None:
        """Shows what is not shown yet and ends the display."""


def make_progress(stream: TextIO, total: int, done: int) -> Progress:
    """Returns a table for a terminal, or lines for a file or a pipe.

    Args:
        stream: Destination.
        total: Iterations of the whole run.
        done: Iterations before this start.
    """
    kind = ProgressTable if is_terminal(stream) else ProgressLines
    return kind(stream, total, done)


def _format_cells(values: Mapping[str, Any], total: int, left: float) -> dict[str, str]:
    """Returns title -> text of everything that is shown."""

    def count(key: str) -> str:
        value = values.get(key)
        return "-" if value is None else f"{value:,.0f}"

    def number(key: str, decimals: int) -> str:
        return format_number(values.get(key), decimals)

    time_left = f"about {format_time_left(left)}" if math.isfinite(left) else "-"
    return {
        "iteration": f"{values['iteration']}/{total}",
        "steps": count("env_steps"),
        "steps/s": count("steps_per_second"),
        "return": f"{number('return_pre', 1)} -> {number('return_post', 1)}",
        "kl": number("kl", 4),
        "left": time_left,
    }


class ProgressLines:
    """Prints a line an iteration, at most one every `_LINE_EVERY` seconds, and heartbeats."""

    def __init__(self, stream: TextIO, total: int, done: int) -> None:
        self._stream, self._total = stream, total
        self._printed_at = -math.inf
        self._waiting_line: str | None = None
        self._running = done + 1
        self._began = self._heard_at = time.monotonic()
        self._lock = threading.Lock()
        self._pulse: _Pulse | None = None

    def start(self) -> None:
        """Begins to print a heartbeat while an iteration is long."""
        self._began = self._heard_at = time.monotonic()
        self._pulse = self._pulse or _Pulse(self._beat, 1.0)

    def show(self, values: Mapping[str, Any], left: float) -> None:
        """Prints the record, or keeps it for `close` if the last line is too recent."""
        cells = _format_cells(values, self._total, left)
        line = "  ".join(f"{title} {text}" for title, text in cells.items())
        now = time.monotonic()
        with self._lock:
            self._running, self._began = values["iteration"] + 1, now
            if now - self._printed_at >= _LINE_EVERY or values["iteration"] == self._total:
                self._printed_at, self._waiting_line = now, None
                self._print(line)
            else:
                self._waiting_line = line

    def notify(self, text: str) -> None:
        """Writes the message to the standard error output."""
        os.write(2, f"\n{text}\n".encode())  # print is not safe in a signal handler

    def close(self) -> None:
        """Ends the heartbeat and prints the last record if it was kept."""
        if self._pulse is not None:
            self._pulse.stop()
        if self._waiting_line is not None:
            self._print(self._waiting_line)
            self._waiting_line = None

    def _beat(self) -> None:
        with self._lock:
            now = time.monotonic()
            patience = 5.0 if self._printed_at == -math.inf else _SILENCE
            if now - self._heard_at >= patience and self._running <= self._total:
                took = f"{now - self._began:.0f} s"
                self._print(f"iteration {self._running}/{self._total} ... {took}")

    def _print(self, line: str) -> None:
        self._heard_at = time.monotonic()
        show(line, stream=self._stream)


_TITLES = {"return": "return before -> after", "left": "time left"}
"""Titles of the columns of a table that have another one than in a line."""

_RANKS = ("iteration", "return", "left", "steps", "steps/s", "kl")
"""Columns of a table; a narrow terminal has the first of them."""


def _choose_columns(rows: Sequence[Mapping[str, str]], width: int) -> dict[str, int]:
    """Returns the columns that fit, in their order, with their least widths [characters].

    A title can wrap between words, a number cannot.
    """
    cells = _format_cells({"iteration": 0}, 0, math.nan)
    words = {name: _TITLES.get(name, name).split() for name in cells}
    least = {name: max(map(len, [*words[name], *(row[name] for row in rows)])) for name in cells}
    room, fits = width - 1, set[str]()  # a frame has a line more than columns
    for name in _RANKS:
        room -= least[name] + 3
        if room < 0 and fits:
            break
        fits.add(name)
    return {name: size for name, size in least.items() if name in fits}


class ProgressTable:
    """Draws the last iterations as a table in place.

    The thread wakes up for a record and once a second, rarely enough not to slow the physics
    threads.
    """

    def __init__(self, stream: TextIO, total: int, done: int) -> None:
        self._stream, self._total = stream, total
        self._rows: deque[dict[str, str]] = deque(maxlen=8)
        self._running, self._began = done + 1, time.monotonic()
        self._notice = ""
        self._wake, self._closing = threading.Event(), False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the drawing thread."""
        if self._thread is None:
            self._began = time.monotonic()
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()

    def show(self, values: Mapping[str, Any], left: float) -> None:
        """Adds a row."""
        self._rows.append(_format_cells(values, self._total, left))
        self._running, self._began = values["iteration"] + 1, time.monotonic()
        self.start()
        self._wake.set()

    def notify(self, text: str) -> None:
        """Shows the message below the table within a second."""
        self._notice = text  # setting the event would take a lock that this thread may hold

    def close(self) -> None:
        """Draws the table a last time, whole, and leaves it on the screen."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _draw(self) -> None:
        from rich.console import Console
        from rich.live import Live

        with suppress(OSError, ValueError):  # the terminal is gone
            console = Console(file=self._stream)
            with Live(console=console, auto_refresh=False) as live:
                closing = False
                while not closing:
                    closing = self._closing  # before drawing, so that the last drawing has all rows
                    live.update(self._build(closing, console.width), refresh=True)
                    if not closing:
                        self._wake.wait(1.0)
                        self._wake.clear()

    def _build(self, closing: bool, width: int) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        rows = list(self._rows)
        table = Table()
        shown = _choose_columns(rows, width)
        for name, least in shown.items():
            table.add_column(_TITLES.get(name, name), justify="right", min_width=least)
        for row in rows:
            cells = (row[name] for name in shown)
            table.add_row(*cells, style="bold" if row is rows[-1] else "dim")
        # A short last line: the "^C" that a terminal echoes there never wraps to a new line.
        status = [self._notice] if self._notice else []
        if not closing and self._running <= self._total:
            took = time.monotonic() - self._began
            status.insert(0, f"iteration {self._running}/{self._total} ... {took:.0f} s")
        return Group(table, *(Text(line) for line in status))
