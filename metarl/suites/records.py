"""Results of suites as CSV: one row for each run and rollout, with full precision.

`per_task` has the numbers of all tasks, so means and intervals can be computed again without the
run folders. A field is empty where its number is not known.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from metarl.core.errors import ConfigError
from metarl.core.machine.files import parse_json, read_file, write_atomically
from metarl.runs import reader
from metarl.suites.stages import find_evaluation
from metarl.suites.suite import Run, Suite


@dataclass(frozen=True)
class Row:
    """One rollout of one run; the names of the fields are the columns of the CSV.

    Attributes:
        suite: Name of the suite.
        env: Name of the environment.
        env_version: Number of its definition.
        algo: Name of the learner.
        label: Name of the entry of the suite; its runs are the seeds of one experiment.
        role: learner, or a baseline: multi-task, oracle (observes the task) or scratch.
        seed: Of the run.
        rollout: Adaptations before the rollout, 0..K; 0 is the first episode.
        iterations: Of training.
        steps: Environment steps of training.
        hours: Wall-clock time of training [h].
        threads: Threads of training.
        machine: Processor, number of cores, and device.
        commit: Of the sources.
        held_out: The tasks are not those of training.
        num_tasks: N.
        episodes_per_task: E.
        mean: Mean return over tasks, with policy noise.
        ci95_low: Lower end of its 95 % interval over the tasks of this run.
        ci95_high: Upper end.
        mean_without_noise: Mean return of the policy's mode.
        references: Reference returns of policies that do not adapt, by name.
        per_task: (N,) mean returns of the tasks, with policy noise.
        per_task_without_noise: (N,) likewise, of the policy's mode.
        task_numbers: (N,) equal numbers mark equal tasks; empty if all differ.
        distance: Mean distance from start to end of an episode, with policy noise [m]; None for a
            robot whose base does not move.
    """

    suite: str
    env: str
    env_version: int | None
    algo: str
    label: str
    role: str
    seed: int | None
    rollout: int
    iterations: int | None
    steps: int | None
    hours: float | None
    threads: int | None
    machine: str
    commit: str
    held_out: bool
    num_tasks: int | None
    episodes_per_task: int | None
    mean: float
    ci95_low: float | None
    ci95_high: float | None
    mean_without_noise: float | None
    references: dict[str, float]
    per_task: list[float]
    per_task_without_noise: list[float]
    task_numbers: list[int]
    distance: float | None = None


COLUMNS = [field.name for field in fields(Row)]


def collect_rows(suite: Suite) -> list[Row]:
    """Returns the rows of the runs that are evaluated.

    Raises:
        CheckpointError: A run folder cannot be read.
    """
    return [row for run in suite.runs for row in _read_run(suite.name, run)]


def _read_run(suite: str, run: Run) -> list[Row]:
    result = find_evaluation(run)
    if result is None:
        return []
    silent, distances = result.get("without_noise"), result.get("distance")
    data = reader.load(run.folder)
    seconds, record, returns = data.column("seconds"), data.record, result["returns"]
    numbers = _number_tasks(result["tasks"])
    rows = []
    for k, mean in enumerate(returns["mean"]):
        if run.role == "scratch" and k < len(returns["mean"]) - 1:
            continue  # its entries are a learning curve, of which the last is the result
        low, high = returns["ci95"][k]
        rows.append(
            Row(
                suite=suite,
                env=run.config.env,
                env_version=result["env_version"],
                algo=run.config.algo,
                label=run.label,
                role=run.role,
                seed=run.config.seed,
                rollout=0 if run.role == "scratch" else k,
                iterations=result["checkpoint"]["iteration"],
                steps=result["checkpoint"]["env_steps"],
                hours=float(seconds[-1]) / 3600 if np.isfinite(seconds[-1:]).any() else None,
                threads=record.get("threads"),
                machine=_describe_machine(record),
                commit=str(record.get("git") or ""),
                held_out=result["held_out"],
                num_tasks=result["num_tasks"],
                episodes_per_task=result["episodes_per_task"],
                mean=mean,
                ci95_low=low,
                ci95_high=high,
                mean_without_noise=silent["returns"]["mean"][k] if silent else None,
                references=result["floors"],
                per_task=returns["per_task"][k],
                per_task_without_noise=silent["returns"]["per_task"][k] if silent else [],
                task_numbers=numbers,
                distance=distances["mean"][k] if distances else None,
            )
        )
    return rows


def _describe_machine(record: dict[str, Any]) -> str:
    cores = record.get("num_processors")
    parts = [record.get("processor"), cores and f"{cores} cores"]
    parts += [record.get("device")] if record.get("device") != "cpu" else []
    return ", ".join(str(part) for part in parts if part)


def _number_tasks(tasks: Sequence[Any]) -> list[int]:
    """Numbers the distinct tasks in their order; returns an empty list if all tasks differ."""
    names = [repr(np.asarray(task).tolist()) for task in tasks]
    distinct = sorted(set(names))
    return [distinct.index(name) for name in names] if len(distinct) < len(names) else []


# --- files ----------------------------------------------------------------------------------------


def add_rows(path: Path, rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Merges rows into a CSV, which need not exist; returns its rows, and how many were replaced.

    Other processes that add rows to the file wait meanwhile, so that all rows are kept.

    Raises:
        ConfigError: The file is no CSV of results; it stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_with(path):
        merged, num_replaced = merge_rows(read_rows(path) if path.exists() else [], rows)
        write_rows(path, merged)
    return merged, num_replaced


@contextmanager
def _alone_with(path: Path) -> Generator[None]:
    """Waits for other processes inside this block for the same file.

    They lock a hidden file beside it, as the file itself is replaced by every write.
    """
    mark = path.with_name(f".{path.name}.lock")
    while True:
        handle = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(mark)):
                break
        os.close(handle)  # the process before has removed the mark
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
        os.close(handle)


def merge_rows(old: Sequence[Row], new: Sequence[Row]) -> tuple[list[Row], int]:
    """Replaces the rows of the runs that have new ones; returns all rows, and how many left.

    A run is an environment, learner, label and seed. Rows of other runs stay, in their order, and
    come first.

    Args:
        old: Rows of a file.
        new: Rows of a suite.
    """
    fresh = {_identify(row) for row in new}
    kept = [row for row in old if _identify(row) not in fresh]
    return [*kept, *new], len(old) - len(kept)


def _identify(row: Row) -> tuple[str, str, str, int | None]:
    """Returns what a run is known by; its rows are its rollouts."""
    return row.env, row.algo, row.label, row.seed


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as CSV, atomically; creates the folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_to_text(vars(row)[name]) for name in COLUMNS])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())


def _to_text(value: Any) -> str:
    if value is None or value in ([], {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value)


_LONGEST_FIELD = 1 << 30
"""Characters of a field: `per_task` has 20 for each of up to a million tasks."""


def read_rows(path: Path) -> list[Row]:
    """Reads what `write_rows` wrote.

    Raises:
        ConfigError: The file is missing or is no such CSV; names file, line and column.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        text = read_file(path).decode("utf-8")
        lines = list(csv.reader(io.StringIO(text, newline="")))  # a label may have line breaks
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not lines or lines[0] != COLUMNS:
        raise ConfigError(f"{path}, line 1: must be {','.join(COLUMNS)}")
    kinds = get_type_hints(Row)
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(COLUMNS):
            count = f"{len(cells)} fields"
            raise ConfigError(f"{path}, line {number}: {count}, must be {len(COLUMNS)}")
        values = {}
        for name, cell in zip(COLUMNS, cells, strict=True):
            try:
                values[name] = _from_text(cell, kinds[name])
            except ValueError:
                raise ConfigError(f"{path}, line {number}: {name} = {cell!r}") from None
        rows.append(Row(**values))
    return rows


def _from_text(cell: str, kind: Any) -> Any:
    if kind is str:
        return cell
    name = str(kind)
    if cell == "" and ("None" in name or name.startswith(("list", "dict"))):
        return [] if name.startswith("list") else {} if name.startswith("dict") else None
    return parse_json(cell)
