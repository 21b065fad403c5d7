"""The verbs that take a policy out of its run folder: `export` and `run`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from metarl.cli.arguments import (
    RUN,
    add_threads_argument,
    add_trust_argument,
    parse_at_least,
    parse_path,
    parse_run,
    parse_task,
)
from metarl.core.errors import ConfigError, EnvironmentContractError
from metarl.core.machine.files import JSON, check_output
from metarl.core.messages import show


def add_export_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `export`."""
    command.add_argument("run", type=parse_run, metavar="RUN", help=RUN)
    text = "the file, beside which the adaptation step of MAML goes; for minari see below"
    command.add_argument("-o", "--output", required=True, metavar="FILE", help=text)
    text = (
        "onnx (default), torchscript for programs with torch's C++ library, or minari: whole "
        "trials as a data set for offline learning"
    )
    formats = ("onnx", "torchscript", "minari")
    command.add_argument("--format", choices=formats, default="onnx", help=text)
    text = "adaptations with --adapt, by default 1, or of the trials of minari, by default 3"
    command.add_argument("--num-adaptations", type=parse_at_least(0), metavar="N", help=text)
    add_threads_argument(command)
    add_trust_argument(command)
    group = command.add_argument_group("of onnx and torchscript")
    text = (
        "adapt to this task in the environment, and export the adapted weights (MAML, bmaml), or "
        "the guess of the task (gp)"
    )
    group.add_argument("--adapt", type=parse_task, metavar="NUMBERS", help=text)
    text = (
        "steps that a transformer without attention window remembers; by default a trial of "
        "training, and at least four episodes"
    )
    group.add_argument("--max-steps", type=parse_at_least(1), default=0, metavar="N", help=text)
    text = "FILE is the ID of a data set, such as ant-dir/histories-v0, or a new folder"
    group = command.add_argument_group("of minari", text)
    group.add_argument("--num-tasks", type=parse_at_least(1), metavar="N", help="by default 20")
    text = "new tasks as in training (the default), or held-out tasks"
    group.add_argument("--distribution", choices=("train", "test"), help=text)
    text = "of tasks and actions; by default that of the run"
    group.add_argument("--seed", type=parse_at_least(0, 2**64 - 1), metavar="N", help=text)


def add_run_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `run`."""
    text = "ONNX file of metarl export, or one with an observation as input and an action as output"
    command.add_argument("policy", type=parse_path, metavar="POLICY", help=text)
    text = "the environment; by default that of the training"
    command.add_argument("--env", default="", metavar="NAME", help=text)
    kind = parse_at_least(1)
    text = "held-out tasks; by default 20, however many the evaluation of the run has"
    command.add_argument("--num-tasks", type=kind, default=20, metavar="N", help=text)
    kind, text = parse_at_least(0), "adaptations, or rollouts after the first; by default 3"
    command.add_argument("--num-adaptations", type=kind, default=3, metavar="K", help=text)
    text = "episodes of each task in a rollout; by default as in training"
    kind = parse_at_least(1)
    command.add_argument("--num-episodes", type=kind, default=0, metavar="E", help=text)
    add_threads_argument(command)
    command.add_argument(
        "--json", type=parse_path, metavar="FILE", help="write the result here too"
    )
    add_trust_argument(command)
    text = "film of two tasks before and after adaptation: .mp4, .gif or .html"
    command.add_argument("-o", "--output", type=parse_path, metavar="FILE", help=text)


def export(arguments: argparse.Namespace) -> None:
    """Carries out the verb `export`."""
    from metarl import api
    from metarl.deployment.export.write import SUFFIXES

    _refuse_flags_of_others(arguments)
    if arguments.format in SUFFIXES:  # before the policy is loaded
        check_output("--output", Path(arguments.output), SUFFIXES[arguments.format])
    adaptations = arguments.num_adaptations
    options = {"threads": arguments.threads, "trust_env": arguments.trust_env}
    with api.load(arguments.run, **options) as policy:
        if arguments.format == "minari":
            paths = [_export_minari(policy, arguments)]
        else:
            paths = api.export(
                policy,
                arguments.output,
                format=arguments.format,
                adapt=arguments.adapt,
                num_adaptations=1 if adaptations is None else adaptations,
                max_steps=arguments.max_steps,
            )
    for path in paths:
        show(path)


def _refuse_flags_of_others(arguments: argparse.Namespace) -> None:
    """Refuses flags that do not belong to the format.

    Raises:
        ConfigError: Names the flag.
    """
    is_minari = arguments.format == "minari"
    flags = {"--adapt": arguments.adapt, "--max-steps": arguments.max_steps or None}
    others = {
        "--num-tasks": arguments.num_tasks,
        "--distribution": arguments.distribution,
        "--seed": arguments.seed,
    }
    for flag, value in (flags if is_minari else others).items():
        if value is not None:
            raise ConfigError(f"{flag}: not for --format {arguments.format}")
    if arguments.num_adaptations is not None and not (is_minari or arguments.adapt):
        raise ConfigError("--num-adaptations: for --adapt and --format minari only")


def _export_minari(policy: Any, arguments: argparse.Namespace) -> Path:
    """Plays trials and writes them; returns the folder of the data set."""
    from metarl import api

    adaptations = arguments.num_adaptations
    return api.export_minari(
        policy,
        arguments.output,
        num_tasks=arguments.num_tasks or 20,
        num_adaptations=3 if adaptations is None else adaptations,
        distribution=arguments.distribution or "train",
        seed=arguments.seed,
    )


def run(arguments: argparse.Namespace) -> None:
    """Carries out the verb `run`."""
    from metarl import api
    from metarl.core.env import NoPictures
    from metarl.evaluation import results, table

    check_output("--json", arguments.json, JSON)
    try:
        result = api.run_policy(
            arguments.policy,
            arguments.env,
            num_tasks=arguments.num_tasks,
            num_adaptations=arguments.num_adaptations,
            num_episodes=arguments.num_episodes,
            threads=arguments.threads,
            film=arguments.output,
            trust_env=arguments.trust_env,
        )
    except NoPictures as error:
        raise EnvironmentContractError(str(error)) from error
    show(table.table(result))
    if arguments.json:
        results.write(arguments.json, result)
    if arguments.output:
        show(arguments.output)
