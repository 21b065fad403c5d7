"""`python -m torture`: tries to break the product, and prints how often it held.

The full form takes about half an hour on two cores, `--quick` less than a minute.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torture import files, kills, machines, numbers, plugins, repeats, settings
from torture.plugin_kinds import KINDS as PLUGINS
from torture.processes import import_all
from torture.records import Break, Row, to_markdown, to_text
from torture.trainings import command


@dataclass(frozen=True)
class Kind:
    """One kind of trial.

    Attributes:
        about: What is done, for the table.
        run: (seed, count, broken) -> row.
        count: Trials of the full form.
        quick: Trials of the short form.
        broken: Breaks the product so that the kind fails; its docstring says how.
    """

    about: str
    run: Callable[[int, int, Break], Row]
    count: int
    quick: int
    broken: Callable[[], None]


KINDS = {
    "kills": Kind(
        "killed (`kill -9`) at a random instant, resumed: equal bit for bit",
        kills.kill_anytime,
        120,
        2,
        kills.lose_digits,
    ),
    "kills at files": Kind(
        "killed at the k-th change of a file, half of them with loss of what was not flushed",
        kills.kill_at_events,
        120,
        3,
        kills.write_in_place,
    ),
    "signals": Kind(
        "SIGINT, SIGTERM or SIGHUP, once or twice: saved, resumed, equal bit for bit",
        kills.send_signals,
        60,
        2,
        kills.fail_at_signals,
    ),
    "damaged files": Kind(
        "a damaged file of a run: refused in one line, or the right result",
        files.damage,
        2000,
        12,
        files.trust_every_byte,
    ),
    "planted links": Kind(
        "a link to a file outside, planted in a run: not followed",
        files.plant_links,
        33,
        10,
        files.write_through_links,
    ),
    "foreign runs": Kind(
        "a run folder that names a module beside it: its code does not run",
        files.open_strangers,
        16,
        4,
        files.trust_everybody,
    ),
    "settings": Kind(
        "a config or flags changed at random: one line or a training, never a traceback",
        settings.change,
        1000,
        14,
        settings.catch_nothing,
    ),
    "plug-ins": Kind(
        "environments that misbehave, each in one way: named when they are trained",
        plugins.misbehave,
        len(PLUGINS),
        1,
        plugins.see_no_fault,
    ),
    "numbers": Kind(
        "a number that is not finite, in any operation or saved tensor: never saved, never loaded",
        numbers.poison,
        400,
        4,
        numbers.trust_every_number,
    ),
    "machines": Kind(
        "full disk, little memory, few descriptors, closed streams: one line, and nothing is lost",
        machines.lack,
        120,
        5,
        settings.catch_nothing,
    ),
    "shared memory": Kind(
        "a /dev/shm of a few pages: exit code 6 and a hint",
        machines.shrink_shared_memory,
        6,
        1,
        machines.reserve_nothing,
    ),
    "determinism": Kind(
        "other threads, workers and interruptions: equal bit for bit",
        repeats.compare_runs,
        100,
        2,
        repeats.count_threads,
    ),
    "growth": Kind(
        "memory after many iterations: no growth",
        repeats.grow,
        2000,
        60,
        repeats.leak,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the kinds; returns 0 if all results are good, and 1 otherwise."""
    arguments = _read_arguments(argv)
    names = arguments.only or list(KINDS)
    import_all([command(algo) for algo in ("maml-trpo", "rl2", "sb3-ppo")])
    rows = []
    for name in names:
        kind = KINDS[name]
        count = kind.quick if arguments.quick else kind.count
        count = max(1, round(count * arguments.scale)) if count else 0
        if not count:
            continue
        rows.append(kind.run(arguments.seed, count, kind.broken if arguments.broken else None))
        print(to_text(rows[-1:]), flush=True)
    _write(arguments, rows)
    return 0 if all(row.is_good or not row.number for row in rows) else 1


def _read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the short form, for the tests")
    parser.add_argument("--broken", action="store_true", help="break the product: every kind fails")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), help="some kinds only")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the numbers of trials")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--markdown", type=Path, help="page whose table is replaced")
    return parser.parse_args(argv)


def _write(arguments: argparse.Namespace, rows: Sequence[Row]) -> None:
    if arguments.json:
        tree = {"seed": arguments.seed, "rows": [row.record() for row in rows]}
        arguments.json.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown:
        about = {name: kind.about for name, kind in KINDS.items()}
        table = to_markdown(rows, about)
        head = f"<!-- torture: seed {arguments.seed} -->\n"
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        place = f"\nMeasured on {day} with Python {platform.python_version()}.\n"
        text = arguments.markdown.read_text(encoding="utf-8")
        before, _, rest = text.partition("<!-- torture")
        after = rest.partition("<!-- end of torture -->")[2]
        text = f"{before}{head}{table}{place}<!-- end of torture -->{after}"
        arguments.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
