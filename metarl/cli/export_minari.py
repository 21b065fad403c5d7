"""The verb `metarl export --format minari`: rollouts of a policy as a data set."""

from __future__ import annotations

import argparse

from metarl.cli.arguments import RUN, parse_at_least, parse_run


def add_export_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `export`."""
    command.add_argument("run", type=parse_run, metavar="RUN", help=RUN)
    text = "minari: whole trials as a data set for offline learning"
    command.add_argument("--format", choices=("minari",), required=True, help=text)
    text = "ID of the data set, such as ant-dir/histories-v0, or a new folder such as ./histories"
    command.add_argument("-o", "--output", required=True, metavar="NAME", help=text)
    add_minari_arguments(command)
    command.add_argument("--threads", type=parse_at_least(0), default=0, help="0: all cores")


def add_minari_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments that belong to the format minari."""
    command.add_argument("--num-tasks", type=parse_at_least(1), default=20)
    command.add_argument("--num-adaptations", type=parse_at_least(0), default=3)
    text = "new tasks as in training (the default), or held-out tasks"
    command.add_argument("--distribution", choices=("train", "test"), default="train", help=text)
    text = "of tasks and actions; by default that of the run"
    command.add_argument("--seed", type=parse_at_least(0), metavar="N", help=text)


def export_minari(arguments: argparse.Namespace) -> None:
    """Plays trials, writes them, and prints the folder of the data set."""
    from metarl import api

    with api.load(arguments.run, threads=arguments.threads) as policy:
        folder = api.export_minari(
            policy,
            arguments.output,
            num_tasks=arguments.num_tasks,
            num_adaptations=arguments.num_adaptations,
            distribution=arguments.distribution,
            seed=arguments.seed,
        )
    print(folder)
