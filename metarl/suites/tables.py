"""Tables of results in Markdown, made from the CSV of suites, and their places in documents.

A document marks the place of a table by two comments:

    <!-- results: {files: [results/headline.csv], rows: [ant-dir rl2, ant-dir maml-trpo]} -->
    <!-- end of results -->

`rows` are environments with a label, in their order; without it the table has all. Those without
results are listed in `not_run` too, and are left blank; any other name is a mistake. Where several
files have a label of an environment, the first file counts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metarl.config.parser import merge
from metarl.core.errors import ConfigError, nearest, run_command
from metarl.core.machine.files import write_atomically
from metarl.core.machine.yaml_files import parse_yaml
from metarl.core.messages import format_number
from metarl.evaluation import seeds
from metarl.suites.records import Row, read_rows

HEADER = (
    *("task", "learner", "training", "without adaptation", "first episode", "second", "fourth"),
    *("without noise", "oracle"),
)
"""Titles of the columns.

Without noise: the first and the second episode.
"""

_ROLLOUTS = (0, 1, 3)
"""Rollouts of the columns first episode, second and fourth."""


@dataclass(frozen=True)
class Experiment:
    """The seeds of one entry of a suite.

    Attributes:
        rows: Their rows, of all rollouts.
    """

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """One of the rows, for what they have in common."""
        return self.rows[0]

    @property
    def seeds(self) -> list[int | None]:
        """The seeds, in order; None is a seed that is not known."""
        return list(dict.fromkeys(row.seed for row in self.rows))

    def at(self, rollout: int) -> list[Row]:
        """Returns the row of every seed for a rollout; empty unless all seeds have one."""
        rows = [row for row in self.rows if row.rollout == rollout]
        return rows if len(rows) == len(self.seeds) else []


@dataclass(frozen=True)
class _Table:
    """Files and entries that a mark in a document names."""

    files: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()


# --- tables ---------------------------------------------------------------------------------------


def group_rows(files: Sequence[Sequence[Row]]) -> list[Experiment]:
    """Sorts rows into experiments, those of an environment together.

    Of several files with an environment and label the first counts. Returns on different versions
    of an environment are not comparable, so only rows of its newest version are kept.

    Args:
        files: The rows of each file.
    """
    newest: dict[str, int] = {}
    for row in (row for rows in files for row in rows):
        newest[row.env] = max(row.env_version or 0, newest.get(row.env, 0))
    groups: dict[str, dict[str, list[Row]]] = {}
    for rows in files:
        known = {(env, label) for env, labels in groups.items() for label in labels}
        for row in rows:
            if (row.env, row.label) not in known and (row.env_version or 0) == newest[row.env]:
                groups.setdefault(row.env, {}).setdefault(row.label, []).append(row)
    return [Experiment(tuple(rows)) for labels in groups.values() for rows in labels.values()]


def make_table(
    experiments: Sequence[Experiment], rows: Sequence[str] = (), not_run: Sequence[str] = ()
) -> str:
    """Returns a table in Markdown: a row for each learner, its baselines beside it.

    Args:
        experiments: As `group_rows` returns them.
        rows: The rows in their order, "<environment> <label>"; by default all.
        not_run: Those of `rows` that have no results yet; they are blank.

    Raises:
        ConfigError: A row has no results and is not in `not_run`, or the other way round; the
            message names the nearest.
    """
    by_name = {
        f"{each.first.env} {each.first.label}": each
        for each in experiments
        if each.first.role in ("learner", "scratch")
    }
    lines = [HEADER, ("---",) * len(HEADER)]
    _check_names(rows, not_run, by_name)
    for name in rows or by_name:
        if name in not_run:
            env, _, label = name.partition(" ")
            lines.append((env, label, *[""] * (len(HEADER) - 2)))
            continue
        experiment = by_name[name]
        env = experiment.first.env
        lines.append(_cells(experiment, [each for each in experiments if each.first.env == env]))
    return "".join(f"| {' | '.join(map(_escape, cells))} |\n" for cells in lines)


def _check_names(rows: Sequence[str], not_run: Sequence[str], known: Collection[str]) -> None:
    for name in rows:
        if name not in known and name not in not_run:
            hint = nearest(name, sorted(known)) or "; list it in not_run if it is to stay blank"
            raise ConfigError(f"rows: {name} has no results{hint}")
    for name in not_run:
        if name in known:
            raise ConfigError(f"not_run: {name} has results; take it out of the list")
        if name not in rows:
            raise ConfigError(f"not_run: {name} is not in rows{nearest(name, rows)}")


def _escape(cell: str) -> str:
    """Returns a cell as Markdown: a bar and a line break would end it."""
    return " ".join(cell.split()).replace("|", r"\|")


def _cells(experiment: Experiment, of_env: Sequence[Experiment]) -> tuple[str, ...]:
    first = experiment.first
    baselines = {each.first.role: each for each in of_env}
    multi_task, oracle = baselines.get("multi-task"), baselines.get("oracle")
    if multi_task:
        without = f"{_format_returns(multi_task.at(0))}, multi-task policy"
    else:
        name, value = max(first.references.items(), key=lambda item: item[1], default=("", 0.0))
        without = f"{format_return(value)}, {name}" if name else ""
    silent = [_format_mean_without_noise(experiment.at(k)) for k in (0, 1)]
    return (
        first.env if first.held_out else f"{first.env} (test = train)",
        first.label if first.role == "learner" else f"{first.label} (trained on each task)",
        _describe_training(experiment),
        without,
        *(_format_returns(experiment.at(k)) for k in _ROLLOUTS),
        ", ".join(filter(None, silent)),
        _format_returns(oracle.at(0)) if oracle else "",
    )


def _describe_training(experiment: Experiment) -> str:
    rows = experiment.at(experiment.first.rollout)
    texts = [f"{len(rows)} seed{'s' if len(rows) > 1 else ''}"]
    steps = [row.steps for row in rows if row.steps is not None]
    hours = [row.hours for row in rows if row.hours is not None]
    if len(steps) == len(rows):
        texts.append(f"{np.mean(steps) / 1e6:.1f} M steps")
    if len(hours) == len(rows):
        texts.append(_format_hours(float(np.mean(hours))))
    return ", ".join(texts)


def _format_hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 2 else f"{60 * hours:.0f} min"


def _format_returns(rows: Sequence[Row]) -> str:
    """Formats the mean return over seeds, with its 95 % interval if that is known."""
    if not rows:
        return ""
    mean, low, high = combine(rows)
    if low is None or high is None:
        return format_return(mean)
    return f"{format_return(mean)} [{format_return(low)}, {format_return(high)}]"


def combine(rows: Sequence[Row]) -> tuple[float, float | None, float | None]:
    """Returns the mean return of a rollout over seeds, and its 95 % interval.

    One seed keeps the interval of its evaluation, which is over tasks. For several seeds it is that
    of `seeds.over_seeds`; where the returns of single tasks are not known, from the seeds'
    means alone.

    Args:
        rows: One row for each seed, of the same rollout.
    """
    if len(rows) == 1:
        return rows[0].mean, rows[0].ci95_low, rows[0].ci95_high
    runs, num_numbers = [], 0
    for row in rows:
        if all(each.per_task for each in rows):
            numbers: Sequence[int] = row.task_numbers
            if not numbers:  # all tasks differ, also from those of the other seeds
                numbers = range(num_numbers, num_numbers + len(row.per_task))
                num_numbers = numbers.stop
            runs.append(([[number] for number in numbers], np.array([row.per_task])))
        else:
            runs.append(([[0]], np.array([[row.mean]])))
    returns = seeds.over_seeds(runs, 0).returns
    return (returns["mean"][0], *returns["ci95"][0])


def _format_mean_without_noise(rows: Sequence[Row]) -> str:
    values = [row.mean_without_noise for row in rows]
    known = [value for value in values if value is not None]
    return format_return(float(np.mean(known))) if known and len(known) == len(values) else ""


def format_return(value: float) -> str:
    """Formats a return with about three digits."""
    return format_number(value, 0 if abs(value) >= 99.95 else 1)


# --- documents ------------------------------------------------------------------------------------

_BLOCK = re.compile(
    r"(?P<begin><!-- results: (?P<table>\{.*?\}) -->\n).*?(?P<end><!-- end of results -->)",
    re.DOTALL,
)


def rewrite(text: str, root: Path, where: str = "") -> str:
    """Returns a document with its tables made from their CSV files.

    Args:
        text: The document.
        root: Folder to which the names of the files are relative.
        where: Prefix of a message: the name of the document.

    Raises:
        ConfigError: There is no mark, or it cannot be read, or a file of it.
    """
    if not _BLOCK.search(text):
        raise ConfigError(f"{where}has no table: <!-- results: {{files: [...]}} -->")

    def make(match: re.Match[str]) -> str:
        tree = parse_yaml(match["table"], where)
        mark = merge(_Table(), tree, where=where)
        experiments = group_rows([read_rows(root / name) for name in mark.files])
        try:
            table = make_table(experiments, mark.rows, mark.not_run)
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from error
        return f"{match['begin']}{table}{match['end']}"

    return _BLOCK.sub(make, text)


def main(paths: Sequence[str]) -> int:
    """Rewrites the tables of documents; file names are relative to the current folder."""

    def command() -> None:
        if not paths:
            raise ConfigError("python -m metarl.suites.tables: name a document")
        for path in map(Path, paths):
            text = path.read_text(encoding="utf-8")
            write_atomically(path, rewrite(text, Path(), f"{path}: "))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
