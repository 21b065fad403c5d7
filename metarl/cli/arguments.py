"""Arguments of the commands; `metarl/cli/commands.py` carries them out."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl import __version__
from metarl.core.errors import ConfigError, nearest
from metarl.core.ranges import LARGEST_COUNT
from metarl.reporting.limits import FORMATS, MAX_SIZE, MIN_SIZE

Run = Callable[[argparse.Namespace], None]
AddArguments = Callable[[argparse.ArgumentParser], None]
Commands = Mapping[str, tuple[Run, AddArguments, str]]
"""Name -> (function that carries it out, function that adds its arguments, help)."""

CAMERAS = {
    "side": (90.0, -14.0),
    "behind": (60.0, -29.0),
    "front": (180.0, -14.0),
    "top": (90.0, -89.0),
}
"""Azimuth and elevation of the view [degrees].

Azimuth 0 looks along x, 90 along y; a negative elevation looks down.
"""


RUN = "run folder, or hf://ORG/NAME[@REVISION]"
"""Help of an argument that is a run."""


class _Parser(argparse.ArgumentParser):
    """Argparse with the error messages of every other command."""

    def __init__(self, **settings: Any):
        # an abbreviated flag would change its meaning as soon as another one is added
        super().__init__(allow_abbrev=False, **settings)

    @property
    def flags(self) -> Collection[str]:
        """The flags of the command."""
        return self._option_string_actions

    def error(self, message: str) -> Any:
        """Raises a ConfigError, where argparse would print the usage and exit."""
        raise ConfigError(f"{message} ({self.prog} --help)")

    def refuse(self, argument: str) -> None:
        """Raises the error of an unknown argument."""
        kind = "unknown flag" if re.match(r"-+[a-zA-Z]", argument) else "a value without a flag:"
        self.error(f"{kind} {argument}{nearest(argument, self.flags)}")


def read_command(argv: Sequence[str], commands: Commands) -> argparse.Namespace:
    """Parses the arguments of `metarl`, except those of `metarl train`.

    Args:
        argv: A command and its arguments; without any, the help is printed.
        commands: The commands.

    Returns:
        The arguments; `function` carries the command out.

    Raises:
        ConfigError: A command or a flag is unknown (the message names the nearest), or a value is
            invalid.
        SystemExit: --help or --version was given and is printed (status 0).
    """
    parser = _Parser(
        prog="metarl", description="Train robots that adapt, and use what was trained."
    )
    parser.add_argument("--version", action="version", version=f"metarl {__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = "train a policy (metarl train --help shows the settings)"
    parsers.add_parser("train", help=about, add_help=False)
    for name, (function, add_arguments, text) in commands.items():
        command = parsers.add_parser(name, help=text, description=text)
        add_arguments(command)
        command.set_defaults(function=function, parser=command)
    if not argv:
        parser.print_help()
        raise SystemExit(0)
    if argv[0].startswith("-") and argv[0] not in parser.flags:
        parser.error(f"unknown flag {argv[0]}; flags follow a COMMAND")
    if not argv[0].startswith("-") and argv[0] not in commands:
        parser.error(f"unknown command {argv[0]}{nearest(argv[0], [*commands, 'train'])}")
    arguments, unknown = parser.parse_known_args(join_negative_values(argv))
    if unknown:
        name = next((word for word in unknown if word.startswith("-")), unknown[0])
        arguments.parser.refuse(name.partition("=")[0])
    return arguments


def add_evaluate_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `evaluate`."""
    text = f"{RUN}; several, of one environment and learner, are also seeds of one experiment"
    command.add_argument("runs", type=parse_run, nargs="+", metavar="RUN", help=text)
    text = "held-out tasks; by default as many as the run's own evaluation, or 20 if it has none"
    _add_trial_arguments(command, about=(text, "by default those of that evaluation, usually 3"))
    text = "act without exploration noise in the rollouts that are measured"
    command.add_argument("--deterministic", action="store_true", help=text)
    text = "evaluate the teacher of a run of teacher-student, which observes the task: an oracle"
    command.add_argument("--teacher", action="store_true", help=text)
    text = (
        "evaluate this task, for example 1.57 or 0.3,-0.2, instead of held-out ones; may be "
        "repeated"
    )
    command.add_argument("--task", type=parse_task, action="append", metavar="NUMBERS", help=text)
    text = "evaluate on another environment with the same observation and action sizes"
    command.add_argument("--env", metavar="NAME", help=text)
    command.add_argument(
        "--json", type=parse_path, metavar="FILE", help="write the result here too"
    )
    add_trust_argument(command)
    text = "evaluated run of a policy that observes the task, for comparison"
    command.add_argument("--oracle", type=parse_run, metavar="RUN", help=text)


