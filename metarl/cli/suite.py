"""The verb `suite`: runs a declared set of trainings, and writes its report and its CSV."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from metarl.core.errors import ConfigError, MetarlError
from metarl.core.machine.files import CSV, check_output
from metarl.core.messages import show
from metarl.suites.machines import open_machines
from metarl.suites.plan import Failure
from metarl.suites.runner import run_suite
from metarl.suites.stages import next_command, read_progress
from metarl.suites.starts import check_starts
from metarl.suites.suite import Suite, check_suite, find_suite, list_suites, read_suite

Value = TypeVar("Value")


def run(arguments: argparse.Namespace) -> None:
    """Carries out the verb."""
    if arguments.file is None:
        if not arguments.list:
            raise ConfigError("FILE is missing: name a suite; --list shows those that are known")
        _refuse_beside_list(arguments, ("jobs", "ray", "csv", "run_dir"))
        _list_suites()
        return
    suite = read_suite(find_suite(arguments.file), arguments.run_dir)
    if arguments.list:
        _refuse_beside_list(arguments, ("jobs", "ray", "csv"))
        _list_runs(suite)
        return
    csv = arguments.csv or Path("results") / f"{suite.name}.csv"
    if arguments.csv or csv.is_dir():  # the folder of the default is made
        check_output("--csv", csv, CSV)
    _check_csv(csv)  # found unreadable now, not when all has run
    check_suite(suite)
    check_starts(suite)
    with open_machines(arguments.ray) as machines:
        jobs = arguments.jobs or machines.capacity()
        show(f"{suite.name}: {len(suite.runs)} runs, {jobs} at a time, in {suite.root}")
        failures = run_suite(suite, jobs, _make_command(arguments), machines=machines)
    finish(suite, csv)
    if failures:
        raise _SuiteFailed(suite, failures)


def _refuse_beside_list(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuses flags that a list has no use for.

    Raises:
        ConfigError: Names the flag.
    """
    for name in names:
        if vars(arguments)[name] is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: not with --list, which starts nothing")


class _SuiteFailed(MetarlError):
    """Some runs of a suite failed; the exit code is that of the first."""

    def __init__(self, suite: Suite, failures: Sequence[Failure]):
        self.exit_code = failures[0].exit_code
        names = ", ".join(f"{failure.run.name} (see {failure.run.log})" for failure in failures)
        hint = "the same command tries them again"
        super().__init__(f"{len(failures)} of {len(suite.runs)} runs failed: {names}; {hint}")


def _make_command(arguments: argparse.Namespace) -> str:
    """Returns the command that continues a suite."""
    words = ["metarl", "suite", arguments.file]
    for flag, value in (
        ("--jobs", arguments.jobs),
        ("--run-dir", arguments.run_dir),
        ("--csv", arguments.csv),
        ("--ray", arguments.ray),
    ):
        words += [flag, str(value)] if value else []
    return shlex.join(words)


def _list_suites() -> None:
    for name, path in list_suites().items():
        suite = read_suite(path)
        show(f"{name:12} {len(suite.runs):3} runs  {suite.about}")


def _list_runs(suite: Suite) -> None:
    for each in suite.runs:
        done, seconds = read_progress(each.folder)
        is_done = each.folder.exists() and next_command(each) is None
        state = "done" if is_done else f"{done}/{each.config.iterations}"
        show(f"{each.name:60} {state:>10}  {seconds / 60:8.1f} min")


def _check_csv(path: Path) -> None:
    """Checks that rows can be added to a CSV, if there is one.

    Raises:
        ConfigError: It is no CSV of results.
    """
    from metarl.suites.records import read_rows

    if path.exists():
        _name_csv(lambda: read_rows(path))


def _name_csv(work: Callable[[], Value]) -> Value:
    """Does work on a CSV that rows are added to; a file that is no such CSV gets a hint."""
    try:
        return work()
    except ConfigError as error:
        raise ConfigError(f"{error}; rows are added to this file: name another by --csv") from error


def finish(suite: Suite, csv: Path) -> None:
    """Writes the report and the CSV of the runs that are evaluated, and prints their table.

    Rows of other runs stay in the CSV.

    Raises:
        ConfigError: The CSV exists and is none of results; it stays as it is.
    """
    from metarl.reporting.report import write_report
    from metarl.suites.records import add_rows, collect_rows
    from metarl.suites.stages import find_evaluation
    from metarl.suites.tables import group_rows, make_table

    done = [each for each in suite.runs if find_evaluation(each)]
    oracles = {each.config.env: each.folder for each in done if each.config.observe_task}
    if done:
        page = suite.root / "report.html"
        write_report([each.folder for each in done], page, list(oracles.values()))
        show(f"report: {page}")
        rows = collect_rows(suite)
        merged, num_replaced = _name_csv(lambda: add_rows(csv, rows))
        others = f"rows replaced: {num_replaced}, kept of other runs: {len(merged) - len(rows)}"
        show(f"results: {csv}, {len(done)} of {len(suite.runs)} runs; {others}\n")
        show(make_table(group_rows([rows])), end="")
