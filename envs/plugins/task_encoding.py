"""Encodes the tasks of plug-ins as rows of numbers, and decodes them.

A plug-in's task may be a number, a 1-D array, a list or tuple of numbers, or a dict of these, as in
garage and learn2learn ({"direction": 1.0}). Such a task is encoded as a row of D named numbers. Any
other task is opaque and is encoded as its address (draw, size, index): the task is
sample_tasks(make_generator(draw), size)[index]. The address can be stored and sent to any process;
the object itself is never pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from metarl.core.tasks import Variable

ADDRESS = tuple(Variable(name, "1", -np.inf, np.inf) for name in ("draw", "size", "index"))
"""Numbers of an opaque task: which draw (negative: test tasks), its size, the index in it."""

MAX_DRAW = 2**32
"""Draws are numbered below this; float64 holds them exactly."""


def make_generator(draw: int) -> np.random.Generator:
    """Makes the random generator of one draw of tasks."""
    return np.random.Generator(np.random.Philox(key=draw))


_NUMBERS = (bool, int, float, np.generic)


def _restore_number(kind: type, number: float) -> Any:
    """Returns a number in its type; one that is no longer whole becomes a float."""
    if issubclass(kind, (int, np.integer)) and kind is not bool and not number.is_integer():
        return float(number)
    return kind(number)


@dataclass(frozen=True)
class Entry:
    """Type of one entry of a task.

    Attributes:
        kind: Python or NumPy type of the entry.
        kinds: Types of its numbers: of each for a list or tuple, which may mix them.
        dtype: Type of the numbers of an array.
        size: Count of its numbers; None for a single number or an array () of one.
    """

    kind: type
    kinds: tuple[type, ...]
    dtype: np.dtype
    size: int | None

    def restore(self, numbers: np.ndarray) -> Any:
        """Returns the entry with float64 numbers (size,), in its original type."""
        if self.kind is np.ndarray:
            return numbers.astype(self.dtype).reshape(() if self.size is None else self.size)
        found = [_restore_number(*pair) for pair in zip(self.kinds, numbers.tolist(), strict=True)]
        return found[0] if self.size is None else self.kind(found)

    def merge(self, other: Entry) -> Entry | None:
        """Returns the type of two entries, None if they differ in more than the types of numbers.

        Where whole and other types occur, whole numbers are int. Booleans are no numbers.
        """
        if self == other:
            return self
        shapes = [(e.size, e.kind if e.size is not None else None) for e in (self, other)]
        if self.kind is np.ndarray or shapes[0] != shapes[1]:
            return None
        kinds = [_merge_kinds(*pair) for pair in zip(self.kinds, other.kinds, strict=True)]
        if None in kinds:
            return None
        found = tuple(kind for kind in kinds if kind)
        return replace(self, kinds=found, kind=found[0] if self.size is None else self.kind)


def _merge_kinds(one: type, other: type) -> type | None:
    kinds = {one, other}
    if len(kinds) == 1:
        return one
    if flags := [kind for kind in kinds if issubclass(kind, (bool, np.bool_))]:
        return bool if len(flags) == 2 else None
    # rows hold float64, so nothing is lost
    return int if any(issubclass(kind, (int, np.integer)) for kind in kinds) else float


def _infer_entry(value: Any) -> Entry | None:
    """Returns the type of a task's entry, or None if it is opaque."""
    if not isinstance(value, (*_NUMBERS, np.ndarray, list, tuple)):
        return None
    if isinstance(value, (list, tuple)) and type(value) not in (list, tuple):
        return None  # the fields of a named tuple have a meaning that numbers would lose
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return None
    if array.dtype.kind not in "biuf" or array.ndim > 1 or not array.size:
        return None
    if not np.array_equal(array.astype(float).astype(array.dtype), array):
        return None  # float64 cannot hold the number
    size = len(array) if array.ndim else None
    if isinstance(value, np.ndarray):
        return Entry(np.ndarray, (), array.dtype, size)
    items = [value] if size is None else value
    if not all(isinstance(item, _NUMBERS) and float(item) == item for item in items):
        return None
    # the types of the numbers say more than that of the array, which is float for (3, 0.86)
    return Entry(type(value), tuple(map(type, items)), np.dtype(float), size)