def add_explain_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `explain`."""
    command.add_argument("run", type=parse_run, metavar="RUN", help=RUN)
    text = "tasks; by default 200 for a memory, 40 for gradient steps"
    command.add_argument("--num-tasks", type=parse_at_least(1), metavar="N", help=text)
    text = "independent trials of each task for a memory, by default 2"
    command.add_argument("--num-episodes", type=parse_at_least(1), metavar="N", help=text)
    text = "adaptations in a trial; by default those of the training"
    command.add_argument("--num-adaptations", type=parse_at_least(0), metavar="N", help=text)
    text = (
        "new tasks as in training (default for a memory) or held-out tasks (default for gradient "
        "steps)"
    )
    command.add_argument("--distribution", choices=("train", "test"), help=text)
    add_trust_argument(command)
    add_threads_argument(command)
    command.add_argument(
        "--json", type=parse_path, metavar="FILE", help="write the result here too"
    )


def add_video_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `video`."""
    text = f"{RUN}; several are filmed side by side, after adaptation"
    command.add_argument("runs", type=parse_run, nargs="+", metavar="RUN", help=text)
    about = "held-out tasks; by default 2", "by default 1"
    _add_trial_arguments(command, num_adaptations=1, about=about)
    add_trust_argument(command)
    text = "file of several runs; its suffix is the format where --format is not given"
    command.add_argument("-o", "--output", type=parse_path, metavar="FILE", help=text)
    command.add_argument(
        "--tasks",
        type=parse_at_least(1),
        dest="num_tasks",
        metavar="N",
        help="the same as --num-tasks",
    )
    text = "film this task, for example 3,40, instead of held-out ones; may be repeated"
    command.add_argument("--task", type=parse_task, action="append", metavar="NUMBERS", help=text)
    text = "episodes of each task that are shown before and after adaptation; by default 1"
    command.add_argument("--episodes", type=parse_at_least(1), default=1, metavar="N", help=text)
    text = f"{', '.join(CAMERAS)}, or AZIMUTH,ELEVATION in degrees"
    command.add_argument("--camera", type=_camera, metavar="VIEW", help=text)
    text = "width and height of a picture, even [pixels]; by default 480"
    command.add_argument("--size", type=_even, metavar="PIXELS", help=text)
    text = "mp4, gif, or html, an interactive replay in 3-D; by default mp4 and html"
    command.add_argument("--format", choices=FORMATS, help=text)


def add_check_env_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `check-env`."""
    command.add_argument("env", metavar="NAME", help="as for --env of metarl train")
    text = "time that a plug-in may take for its start, a step or a reset [s]; by default 120"
    command.add_argument("--env-timeout", type=_seconds, default=120.0, metavar="S", help=text)
    command.add_argument(
        "--json", type=parse_path, metavar="FILE", help="write the result here too"
    )


def add_new_robot_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `new-robot`."""
    command.add_argument("model", type=parse_path, metavar="MODEL", help="MJCF file of the robot")
    text = "the robot's file, in the folder of the model; by default the model's name with .yaml"
    command.add_argument("-o", "--output", type=parse_path, metavar="FILE", help=text)


def add_report_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `report`."""
    command.add_argument("runs", type=parse_run, nargs="+", metavar="RUN", help=RUN)
    text = "the page; for one run report.html in its folder"
    command.add_argument("-o", "--output", type=parse_path, metavar="FILE", help=text)
    command.add_argument("--json", type=parse_path, metavar="FILE", help="write the numbers here")
    text = "evaluated run of a policy that observes the task; may be repeated"
    command.add_argument(
        "--oracle", type=parse_run, action="append", default=[], metavar="RUN", help=text
    )


def add_ray_argument(command: argparse.ArgumentParser) -> None:
    """Adds the argument of verbs that can run trainings on a cluster."""
    text = "train on the machines of a cluster of Ray, which share the folder of the runs: auto, "
    text += "host:port of its head, or local (docs/scaling.md)"
    command.add_argument("--ray", metavar="ADDRESS", help=text)


def add_suite_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `suite`."""
    text = "file of a suite, or name of one that metarl brings along (--list shows them)"
    command.add_argument("file", nargs="?", metavar="FILE", help=text)
    text = "runs at a time, each on one thread; by default as many as cores"
    command.add_argument("--jobs", type=parse_at_least(1), metavar="N", help=text)
    text = "folder of the run folders; by default runs/suites/NAME"
    command.add_argument("--run-dir", type=parse_path, metavar="DIR", help=text)
    add_ray_argument(command)
    text = "file of the results; by default results/NAME.csv"
    command.add_argument("--csv", type=parse_path, metavar="FILE", help=text)
    text = "print the known suites, or with FILE its runs and how far they are, and exit"
    command.add_argument("--list", action="store_true", help=text)


