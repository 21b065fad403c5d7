"""The command `metarl` and its verbs, except `train` and `suite`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from metarl import builders
from metarl.cli import certify, deploy, fewshot, serve, sweep, train
from metarl.cli.arguments import (
    Commands,
    add_check_env_arguments,
    add_evaluate_arguments,
    add_explain_arguments,
    add_new_robot_arguments,
    add_publish_arguments,
    add_push_arguments,
    add_report_arguments,
    add_suite_arguments,
    add_video_arguments,
    read_command,
)
from metarl.config.trust import trust
from metarl.core.errors import ConfigError, EnvironmentContractError, run_command
from metarl.core.machine.files import HTML, JSON, check_output
from metarl.core.messages import notify, show, warn
from metarl.policies import check_seeds
from metarl.runs.hub import PREFIX, find_run
from metarl.runs.progress import heartbeat
from metarl.runs.published import SIZE, is_published, output_folder
from metarl.suites.processes import end_with_parent


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `metarl`; returns the exit code."""
    end_with_parent()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["train"]:
        return train.main(words[1:], prog="metarl train")

    def command() -> None:
        arguments = read_command(words, _COMMANDS)
        arguments.function(arguments)

    return run_command(command)


def _refuse_number_of_chosen_tasks(arguments: argparse.Namespace) -> None:
    if arguments.task and arguments.num_tasks is not None:
        raise ConfigError("--num-tasks: not with --task, which names every task")


def _evaluate(arguments: argparse.Namespace) -> None:
    from metarl import api
    from metarl.evaluation import results, table

    check_output("--json", arguments.json, JSON)
    _refuse_number_of_chosen_tasks(arguments)
    runs = [find_run(run) for run in arguments.runs]
    trust(arguments.env)
    trained_on = check_seeds(runs, trusts=arguments.trust_env)
    env = arguments.env or trained_on
    oracle = results.read_oracle(find_run(arguments.oracle), env) if arguments.oracle else None
    evaluations = []
    for path, given in zip(runs, arguments.runs, strict=True):
        if len(runs) > 1:
            show(f"{given}:")
        options = {"threads": arguments.threads, "is_teacher": arguments.teacher}
        options |= {"trust_env": arguments.trust_env}
        with api.load(path, **options) as policy:
            result = api.evaluate(
                policy,
                arguments.env,
                num_tasks=arguments.num_tasks,
                num_adaptations=arguments.num_adaptations,
                tasks=arguments.task,
                deterministic=arguments.deterministic,
                oracle=oracle,
            )
        show(table.table(result))
        if is_published(path) and (line := results.describe_difference(path, result)):
            show(line)
        evaluations.append(result)
    result = api.combine(arguments.runs, evaluations, oracle)
    if len(evaluations) > 1:
        show(f"all:\n{table.table(result)}")
    if arguments.json:
        results.write(arguments.json, result)


def _explain(arguments: argparse.Namespace) -> None:
    from metarl import api
    from metarl.evaluation import explanation_table, results

    check_output("--json", arguments.json, JSON)
    options = {"threads": arguments.threads, "trust_env": arguments.trust_env}
    with api.load(arguments.run, **options) as policy:
        tree = api.explain(
            policy,
            num_tasks=arguments.num_tasks,
            num_episodes=arguments.num_episodes,
            num_adaptations=arguments.num_adaptations,
            distribution=arguments.distribution,
        )
    show(explanation_table.table(tree))
    if arguments.json:
        results.write(arguments.json, tree)


def _check_env(arguments: argparse.Namespace) -> None:
    from metarl.core.machine.files import write_atomically
    from metarl.envs.env_checker import Finding, check, report

    check_output("--json", arguments.json, JSON)
    try:
        with heartbeat(f"checking {arguments.env}"):
            options = {"timeout": arguments.env_timeout}
            findings = check(lambda threads: builders.make_env(arguments.env, threads, **options))
    except EnvironmentContractError as error:
        findings = [Finding("start", str(error))]
    show(report(findings))
    violations = sum(bool(finding.violation) for finding in findings)
    if arguments.json:
        checks = [vars(finding) for finding in findings]
        tree = {"env": arguments.env, "violations": violations, "checks": checks}
        write_atomically(arguments.json, json.dumps(tree, indent=1) + "\n")
    if violations:
        raise EnvironmentContractError(
            f"{arguments.env} breaks the contract: {violations} of {len(findings)} checks failed"
        )


def _new_robot(arguments: argparse.Namespace) -> None:
    from metarl.core.machine.files import write_atomically
    from metarl.envs.robots.guessing.guess import guess_robot
    from metarl.envs.robots.guessing.guesses import goal_of, to_yaml
    from metarl.envs.robots.guessing.inspection import inspect_robot
    from metarl.envs.robots.own import build_robot

    model: Path = arguments.model
    if not model.is_file():
        raise ConfigError(f"{model}: there is no such model")
    output: Path = arguments.output or model.with_suffix(".yaml")
    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--output {output}: must end in .yaml or .yml")
    if output.absolute().parent != model.absolute().parent:
        raise ConfigError(f"--output {output}: must be in the folder of the model, {model.parent}")
    if output.exists():
        raise ConfigError(f"{output}: exists already; choose another name with --output")
    guesses = guess_robot(model)
    keys = {guess.key: guess.value for guess in guesses}
    # tried before anything is written
    robot = build_robot(output.stem, output, keys, model.absolute(), b"")
    findings = inspect_robot(robot)
    write_atomically(output, to_yaml(guesses, model.name))
    findings.append(_draw(robot, output.with_suffix(".png")))
    for guess in guesses:
        show(f"{guess.key:13} {guess.summary:32} {guess.reason}")
    show("\n".join(findings))
    name = shlex.quote(f"{output}:{goal_of(guesses)}")
    show(f"{output}: check it, then metarl train --env {name}")


