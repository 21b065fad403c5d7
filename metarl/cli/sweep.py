"""The verb `sweep`: searches for the settings that learn best."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.cli.arguments import add_ray_argument, parse_at_least, parse_path
from metarl.core.errors import ConfigError, MetarlError
from metarl.core.messages import show

if TYPE_CHECKING:
    from metarl.suites.plan import Failure


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    text = "file of a sweep, or name of one that metarl brings along (--list shows them)"
    command.add_argument("file", nargs="?", metavar="FILE", help=text)
    text = "runs at a time, each on one thread; by default as many as cores"
    command.add_argument("--jobs", type=parse_at_least(1), metavar="N", help=text)
    add_ray_argument(command)
    text = "folder of the results; by default runs/sweeps/NAME"
    command.add_argument("--run-dir", type=parse_path, metavar="DIR", help=text)
    text = "trials in all, in place of those of the file; more of them continue a finished sweep"
    command.add_argument("--trials", type=parse_at_least(1), metavar="N", help=text)
    command.add_argument("--list", action="store_true", help="print the known sweeps, and exit")


def run(arguments: argparse.Namespace) -> None:
    """Carries out the verb."""
    from dataclasses import replace

    from metarl.sweeps.sweep import find_sweep, list_sweeps, read_sweep

    if arguments.list:
        for name in ("file", "jobs", "ray", "run_dir", "trials"):
            if vars(arguments)[name] is not None:
                flag = "FILE" if name == "file" else f"--{name.replace('_', '-')}"
                raise ConfigError(f"{flag}: not with --list, which starts nothing")
    if arguments.file is None:
        if not arguments.list:
            raise ConfigError("FILE is missing: name a sweep; --list shows those that are known")
        for name, path in list_sweeps().items():
            known = read_sweep(path)
            show(f"{name:16} {known.trials:3} trials  {known.about}")
        return
    sweep = read_sweep(find_sweep(arguments.file), arguments.run_dir)
    sweep = replace(sweep, trials=arguments.trials or sweep.trials)

    from metarl.suites.machines import open_machines
    from metarl.suites.runner import run_plan
    from metarl.sweeps.page import write_results
    from metarl.sweeps.search import Search, check_sweep, find_best

    check_sweep(sweep)
    search = Search(sweep)
    with open_machines(arguments.ray) as machines:
        jobs = arguments.jobs or machines.capacity()
        show(f"{sweep.name}: {sweep.trials} trials, {jobs} runs at a time, in {sweep.root}")
        failures = run_plan(search, jobs, _make_command(arguments), machines=machines)
    for path in write_results(sweep, search.study):
        show(str(path))
    if find_best(search.study) is None:
        raise _SweepFailed(sweep.root, search.study, failures)


class _SweepFailed(MetarlError):
    """No trial of a sweep finished; the exit code is that of the first failure, else 2."""

    def __init__(self, root: Path, study: Any, failures: Sequence[Failure]):
        from metarl.sweeps.search import finished_trials

        self.exit_code = failures[0].exit_code if failures else ConfigError.exit_code
        trials = finished_trials(study)
        reason = trials[0].user_attrs.get("reason", "all were stopped")
        hint = "change what is searched for, and choose another --run-dir"
        super().__init__(f"{root}: none of {len(trials)} trials finished ({reason}); {hint}")


def _make_command(arguments: argparse.Namespace) -> str:
    """Returns the command that continues a sweep."""
    words = ["metarl", "sweep", arguments.file]
    for flag in ("jobs", "run_dir", "trials", "ray"):
        value = vars(arguments)[flag]
        words += [f"--{flag.replace('_', '-')}", str(value)] if value else []
    return shlex.join(words)
