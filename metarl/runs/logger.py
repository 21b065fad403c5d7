"""Log of a run: metrics.jsonl, a metric sink such as TensorBoard, and progress on the terminal.

Iterations count from 1. Files of versions that counted from 0 are read, and converted on resume.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

import numpy as np

from metarl.core.errors import CheckpointError, ResourceError
from metarl.core.machine.files import (
    Unreadable,
    name_disk_failures,
    parse_json,
    read_file,
    write_atomically,
)
from metarl.core.messages import warn
from metarl.core.trees import flatten
from metarl.runs.progress import Progress, TimeLeft, make_progress
from metarl.runs.sinks import MetricSink, read_settings

TIME_FIELDS = frozenset({"seconds", "steps_per_second"})
"""Keys that differ between two runs that are otherwise equal bit for bit, as do those below."""

_TIME_GROUPS = ("time/", "workers/")
"""Begins of such keys: times, and numbers of the workers of a cluster."""

_FILE = "metrics.jsonl"


def without_time(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a record that a resumed run repeats bit for bit."""
    kept = (key for key in record if key not in TIME_FIELDS and not key.startswith(_TIME_GROUPS))
    return {key: record[key] for key in kept}


class TrainingLog(Protocol):
    """Receiver of what a training tells of itself; see `RunLog`."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Receives the record of an iteration."""

    def notify(self, text: str) -> None:
        """Receives a message, also in a signal handler."""

    def sync(self) -> None:
        """Brings every record to the disk."""


class NoLog:
    """The log of a process that neither writes nor speaks, because another one does."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Does nothing."""

    def notify(self, text: str) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""


class RunLog:
    """Writes one record an iteration to metrics.jsonl, to a sink and to the terminal."""

    def __init__(
        self,
        run_dir: Path,
        *,
        total_iterations: int,
        resume: bool = False,
        start_iteration: int = 0,
        sink: MetricSink | None = None,
        finish_iterations: float = 0.0,
        stream: TextIO | None = None,
    ) -> None:
        """Opens the log; removes the records after `start_iteration` of a resumed run.

        Args:
            run_dir: Folder of the run, which exists.
            total_iterations: Iterations of the whole run, for the time left.
            resume: Continue the metrics.jsonl that is there.
            start_iteration: Iterations before this start, >= 0.
            sink: Second destination of the metrics; opened with the first record, closed here.
            finish_iterations: Time of the work after training, see `TimeLeft`.
            stream: Destination of progress, by default the standard output.

        Raises:
            FileExistsError: Not `resume`, and there is a metrics.jsonl.
            CheckpointError: A record up to `start_iteration` cannot be read.
        """
        self._path = path = run_dir / _FILE
        self._run_dir, self._sink, self._is_sink_open = run_dir, sink, False
        converts = resume and _starts_at_zero(path)
        self._kept = _cut_back(path, start_iteration) if resume else []
        # Old events have iterations on the x axis: they are written again with environment steps.
        last_step = _step(self._kept[-1]) if self._kept else 0
        self._start_step = 0 if converts else last_step
        # without a buffer, which would fail again when the file is closed
        self._file = open(path, "ab" if resume else "xb", buffering=0)
        self._time_left = TimeLeft(total_iterations, finish_iterations)
        self._progress: Progress = make_progress(
            stream or sys.stdout, total_iterations, start_iteration
        )

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record and shows it.

        Args:
            record: iteration (from 1), env_steps, seconds [s, since the start of the run],
                steps_per_second, return_pre, return_post, kl [nats] and any other numbers; a group
                is a key `group/name` or a mapping. A number that is not finite is written as null,
                as JSON has none, and its key is listed under "non_finite".

        Raises:
            ResourceError: The disk refuses; names the file. metrics.jsonl is as it was.
        """
        values = {key: _to_python(value) for key, value in flatten(record, "/").items()}
        non_finite = [k for k, v in values.items() if type(v) is float and not math.isfinite(v)]
        line: dict[str, Any] = {k: None if k in non_finite else v for k, v in values.items()}
        if non_finite:
            line["non_finite"] = non_finite
        with name_disk_failures(self._path):
            _append(self._file, (json.dumps(line, allow_nan=False) + "\n").encode())
        if self._sink is not None:
            self._open_sink(self._sink)
            self._sink.write(_step(values), _select_metrics(values))
        self._progress.show(values, self._time_left.update(values))

    def _open_sink(self, sink: MetricSink) -> None:
        """Opens the sink with the first record: a kill during its import finds a saved run."""
        if self._is_sink_open:
            return
        self._is_sink_open = True
        last = sink.open(read_settings(self._run_dir), self._run_dir, self._start_step)
        for record in self._kept:
            if _step(record) > last:
                sink.write(_step(record), _select_metrics(record))
        self._kept = []

    def notify(self, text: str) -> None:
        """Shows a message beside the progress; safe in a signal handler."""
        self._progress.notify(text)

    def sync(self) -> None:
        """Brings every record to the disk; to be called before a checkpoint that needs them.

        Raises:
            ResourceError: The disk refuses; names the file.
        """
        with name_disk_failures(self._path):
            os.fsync(self._file.fileno())
        if self._sink is not None and self._is_sink_open:
            self._sink.flush()

    def close(self) -> None:
        """Shows the last record if it is not shown yet, and closes the files.

        Raises:
            ResourceError: The disk refuses the last events; names the file.
        """
        self._progress.close()
        self._file.close()
        if self._sink is not None and self._is_sink_open:
            self._sink.close()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except ResourceError:
            if error is None:  # otherwise the first failure is the cause
                raise


def _append(file: FileIO, line: bytes) -> None:
    """Writes a line; if the disk refuses a part of it, the file is as it was."""
    size = os.fstat(file.fileno()).st_size
    try:
        while line:
            line = line[file.write(line) :]
    except OSError:
        with suppress(OSError):
            file.truncate(size)
        raise


def _to_python(value: Any) -> Any:
    """Converts scalars of NumPy and torch, without an import of torch."""
    is_json = value is None or isinstance(value, (bool, int, float, str, list, tuple))
    return value if is_json and not isinstance(value, np.generic) else value.item()


def _step(record: Mapping[str, Any]) -> int:
    """Returns the environment steps of a record, 0 if it lacks them."""
    return record.get("env_steps") or 0


def _select_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a record by group; `env_steps` is the x axis."""
    return {
        key if "/" in key else f"train/{key}": value
        for key, value in record.items()
        if key != "env_steps" and isinstance(value, (int, float))
    }