def _draw(robot: Any, picture: Path) -> str:
    """Writes the picture of a robot; returns the finding about it."""
    from metarl.core.machine.files import write_atomically
    from metarl.envs.robots.guessing.drawing import draw_robot

    if picture.exists():
        return f"{picture}: exists already, so the robot is not drawn"
    try:
        write_atomically(picture, draw_robot(robot))
    except Exception as error:  # drivers fail in many ways, and the robot's file is of use without
        return f"warning: no picture of the robot: {' '.join(str(error).split()):.200}"
    return f"{picture}: the robot in its home pose"


def _video(arguments: argparse.Namespace) -> None:
    from metarl import api
    from metarl.core.env import NoPictures

    _refuse_number_of_chosen_tasks(arguments)
    options: dict[str, Any] = {
        "tasks": arguments.task,
        "num_tasks": arguments.num_tasks or 2,
        "num_adaptations": arguments.num_adaptations,
        "formats": (arguments.format,) if arguments.format else None,
        "camera": arguments.camera,
        "size": arguments.size or 480,
    }
    loading = {"threads": arguments.threads, "trust_env": arguments.trust_env}
    runs, output, is_one = arguments.runs, arguments.output, len(arguments.runs) == 1
    if is_one == (output is not None):
        hint = "for several runs only" if is_one else "which file the runs are filmed in"
        raise ConfigError(f"--output: {hint}")
    if not is_one and arguments.episodes > 1:
        raise ConfigError("--episodes: for one run only")
    if arguments.format == "html" and arguments.size is not None:
        raise ConfigError("--size: not with --format html, which fills the window")
    try:
        # progress goes to the standard error; the standard output has the paths alone
        with redirect_stdout(sys.stderr), ExitStack() as stack:
            policies = [stack.enter_context(api.load(run, **loading)) for run in runs]
            if is_one:
                paths = api.film(policies[0], num_episodes=arguments.episodes, **options)
            else:
                paths = api.film_together(policies, output, **options)
    except NoPictures as error:
        raise EnvironmentContractError(str(error)) from error
    for path in paths:
        show(path)


def _report(arguments: argparse.Namespace) -> None:
    from metarl.evaluation import results
    from metarl.reporting.report import numbers, write_report

    if arguments.output is None and len(arguments.runs) > 1:
        raise ConfigError("--output is missing: give the page of several runs a name")
    check_output("--output", arguments.output, HTML)
    check_output("--json", arguments.json, JSON)
    runs = [find_run(run) for run in arguments.runs]
    output = arguments.output or output_folder(runs[0]) / "report.html"
    groups = write_report(runs, output, [find_run(oracle) for oracle in arguments.oracle])
    if arguments.json:
        results.write(arguments.json, numbers(groups))
    show(output)


def _suite(arguments: argparse.Namespace) -> None:
    from metarl.cli import suite

    suite.run(arguments)


def _publish(arguments: argparse.Namespace) -> None:
    from metarl.sharing.publishing import publish

    folder = publish(arguments.run, arguments.folder, trust_env=arguments.trust_env)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    show(f"{folder}: {size / 1000:,.0f} kB")
    if size > SIZE:
        text = f"{folder} is larger than {SIZE / 1000:,.0f} kB; a smaller network would fit"
        warn(text)


def _push(arguments: argparse.Namespace) -> None:
    from metarl.sharing.publishing import push

    repository, to = arguments.repository, arguments.to
    if arguments.private and to is not None:
        raise ConfigError("--private: not with --to, which uploads nothing")
    place = push(
        arguments.run,
        repository,
        private=arguments.private,
        to=to,
        trust_env=arguments.trust_env,
    )
    show(place)
    if to is None:
        notify(f'use it with: metarl.load("{PREFIX}{repository}")')


_COMMANDS: Commands = {
    "evaluate": (
        _evaluate,
        add_evaluate_arguments,
        "return after 0..K adaptation steps on held-out tasks",
    ),
    "explain": (
        _explain,
        add_explain_arguments,
        "when the memory knows the task, or which layers adaptation moves",
    ),
    "check-env": (
        _check_env,
        add_check_env_arguments,
        "test whether an environment keeps the contract",
    ),
    "new-robot": (
        _new_robot,
        add_new_robot_arguments,
        "guess the file of a robot from its MJCF model, with reasons",
    ),
    "video": (_video, add_video_arguments, "film held-out tasks before and after adaptation"),
    "report": (_report, add_report_arguments, "one page with plots and numbers of runs"),
    "suite": (
        _suite,
        add_suite_arguments,
        "train a declared set of learners, environments and seeds, some at a time",
    ),
    "sweep": (sweep.run, sweep.add_arguments, "search for the settings that learn best"),
    "certify": (
        certify.run,
        certify.add_arguments,
        "play a policy in a grid of changed worlds, and write a certificate",
    ),
    "fewshot": (
        fewshot.run,
        fewshot.add_arguments,
        "compare learners that adapt on small regressions and classifications",
    ),
    "export": (
        deploy.export,
        deploy.add_export_arguments,
        "export a policy as an ONNX or TorchScript file, or its rollouts as a data set",
    ),
    "run": (
        deploy.run,
        deploy.add_run_arguments,
        "play an ONNX policy in the simulator, on 20 held-out tasks by default",
    ),
    "serve": (serve.run, serve.add_arguments, "answer the messages of a live robot"),
    "publish": (_publish, add_publish_arguments, "copy a trained policy into a small folder"),
    "push": (_push, add_push_arguments, "publish a trained policy on the Hugging Face hub"),
}
