"""The options of `python -m metarl <verb>`; what they mean is done in `metarl/cli/train.py`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.core.errors import ConfigError, nearest

Verbs = Mapping[
    str, tuple[Callable[[argparse.Namespace], None], Callable[[argparse.ArgumentParser], None], str]
]
"""Verb -> (what it does with its options, what adds them to its parser, its help)."""

FORMATS = ("mp4", "gif", "html")
"""Of a film; html is a replay in 3-D that can be turned."""

CAMERAS = {
    "side": (90.0, -14.0),
    "behind": (60.0, -29.0),
    "front": (180.0, -14.0),
    "top": (90.0, -89.0),
}
"""Azimuth and elevation of the view [degrees]: azimuth 0 looks along x, 90 along y; negative elevation looks down."""


class _Parser(argparse.ArgumentParser):
    """Argparse, whose errors are those of every other command."""

    def __init__(self, **settings: Any):
        # a flag cut short would mean another one as soon as there are more
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} ({self.prog} --help)")

    def refuse(self, word: str) -> None:
        """Refuses a word that means nothing."""
        what = "unknown flag" if re.match(r"-+[a-zA-Z]", word) else "a value without a flag:"
        self.error(f"{what} {word}{nearest(word, self._option_string_actions)}")


def read_verb(words: Sequence[str], verbs: Verbs) -> argparse.Namespace:
    """Reads the words behind `python -m metarl`.

    Args:
        words: A verb and its options.
        verbs: The verbs.

    Returns:
        The options; `function` is what the verb does with them.

    Raises:
        ConfigError: A verb or a flag is unknown (the message names the nearest), or a value cannot be used.
        SystemExit: --help was asked for and is printed (status 0).
    """
    parser = _Parser(prog="python -m metarl", description="Work on run folders.")
    parsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (function, add_options, text) in verbs.items():
        verb = parsers.add_parser(name, help=text, description=text)
        add_options(verb)
        verb.set_defaults(function=function, parser=verb)
    if words and not words[0].startswith("-") and words[0] not in verbs:
        parser.error(f"unknown verb {words[0]}{nearest(words[0], verbs)}")
    options, unknown = parser.parse_known_args(with_negative_values(words))
    if unknown:
        name = next((word for word in unknown if word.startswith("-")), unknown[0])
        options.parser.refuse(name.partition("=")[0])
    return options


def evaluate_options(verb: argparse.ArgumentParser) -> None:
    """Adds those of `evaluate`."""
    seeds = "run folder; several, of one environment and learner, are put together too"
    verb.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=seeds)
    _trial_options(verb, num_tasks=20, num_adaptations=3)
    verb.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")
    oracle = "evaluated run of a policy that observes the task, for comparison"
    verb.add_argument("--oracle", type=Path, metavar="RUN", help=oracle)


def video_options(verb: argparse.ArgumentParser) -> None:
    """Adds those of `video`."""
    verb.add_argument("run", type=Path, metavar="RUN", help="run folder")
    _trial_options(verb, num_tasks=2, num_adaptations=1)
    text = "the same as --num-tasks"
    suppress = argparse.SUPPRESS  # or this default would stand in for that of --num-tasks
    verb.add_argument(
        "--tasks", type=at_least(1), dest="num_tasks", default=suppress, metavar="N", help=text
    )
    text = "episodes of each task that are shown before and after"
    verb.add_argument("--episodes", type=at_least(1), default=1, metavar="N", help=text)
    text = f"{', '.join(CAMERAS)}, or AZIMUTH,ELEVATION in degrees"
    verb.add_argument("--camera", type=_camera, metavar="VIEW", help=text)
    text = "width and height of a picture, even [pixels]"
    verb.add_argument("--size", type=_even, default=480, metavar="PIXELS", help=text)
    text = "mp4, gif, or html, a replay to turn and to scrub; by default mp4 and html"
    verb.add_argument("--format", choices=FORMATS, help=text)


def check_env_options(verb: argparse.ArgumentParser) -> None:
    """Adds those of `check-env`."""
    verb.add_argument("env", metavar="NAME", help="as --env of train.py takes it")
    verb.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")


def report_options(verb: argparse.ArgumentParser) -> None:
    """Adds those of `report`."""
    verb.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    default = "the page; for one run report.html in its folder"
    verb.add_argument("-o", "--output", type=Path, metavar="FILE", help=default)
    verb.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    oracle = "evaluated run of a policy that observes the task; may be given again"
    verb.add_argument(
        "--oracle", type=Path, action="append", default=[], metavar="RUN", help=oracle
    )


def with_negative_values(words: Iterable[str]) -> list[str]:
    """Command-line words with "--camera", "-90,-20" joined by "=", without which argparse takes "-90,-20" for an option."""
    joined: list[str] = []
    for word in words:
        if re.match(r"-[\d.]", word) and joined and re.fullmatch(r"--\w[\w-]*", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _trial_options(verb: argparse.ArgumentParser, *, num_tasks: int, num_adaptations: int) -> None:
    verb.add_argument("--num-tasks", type=at_least(1), default=num_tasks)
    verb.add_argument("--num-adaptations", type=at_least(1), default=num_adaptations)
    verb.add_argument("--threads", type=at_least(0), default=0, help="0: all cores")


def at_least(bound: int) -> Callable[[str], int]:
    """A reader of whole numbers that are not below a bound."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < bound:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number >= {bound}")
        return int(text)

    return number


def _even(text: str) -> int:
    size = at_least(2)(text)
    if size % 2:
        raise argparse.ArgumentTypeError(f"{text}: must be even")
    return size


def _camera(text: str) -> tuple[float, float]:
    if text in CAMERAS:
        return CAMERAS[text]
    try:
        azimuth, elevation = map(float, text.split(","))
    except ValueError:
        azimuth = elevation = float("nan")
    if not (abs(azimuth) <= 360 and -90 < elevation < 90):
        cure = f"{', '.join(CAMERAS)}, or AZIMUTH,ELEVATION with -90 < ELEVATION < 90"
        raise argparse.ArgumentTypeError(f"{text}: must be {cure}")
    return azimuth, elevation
