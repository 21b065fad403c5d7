"""Results of a kind of trial, as a table and as JSON."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

Break = Callable[[], None] | None
"""Breaks the product in the process that calls it; None leaves it whole."""


@dataclass(frozen=True)
class Row:
    """Result of one kind of trial.

    Attributes:
        kind: Name of the kind.
        number: Trials made.
        failures: One line for each trial that the product failed.
        seconds: Wall-clock time [s].
        note: What else was counted.
    """

    kind: str
    number: int
    failures: tuple[str, ...]
    seconds: float
    note: str = ""

    @property
    def is_good(self) -> bool:
        """There were trials, and none failed."""
        return self.number > 0 and not self.failures

    @property
    def result(self) -> str:
        """Trials passed of trials made."""
        if not self.number:
            return "not possible here"
        return f"{self.number - len(self.failures):,} of {self.number:,}"

    def record(self) -> dict[str, Any]:
        """Returns the row as JSON holds it."""
        return {**asdict(self), "failures": list(self.failures)}


def run_trials(kind: str, trials: Iterable[tuple[str, Callable[[], str]]]) -> Row:
    """Runs trials one after another.

    Args:
        kind: Name of the kind.
        trials: Name -> a function that returns what went wrong, "" if nothing did. A text that
            begins with "note: " is counted, and is no failure.
    """
    began, number, failures, notes = time.monotonic(), 0, [], Counter()
    for name, trial in trials:
        fault = trial()
        number += 1
        if fault.startswith("note: "):
            notes[fault.removeprefix("note: ")] += 1
        elif fault:
            failures.append(f"{name}: {' '.join(fault.split())}")
            print(f"{kind}: {failures[-1]:.300}", file=sys.stderr, flush=True)
    note = ", ".join(f"{text} {count}" for text, count in sorted(notes.items()))
    return Row(kind, number, tuple(failures), time.monotonic() - began, note)


HEAD = "| trial | passed | time | |\n| --- | --- | --- | --- |\n"


def to_markdown(rows: Iterable[Row], about: dict[str, str]) -> str:
    """Returns a Markdown table; `about` explains each kind."""
    lines = [
        f"| {about[row.kind]} | {row.result} | {row.seconds:.0f} s | {row.note} |\n" for row in rows
    ]
    return HEAD + "".join(lines)


def to_text(rows: Iterable[Row]) -> str:
    """Returns a table for the terminal, with the first failures below each kind."""
    lines = []
    for row in rows:
        note = f"  ({row.note})" if row.note else ""
        lines.append(f"{row.kind:14} {row.result:>18} {row.seconds:7.1f} s{note}")
        lines += [f"    {failure:.300}" for failure in row.failures[:10]]
    return "\n".join(lines)