@dataclass(frozen=True)
class TaskForm:
    """Encoding of a plug-in's tasks as rows of D numbers.

    Attributes:
        keys: Keys of a dict; () for a task that is a single entry.
        entries: Type of each entry.
    """

    keys: tuple[str, ...]
    entries: tuple[Entry, ...]

    def names(self) -> list[str]:
        """Returns the names of the D numbers."""
        names: list[str] = []
        for key, entry in zip(self.keys or ("task",), self.entries, strict=True):
            names += [key] if entry.size is None else [f"{key}_{i}" for i in range(entry.size)]
        return names

    def merge(self, other: TaskForm) -> TaskForm | None:
        """Returns the encoding of the tasks of both, None if they differ too much."""
        if self.keys != other.keys or len(self.entries) != len(other.entries):
            return None
        entries = [a.merge(b) for a, b in zip(self.entries, other.entries, strict=True)]
        return None if None in entries else replace(self, entries=tuple(e for e in entries if e))

    def encode(self, task: Any) -> np.ndarray:
        """Encodes a task as a row (D,).

        Raises:
            ValueError: The task has another form.
        """
        form = infer_form(task)
        if form is None or self.merge(form) is None:
            raise ValueError(f"the tasks are not all of one form: {task!r:.200}")
        values = [task[key] for key in self.keys] if self.keys else [task]
        return np.concatenate([np.ravel(np.asarray(value, dtype=float)) for value in values])

    def decode(self, row: np.ndarray) -> Any:
        """Decodes a row (D,) into a task of the types that were sampled."""
        values, start = [], 0
        for entry in self.entries:
            size = entry.size or 1
            values.append(entry.restore(row[start : start + size]))
            start += size
        return dict(zip(self.keys, values, strict=True)) if self.keys else values[0]


def infer_form(task: Any) -> TaskForm | None:
    """Returns the encoding of a task, or None if the task is opaque."""
    if isinstance(task, Mapping):
        if type(task) is not dict or not task or not all(isinstance(key, str) for key in task):
            return None
        keys, values = tuple(task), list(task.values())
    else:
        keys, values = (), [task]
    entries = [_infer_entry(value) for value in values]
    return None if None in entries else TaskForm(keys, tuple(entry for entry in entries if entry))


def infer_common_form(tasks: Sequence[Any]) -> TaskForm | None:
    """Returns the encoding that all tasks share, or None if they are opaque or differ in form."""
    common, *others = (infer_form(task) for task in tasks)
    for form in others:
        if common is None or form is None:
            return None
        common = common if form == common else common.merge(form)
    return common


@dataclass(frozen=True)
class PluginTasks:
    """Task distribution of a plug-in, which draws the tasks itself.

    Attributes:
        variables: The D numbers of a task.
        held_out: Tasks do not repeat from draw to draw, or there are test tasks.
        opaque: The numbers are an address and do not describe the task, so an oracle that observes
            the task or a plot over the task space cannot use them.
        draw: Draws tasks (size, D) in a worker.
        has_test_tasks: The plug-in has `sample_test_tasks`.
        is_test: `sample` draws test tasks.
    """

    variables: tuple[Variable, ...]
    held_out: bool
    opaque: bool
    draw: Callable[[int, int], np.ndarray] = field(repr=False)
    has_test_tasks: bool = False
    is_test: bool = False

    @property
    def test(self) -> PluginTasks:
        """The test tasks: those of `sample_test_tasks` if the plug-in has it, else fresh draws."""
        return replace(self, is_test=self.has_test_tasks)

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) [units of `variables`]."""
        draw = int(rng.integers(MAX_DRAW))
        return self.draw(-1 - draw if self.is_test else draw, num_tasks)
