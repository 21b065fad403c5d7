"""The verb `fewshot`: learners that adapt, compared on small supervised tasks."""

from __future__ import annotations

import argparse
import sys

from metarl.cli.arguments import parse_at_least, parse_path, split_list
from metarl.core.errors import ConfigError, nearest
from metarl.core.machine.files import CSV, JSON, check_output
from metarl.core.messages import show
from metarl.fewshot.names import ALGOS, HELD_OUT, ITERATIONS, SHOTS, TASKS, fitting


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    text = "sinusoid (regression) or digits (classification; needs scikit-learn)"
    command.add_argument("--task", required=True, choices=TASKS, help=text)
    text = f"learners, separated by commas, or all: {', '.join(ALGOS)}"
    command.add_argument("--algo", default="all", metavar="NAMES", help=text)
    defaults = ", ".join(f"{shots} for {task}" for task, shots in SHOTS.items())
    text = f"examples to adapt to, of each class; by default {defaults}"
    command.add_argument("--shots", type=parse_at_least(1), default=0, metavar="K", help=text)
    text = f"classes of a task of digits, from 2 to {HELD_OUT}; 3 by default"
    command.add_argument("--ways", type=parse_at_least(2), metavar="N", help=text)
    text = f"meta-updates of a training; {ITERATIONS} by default"
    kind = parse_at_least(0)
    command.add_argument("--iterations", type=kind, default=ITERATIONS, metavar="I", help=text)
    text = "seeds, separated by commas, one training each; 0,1,2 by default"
    command.add_argument("--seeds", type=_seeds, default=(0, 1, 2), metavar="LIST", help=text)
    text = "held-out tasks of each seed; 600 by default"
    command.add_argument("--num-tasks", type=parse_at_least(2), default=600, metavar="N", help=text)
    command.add_argument(
        "--json", type=parse_path, metavar="FILE", help="write the results as JSON"
    )
    text = "write the table as CSV, with full precision"
    command.add_argument("-o", "--output", type=parse_path, metavar="FILE", help=text)


def _seeds(text: str) -> tuple[int, ...]:
    seeds = tuple(parse_at_least(0, 2**64 - 1)(part) for part in split_list(text))
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text}: a seed is given twice; two samples need two")
    return seeds


def run(arguments: argparse.Namespace) -> None:
    """Carries out the verb."""
    check_output("--json", arguments.json, JSON)
    check_output("-o", arguments.output, CSV)
    if arguments.ways and arguments.task != "digits":
        raise ConfigError(f"--ways {arguments.ways}: for --task digits only")
    arguments.ways = arguments.ways or 3
    algos = _read_algos(arguments.algo, arguments.task)

    from metarl.core.machine.files import write_atomically
    from metarl.evaluation.results import write
    from metarl.fewshot.comparison import Comparison, compare
    from metarl.fewshot.table import table, to_csv

    names = ("task", "shots", "ways", "iterations", "seeds", "num_tasks")
    settings = {name: vars(arguments)[name] for name in names}
    # progress goes to the standard error; the standard output has the table alone
    result = compare(
        Comparison(algos=algos, **settings), lambda line: show(line, stream=sys.stderr)
    )
    show(table(result))
    if arguments.json:
        write(arguments.json, result)
    if arguments.output:
        write_atomically(arguments.output, to_csv(result))


def _read_algos(text: str, task: str) -> tuple[str, ...]:
    """Returns the learners that a flag names.

    Raises:
        ConfigError: One is unknown, given twice, or does not fit the task.
    """
    possible = fitting(task)
    if text == "all":
        return tuple(possible)
    names = tuple(part.strip() for part in text.split(","))
    if "" in names:
        raise ConfigError(f"--algo {text!r}: name at least one of {', '.join(possible)}, or all")
    for name in names:
        if name not in ALGOS:
            raise ConfigError(f"--algo {name}: no such learner{nearest(name, ALGOS)}")
        if name not in possible:
            raise ConfigError(f"--algo {name}: is not for {task}; use one of {', '.join(possible)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"--algo {text}: a learner is given twice; name each once")
    return names
