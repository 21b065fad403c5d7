"""Tasks of plug-ins as rows of numbers, and back.

A plug-in's task may be a number, a 1-D array, a list or tuple of numbers, or a dict of these, as in garage and learn2learn
({"direction": 1.0}): then it travels as a row of D numbers with names. Any other task is opaque and travels as its
address (draw, size, index): the task is sample_tasks(generator(draw), size)[index], a function of three numbers that can be
written down, sent to any process and taken up again after a restart, while the object itself goes nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from metarl.core.tasks import Variable

ADDRESS = tuple(Variable(name, "1", -np.inf, np.inf) for name in ("draw", "size", "index"))
"""The numbers of an opaque task: which draw (negative: of test tasks), of how many tasks, which of them."""

MAX_DRAW = 2**32
"""Draws are numbered below this; float64 holds them exactly."""


def generator(draw: int) -> np.random.Generator:
    """The stream that a draw of tasks is made from."""
    return np.random.Generator(np.random.Philox(key=draw))


@dataclass(frozen=True)
class Part:
    """One entry of a task.

    Attributes:
        kind: The Python or NumPy type of the entry.
        dtype: Of its numbers.
        size: How many, None for a single number.
    """

    kind: type
    dtype: np.dtype
    size: int | None

    def restored(self, numbers: np.ndarray) -> Any:
        """The entry of float64 numbers (size,)."""
        array = numbers.astype(self.dtype)
        if self.kind is np.ndarray:
            return array
        if self.size is not None:
            return self.kind(array.tolist())
        return array[0] if issubclass(self.kind, np.generic) else array[0].item()


def _part(entry: Any) -> Part | None:
    """What kind of numbers an entry consists of; None if it is opaque."""
    if not isinstance(entry, (bool, int, float, np.generic, np.ndarray, list, tuple)):
        return None
    if isinstance(entry, (list, tuple)) and type(entry) not in (list, tuple):
        return None  # a named tuple means more than its numbers
    try:
        array = np.asarray(entry)
    except ValueError:  # ragged
        return None
    if array.dtype.kind not in "biuf" or array.ndim > 1 or not array.size:
        return None
    if not np.array_equal(array.astype(float).astype(array.dtype), array):
        return None  # a number that float64 does not hold
    return Part(type(entry), array.dtype, len(array) if array.ndim else None)


@dataclass(frozen=True)
class TaskForm:
    """How a plug-in's tasks are written as rows of D numbers.

    Attributes:
        keys: Keys of a dict; () for a task that is a single entry.
        parts: What each entry consists of.
    """

    keys: tuple[str, ...]
    parts: tuple[Part, ...]

    def names(self) -> list[str]:
        """Names of the D numbers."""
        found: list[str] = []
        for key, part in zip(self.keys or ("task",), self.parts, strict=True):
            found += [key] if part.size is None else [f"{key}_{i}" for i in range(part.size)]
        return found

    def row(self, task: Any) -> np.ndarray:
        """Writes a task as a row (D,).

        Raises:
            ValueError: The task has another form.
        """
        if form_of(task) != self:
            raise ValueError(f"the tasks are not all of one form: {task!r:.200}")
        entries = [task[key] for key in self.keys] if self.keys else [task]
        return np.concatenate([np.ravel(np.asarray(entry, dtype=float)) for entry in entries])

    def task(self, row: np.ndarray) -> Any:
        """The task of a row (D,), of the types it was sampled with."""
        entries, start = [], 0
        for part in self.parts:
            size = part.size or 1
            entries.append(part.restored(row[start : start + size]))
            start += size
        return dict(zip(self.keys, entries, strict=True)) if self.keys else entries[0]


def form_of(task: Any) -> TaskForm | None:
    """How a task can be written as numbers; None if it is opaque."""
    if isinstance(task, Mapping):
        if type(task) is not dict or not task or not all(isinstance(key, str) for key in task):
            return None
        keys, entries = tuple(task), list(task.values())
    else:
        keys, entries = (), [task]
    parts = [_part(entry) for entry in entries]
    return None if None in parts else TaskForm(keys, tuple(part for part in parts if part))


def common_form(tasks: Sequence[Any]) -> TaskForm | None:
    """The form that all tasks have; None if they are opaque or of different forms."""
    forms = [form_of(task) for task in tasks]
    return forms[0] if all(form == forms[0] for form in forms) else None


@dataclass(frozen=True)
class PluginTasks:
    """The tasks of a plug-in, drawn by itself.

    Attributes:
        variables: The D numbers of a task.
        held_out: Tasks do not repeat from draw to draw, or there are test tasks.
        opaque: The numbers say where a task was drawn and nothing of what it is: an oracle or a plot over the task
            space has no use for them.
        draw: Draws tasks (size, D) in a worker.
        test_tasks: There are tasks kept for testing.
        testing: These are they.
    """

    variables: tuple[Variable, ...]
    held_out: bool
    opaque: bool
    draw: Callable[[int, int], np.ndarray] = field(repr=False)
    test_tasks: bool = False

    testing: bool = False

    @property
    def test(self) -> PluginTasks:
        """The tasks to test on: those of sample_test_tasks where the plug-in has one, else fresh draws."""
        return replace(self, testing=self.test_tasks)

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) [units of `variables`]."""
        draw = int(rng.integers(MAX_DRAW))
        return self.draw(-1 - draw if self.testing else draw, num_tasks)
