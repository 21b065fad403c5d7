"""The verbs that take a policy out of its run folder: `export` and `run`."""

from __future__ import annotations

import argparse
from pathlib import Path

from metarl.cli.arguments import parse_at_least, parse_task
from metarl.core.errors import ConfigError, EnvironmentContractError


def add_export_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `export`."""
    command.add_argument("run", type=Path, metavar="RUN", help="run folder")
    text = "the file; the adaptation step of MAML goes beside it"
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=text)
    text = "onnx (default), or torchscript for programs with torch's C++ library"
    command.add_argument("--format", choices=("onnx", "torchscript"), default="onnx", help=text)
    text = (
        "adapt to this task by gradient steps in the environment, and export the adapted weights "
        "(MAML)"
    )
    command.add_argument("--adapt", type=parse_task, metavar="NUMBERS", help=text)
    text = "gradient steps of --adapt, by default 1"
    command.add_argument("--num-adaptations", type=parse_at_least(1), metavar="N", help=text)
    text = (
        "steps that a transformer without attention window remembers; by default a trial of "
        "training, and at least four episodes"
    )
    command.add_argument("--max-steps", type=parse_at_least(1), default=0, metavar="N", help=text)
    command.add_argument("--threads", type=parse_at_least(0), default=0, help="0: all cores")


def add_run_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `run`."""
    text = "ONNX file of metarl export, or one with an observation as input and an action as output"
    command.add_argument("policy", type=Path, metavar="POLICY", help=text)
    text = "the environment; by default that of the training"
    command.add_argument("--env", default="", metavar="NAME", help=text)
    command.add_argument("--num-tasks", type=parse_at_least(1), default=20)
    command.add_argument("--num-adaptations", type=parse_at_least(0), default=3)
    text = "episodes of each task in a rollout; by default as in training"
    command.add_argument("--num-episodes", type=parse_at_least(1), default=0, help=text)
    command.add_argument("--threads", type=parse_at_least(0), default=0, help="0: all cores")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")
    text = "film of two tasks before and after adaptation: .mp4, .gif or .html"
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help=text)


def export(arguments: argparse.Namespace) -> None:
    """Carries out the verb `export`."""
    from metarl import api

    if arguments.num_adaptations and not arguments.adapt:
        raise ConfigError("--num-adaptations: for --adapt only")
    with api.load(arguments.run, threads=arguments.threads) as policy:
        paths = api.export(
            policy,
            arguments.output,
            format=arguments.format,
            adapt=arguments.adapt,
            num_adaptations=arguments.num_adaptations or 1,
            max_steps=arguments.max_steps,
        )
    for path in paths:
        print(path)


def run(arguments: argparse.Namespace) -> None:
    """Carries out the verb `run`."""
    from metarl import api
    from metarl.core.env import NoPictures
    from metarl.evaluation import results, table

    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise ConfigError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
    try:
        result = api.run_policy(
            arguments.policy,
            arguments.env,
            num_tasks=arguments.num_tasks,
            num_adaptations=arguments.num_adaptations,
            num_episodes=arguments.num_episodes,
            threads=arguments.threads,
            film=arguments.output,
        )
    except NoPictures as error:
        raise EnvironmentContractError(str(error)) from error
    print(table.table(result))
    if arguments.json:
        results.write(arguments.json, result)
    if arguments.output:
        print(arguments.output)
