"""The log of a run: metrics.jsonl, TensorBoard, and the progress that a person watches."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from metarl.core.errors import CheckpointError, ResourceError
from metarl.core.files import write_atomically
from metarl.runs.progress import _Lines, _Progress, _Table

TIME_FIELDS = frozenset({"seconds", "steps_per_second"})
"""Keys that differ between two runs that are otherwise the same bit for bit; so do keys `time/...`."""

_FILE = "metrics.jsonl"


def without_time(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a record that a resumed run repeats bit for bit."""
    kept = (key for key in record if key not in TIME_FIELDS and not key.startswith("time/"))
    return {key: record[key] for key in kept}


class RunLog:
    """Writes one record an iteration to every place where it is looked for.

    Attributes:
        last_record: The last record of a resumed run before it goes on, else None; a trainer adds
            its "seconds" to its own clock.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        total_iterations: int,
        resume: bool = False,
        start_iteration: int = 0,
        tensorboard: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        """Opens the log; of a resumed run, cuts it back to what came before `start_iteration`.

        Args:
            run_dir: Folder of the run, which exists.
            total_iterations: Of the whole run, for the time left.
            resume: Go on with the metrics.jsonl that is there.
            start_iteration: The first iteration that will be written.
            tensorboard: Write events too.
            stream: Where progress goes, by default the standard output: a live table if it is a
                terminal, else a line an iteration, at most one every 2 s beside first and last.

        Raises:
            FileExistsError: Not `resume`, and there is a metrics.jsonl.
            CheckpointError: A record before `start_iteration` cannot be read.
        """
        self._path = path = run_dir / _FILE
        self.last_record = _cut_back(path, start_iteration) if resume else None
        # without a buffer, that would fail once more when the file is closed
        self._file = open(path, "ab" if resume else "xb", buffering=0)
        self._events: Any = None
        self._hook: Callable[[Any], Any] | None = None
        self._run_dir, self._tensorboard = run_dir, tensorboard
        self._purge = start_iteration if resume else None
        stream = stream or sys.stdout
        progress = _Table if stream.isatty() else _Lines
        self._progress: _Progress = progress(stream, total_iterations)
        self._total = total_iterations
        self._recent: deque[tuple[int, float]] = deque(maxlen=20)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record and shows it.

        Args:
            record: iteration, env_steps, seconds [s, since the run's start], steps_per_second,
                return_pre, return_post, kl [nats] and any other numbers; a group is a key `group/name`
                or a mapping. A number that is not finite is written as null and its key is listed
                under "non_finite", since JSON has no word for it.

        Raises:
            ResourceError: The disk refuses; names the file. metrics.jsonl is as it was.
        """
        values = dict(_flatten(record))
        non_finite = [k for k, v in values.items() if type(v) is float and not math.isfinite(v)]
        line: dict[str, Any] = {k: None if k in non_finite else v for k, v in values.items()}
        if non_finite:
            line["non_finite"] = non_finite
        with _naming(self._path):
            _append(self._file, (json.dumps(line, allow_nan=False) + "\n").encode())
        if self._tensorboard:
            with _naming(self._run_dir / "events.out.tfevents.*"):
                self._write_events(values)
        self._progress.show(values, self._time_left(values))

    def _write_events(self, values: Mapping[str, Any]) -> None:
        self._events = self._events or self._open_events()
        for key, value in values.items():
            if key != "iteration" and isinstance(value, (int, float)):
                tag = key if "/" in key else f"train/{key}"
                self._events.add_scalar(tag, value, values["iteration"])

    def _open_events(self) -> Any:
        """Imports TensorBoard with the first record: a kill in these two seconds finds a saved run."""
        from torch.utils.tensorboard import SummaryWriter

        self._hook = threading.excepthook
        threading.excepthook = _quiet_for_tensorboard(self._hook)
        return SummaryWriter(str(self._run_dir), purge_step=self._purge, flush_secs=10)

    def sync(self) -> None:
        """Brings every record to the disk; to be called before a checkpoint that stands on them.

        Raises:
            ResourceError: The disk refuses; names the file.
        """
        with _naming(self._path):
            os.fsync(self._file.fileno())
        if self._events is not None:
            with suppress(OSError):  # comes again from the next write; no checkpoint stands on it
                self._events.flush()

    def close(self) -> None:
        """Shows the last record if it was held back, and closes the files.

        Raises:
            ResourceError: The disk refuses the last events; names the file.
        """
        self._progress.close()
        self._file.close()
        try:
            if self._events is not None:
                with _naming(self._run_dir / "events.out.tfevents.*"):
                    self._events.close()
        finally:
            threading.excepthook = self._hook or threading.excepthook

    def __enter__(self) -> Self:
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
            if error is None:  # else what came first says more
                raise

    def _time_left(self, values: Mapping[str, Any]) -> float:
        """Remaining time at the pace of the last 20 iterations [s]."""
        done, seconds = values["iteration"] + 1, values.get("seconds", math.nan)
        self._recent.append((done, seconds))
        first_done, first_seconds = self._recent[0]
        if done > first_done:
            return (self._total - done) * (seconds - first_seconds) / (done - first_done)
        return (self._total - done) * seconds / done


@contextmanager
def _naming(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        cure = "make room on its disk"
        raise ResourceError(f"{path}: {error.strerror or error}; {cure}") from error


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


def _quiet_for_tensorboard(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Has TensorBoard's thread fail without a traceback: what it met comes again from the next call."""

    def quiet(args: Any) -> None:
        theirs = type(args.thread).__module__.startswith("tensorboard.")
        if not (theirs and issubclass(args.exc_type, OSError)):
            hook(args)

    return quiet


def _flatten(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Turns groups into keys `group/name`, and numbers of NumPy and torch into Python's."""
    found: list[tuple[str, Any]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{key}/")
        else:
            found.append((prefix + key, value.item() if hasattr(value, "item") else value))
    return found


def read_records(path: Path) -> Generator[tuple[str, dict[str, Any]]]:
    """Yields each line of a metrics.jsonl with its record; nothing of a file that is not there.

    The half line at the end of a file, of a write that was killed, is left out.

    Raises:
        CheckpointError: A line is no record; names file and line.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        fault = CheckpointError(f"{path}, line {number}: no record; cut the file there")
        try:
            text = line.decode("utf-8")  # half a line that json has written can be decoded too
        except UnicodeDecodeError as error:
            raise fault from error
        try:
            record = json.loads(text)
            record["iteration"] = int(record["iteration"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                return
            raise fault from error
        yield text, record


def _cut_back(path: Path, start_iteration: int) -> dict[str, Any] | None:
    """Keeps the records before an iteration and returns the last of them.

    What was written after the checkpoint that a run goes on from, and the half line of a killed
    write, come again.
    """
    kept, last = [], None
    for line, record in read_records(path):
        if record["iteration"] >= start_iteration:
            break
        kept.append(line)
        last = record
    if len(kept) != start_iteration:
        line = f"{path} has {len(kept)} of the {start_iteration} records before the checkpoint"
        print(f"metarl: warning: {line}", file=sys.stderr)
    write_atomically(path, "".join(line + "\n" for line in kept))
    return last


# ------------------------------------------------------------------------------------------ progress
