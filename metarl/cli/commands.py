"""The commands `metarl evaluate`, `video`, `report` and `check-env`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from metarl import experiment
from metarl.cli.arguments import (
    Verbs,
    check_env_options,
    evaluate_options,
    read_verb,
    report_options,
    video_options,
)
from metarl.core.errors import ConfigError, EnvironmentContractError, run_command
from metarl.experiment import make_env, open_run, read_config
from metarl.learners.sb3.config import label


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m metarl <verb>`; returns the exit code."""

    def command() -> None:
        options = read_verb(list(sys.argv[1:] if argv is None else argv), _VERBS)
        options.function(options)

    return run_command(command)


def _evaluate_verb(options: argparse.Namespace) -> None:
    from metarl.evaluation import results, table

    _check_folder("--json", options.json)
    env = _check_are_seeds(options.runs)
    oracle = results.oracle(options.oracle, env) if options.oracle else None
    found = []
    for path in options.runs:
        run = open_run(path, options.threads)
        if len(options.runs) > 1:
            print(f"{path}:")
        found.append(
            experiment.evaluate_run(run, options.num_tasks, options.num_adaptations, oracle)
        )
        run.env.close()
    result = found[0]
    if len(found) > 1:
        result = results.aggregate(found)
        result |= {"runs": [str(path) for path in options.runs]}
        result |= {"oracle": oracle} if oracle else {}
        print(f"all:\n{table.table(result)}")
    if options.json:
        results.write(options.json, result)


def _check_folder(name: str, path: Path | None) -> None:
    if path and not path.absolute().parent.is_dir():
        raise ConfigError(f"{name} {path}: there is no folder {path.parent}")


def _check_are_seeds(runs: Sequence[Path]) -> str:
    """Refuses run folders that are not one learner on one environment with different seeds; returns the environment."""
    configs = [read_config(path) for path in runs]
    for name in ("env", "algo"):
        values = [c.env if name == "env" else label(c.algo, c.learner) for c in configs]
        for path, value in zip(runs, values, strict=True):
            if value != values[0]:
                cure = "give runs of one environment and one learner"
                raise ConfigError(f"{path}: {name} is {value}, of {runs[0]} {values[0]}; {cure}")
    seeds = [config.seed for config in configs]
    for i, seed in enumerate(seeds):
        if seed in seeds[:i]:
            other = runs[seeds.index(seed)]
            raise ConfigError(
                f"{runs[i]}: seed {seed} is that of {other} too; they are no two samples"
            )
    return configs[0].env


def _check_env_verb(options: argparse.Namespace) -> None:
    from metarl.core.files import write_atomically
    from metarl.envs.env_checker import Finding, check, report

    _check_folder("--json", options.json)
    try:
        findings = check(lambda threads: make_env(options.env, threads))
    except EnvironmentContractError as error:
        findings = [Finding("start", str(error))]
    print(report(findings))
    violations = sum(bool(finding.violation) for finding in findings)
    if options.json:
        tree = {"env": options.env, "violations": violations, "checks": [vars(f) for f in findings]}
        write_atomically(options.json, json.dumps(tree, indent=1) + "\n")
    if violations:
        raise EnvironmentContractError(
            f"{options.env} breaks the contract: {violations} of {len(findings)} checks failed"
        )


def _video_verb(options: argparse.Namespace) -> None:
    from metarl.core.env import NoPictures

    run = open_run(options.run, options.threads)
    formats = (options.format,) if options.format else None
    shown = {"num_shown": options.episodes, "camera": options.camera, "size": options.size}
    try:
        paths = experiment.film_run(
            run, options.num_tasks, options.num_adaptations, formats, **shown
        )
    except NoPictures as error:
        raise EnvironmentContractError(str(error)) from error
    for path in paths:
        print(path)


def _report_verb(options: argparse.Namespace) -> None:
    from metarl.evaluation import results
    from metarl.reporting.report import numbers, write_report

    if options.output is None and len(options.runs) > 1:
        raise ConfigError("--output is missing: say where the page of several runs goes")
    output = options.output or options.runs[0] / "report.html"
    _check_folder("--json", options.json)
    groups = write_report(options.runs, output, options.oracle)
    if options.json:
        results.write(options.json, numbers(groups))
    print(output)


_VERBS: Verbs = {
    "evaluate": (
        _evaluate_verb,
        evaluate_options,
        "return after 0..K adaptations on held-out tasks",
    ),
    "check-env": (
        _check_env_verb,
        check_env_options,
        "test whether an environment keeps the contract",
    ),
    "video": (_video_verb, video_options, "film held-out tasks before and after adaptation"),
    "report": (_report_verb, report_options, "one page with figures and numbers of runs"),
}