# --- metrics.jsonl -------------------------------------------------------------------------------


def read_records(path: Path) -> Generator[tuple[str, dict[str, Any]]]:
    """Yields each line of a metrics.jsonl with its record; nothing if there is no file.

    Skips the half line at the end of a file whose write was killed. Adds 1 to the iterations of a
    file that counts from 0.

    Raises:
        CheckpointError: A line is no record; names file and line.
    """
    first = None
    for text, record in _parse_records(path):
        first = record["iteration"] if first is None else first
        if first == 0:
            record["iteration"] += 1
            text = json.dumps(record)
        yield text, record


def _parse_records(path: Path) -> Generator[tuple[str, dict[str, Any]]]:
    """Yields lines and records as they are in the file; see `read_records`."""
    try:
        lines = read_file(path).splitlines() if path.exists() else []
    except (OSError, Unreadable) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        fault = CheckpointError(f"{path}, line {number}: no record; cut the file there")
        try:
            text = line.decode("utf-8")  # half a line that json has written can be decoded too
        except UnicodeDecodeError as error:
            raise fault from error
        try:
            record = parse_json(text)
            record["iteration"] = int(record["iteration"])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            if number == len(lines):
                return
            raise fault from error
        yield text, record


def _starts_at_zero(path: Path) -> bool:
    """Returns whether the file was written by a version that counted iterations from 0."""
    _, first = next(_parse_records(path), ("", {"iteration": 1}))
    return first["iteration"] == 0


def _cut_back(path: Path, start_iteration: int) -> list[dict[str, Any]]:
    """Keeps the records up to an iteration, counted from 1, and returns them.

    The run writes later records again, and so the half line of a killed write.
    """
    lines, kept = [], []
    for line, record in read_records(path):
        if record["iteration"] > start_iteration:
            break
        lines.append(line)
        kept.append(record)
    if len(kept) != start_iteration:
        lost = f"{path} has {len(kept)} of the {start_iteration} records before the checkpoint"
        warn(lost)
    write_atomically(path, "".join(line + "\n" for line in lines))
    return kept