def add_publish_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `publish`."""
    command.add_argument("run", type=parse_run, metavar="RUN", help=f"evaluated {RUN}")
    command.add_argument(
        "folder", type=parse_path, metavar="DIR", help="new folder, such as pretrained/X"
    )
    add_trust_argument(command)


def add_push_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `push`."""
    command.add_argument("run", type=parse_run, metavar="RUN", help=f"evaluated {RUN}")
    command.add_argument("repository", metavar="ORG/NAME", help="repository on the hub")
    add_trust_argument(command)
    text = "create the repository private"
    command.add_argument("--private", action="store_true", help=text)
    text = "write what would be uploaded into this new folder, and upload nothing"
    command.add_argument("--to", type=parse_path, metavar="DIR", help=text)


def add_threads_argument(command: argparse.ArgumentParser) -> None:
    """Adds the number of threads."""
    text = "physics threads; by default 0, all cores. Results do not depend on it"
    command.add_argument("--threads", type=parse_at_least(0), default=0, metavar="N", help=text)


def add_trust_argument(command: argparse.ArgumentParser) -> None:
    """Adds the argument that lets a run folder name code."""
    text = "load the plug-in environment and learner that the run names, which runs their code"
    command.add_argument("--trust-env", action="store_true", help=text)


def join_negative_values(argv: Iterable[str]) -> list[str]:
    """Joins "--camera", "-90,-20" by "="; argparse would take "-90,-20" for a flag."""
    words: list[str] = []
    for word in argv:
        if re.match(r"-[\d.]", word) and words and re.fullmatch(r"--\w[\w-]*", words[-1]):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def _add_trial_arguments(
    command: argparse.ArgumentParser,
    *,
    num_adaptations: int | None = None,
    about: tuple[str, str],
) -> None:
    kind, (tasks, adaptations) = parse_at_least(1), about
    command.add_argument("--num-tasks", type=kind, metavar="N", help=tasks)
    command.add_argument(
        "--num-adaptations", type=kind, default=num_adaptations, metavar="K", help=adaptations
    )
    add_threads_argument(command)


def parse_run(text: str) -> str | Path:
    """Returns the path of a run folder, or an address on the hub as it is."""
    return text if text.startswith("hf://") else Path(text)


def parse_path(text: str) -> Path:
    """Returns the path of a file or folder of this machine.

    Raises:
        ArgumentTypeError: It is an address on the hub.
    """
    if text.startswith("hf://"):
        hint = "an address on the hub is not taken here; give a path"
        raise argparse.ArgumentTypeError(f"{text}: {hint}")
    return Path(text)


def split_list(text: str) -> list[str]:
    """Splits a list at its commas.

    Raises:
        ArgumentTypeError: It, or one of its entries, is empty.
    """
    parts = [part.strip() for part in text.split(",")]
    if "" in parts:
        what = "an entry is empty" if len(parts) > 1 else "is empty"
        hint = "separate entries by single commas"
        raise argparse.ArgumentTypeError(f"{text!r}: {what}; {hint}")
    return parts


def parse_at_least(bound: int, most: int = LARGEST_COUNT) -> Callable[[str], int]:
    """Returns a parser of whole numbers that are not below a bound, nor above another."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < bound:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number >= {bound}")
        if int(text) > most:
            raise argparse.ArgumentTypeError(f"{text}: must be at most {most:,}")
        return int(text)

    return number


def _seconds(text: str) -> float:
    """Parses a time > 0."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: must be a number > 0")
    return value


def _even(text: str) -> int:
    size = parse_at_least(1)(text)
    if size % 2 or not MIN_SIZE <= size <= MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{text}: must be even, from {MIN_SIZE} to {MAX_SIZE}")
    return size


def parse_task(text: str) -> list[float]:
    """Parses the numbers of a task, separated by commas."""
    try:
        return [float(number) for number in split_list(text)]
    except ValueError:
        hint = "numbers separated by commas, such as 1.57 or 0.3,-0.2"
        raise argparse.ArgumentTypeError(f"{text}: must be {hint}") from None


def _camera(text: str) -> tuple[float, float]:
    if text in CAMERAS:
        return CAMERAS[text]
    try:
        azimuth, elevation = map(float, text.split(","))
    except ValueError:
        azimuth = elevation = float("nan")
    if not (abs(azimuth) <= 360 and -90 < elevation < 90):
        hint = f"{', '.join(CAMERAS)}, or AZIMUTH,ELEVATION with -90 < ELEVATION < 90"
        raise argparse.ArgumentTypeError(f"{text}: must be {hint}")
    return azimuth, elevation
