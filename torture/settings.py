"""Configs and flags that were changed at random: typing errors, other types, extremes, bytes."""

from __future__ import annotations

import random
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from metarl.config.parser import flag
from metarl.config.schema import parse, to_yaml
from metarl.core.trees import flatten
from metarl.learners.registry import ALGORITHMS
from torture import trainings
from torture.processes import Outcome, call
from torture.records import Break, Row, run_trials

TEXTS = (
    *("", "x", "true", "null", "~", "[]", "[1, 2]", "{a: 1}", "ä", "\x1b[2J", "%s", "$(ls)", "'"),
    *("!!int abc", "!!python/name:os.system", "2001-99-99", "*a", "&a [*a]", "0x10", "1_000"),
    *(
        "1e400",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1",
        "2",
        "3",
        "7",
        "0.5",
        "-0.0",
        "1e-308",
        "1e308",
    ),
    *("1.5", "1e18", "2147483648", "9223372036854775808", "9" * 5000, "[" * 3000, "a" * 20000),
    *("../x", "/dev/null", "no:where", "-", "--", "8,8", "8 8", "None", "False", "\u2028", "\\"),
)
NUMBERS = (
    *("0", "1", "2", "3", "5", "8", "16", "-1", "0.5", "0.01", "1e-9", "1e-308", "1e308", "1e18"),
    *("2147483648", "9223372036854775808", "100000", "1.5", "nan", "inf"),
)
"""Texts that are numbers, often those that a setting may have."""

_FIXED = ("run_dir", "env", "device", "algo")
"""Settings that stay: the trials are about the others, in a folder of their own."""

_STEPS = 10_000
"""Largest training that is run; larger ones are only begun."""


def change(seed: int, count: int, broken: Break = None) -> Row:
    """Changes one to three settings in a file or in flags, or the bytes of a file."""
    with tempfile.TemporaryDirectory() as folder:

        def trial(algo: str, rng: random.Random) -> str:
            place = trainings.fresh(Path(folder, "x"))
            words = _change(algo, rng, place)
            done = call(words, place, prepare=[_limit, broken], longest=40.0)
            fault = _judge(done, place)
            shown = " ".join(words[7:])
            if (place / "my.yaml").exists():
                shown += (place / "my.yaml").read_bytes().decode("utf-8", "replace")[-300:]
            return f"{fault} ({shown:.300})" if fault else f"note: exit code {done.code}:"

        def trials() -> Iterator[tuple[str, Callable[[], str]]]:
            names = list(ALGORITHMS)
            for number in range(count):
                rng = random.Random(f"{seed}:{number}")
                yield f"trial {number}", partial(trial, names[number % len(names)], rng)

        return run_trials("settings", trials())


def _judge(done: Outcome, place: Path) -> str:
    if fault := done.find_fault():
        return fault
    lines = done.err.strip().splitlines()
    errors = [line for line in lines if line.startswith("metarl: error")]
    if done.code and (len(errors) != 1 or len(errors[0]) > 2000):
        return f"{len(errors)} lines of errors, of {max(map(len, errors), default=0)} characters"
    if done.code == 2 and (place / "run").exists():
        return f"refused after something was written: {errors[0]}"
    return ""


def _change(algo: str, rng: random.Random, place: Path) -> list[str]:
    """Writes a changed config, or changes flags; returns the command."""
    words = trainings.command(algo, iterations=1)
    tree = yaml.safe_load(to_yaml(parse(words[1:], prog="metarl train")))
    names = [name for name in flatten(tree) if name.partition(".")[0] not in _FIXED]
    chosen = rng.sample(names, rng.choice([1, 1, 2, 3]))
    if rng.random() < 0.4:
        return [*_without(words, chosen), *_flags(chosen, rng)]
    for name in chosen:
        _set(tree, name, rng)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    for mark in _MARKS:
        text = text.replace(mark, _choose(rng))
    raw = text.encode("utf-8", "replace")
    if rng.random() < 0.3:
        raw = _spoil(raw, rng)
    (place / "my.yaml").write_bytes(raw)
    return ["train", "--config", "my.yaml", "--run-dir", "run", *trainings.QUIET]


def _choose(rng: random.Random) -> str:
    return rng.choice(TEXTS if rng.random() < 0.3 else NUMBERS)


def _without(words: list[str], names: list[str]) -> list[str]:
    flags, kept, skip = {flag(name) for name in names}, [], False
    for word in words:
        skip = word in flags or (skip and not word.startswith("--"))
        kept += [] if skip else [word]
    return kept


def _flags(names: list[str], rng: random.Random) -> list[str]:
    words: list[str] = []
    for name in names:
        word, value = flag(name), _choose(rng)
        kind = rng.randrange(6)
        if kind == 0:
            at = rng.randrange(2, len(word))
            word = word[:at] + rng.choice("xé-.=") + word[at + 1 :]
        words += [[word, value], [word], [f"{word}={value}"], [word, value, value]][
            rng.randrange(4) if kind == 1 else 0
        ]
    return words


_MARKS = ("MARK-ONE", "MARK-TWO", "MARK-THREE")


def _set(tree: dict[str, Any], name: str, rng: random.Random) -> None:
    """Changes one entry of a tree: its value, its key, or whether it is there."""
    *groups, last = name.split(".")
    for group in groups:
        tree = tree[group]
    kind = rng.randrange(8)
    if kind == 0:
        tree[last + rng.choice("sx_")] = tree.pop(last, None)
    elif kind == 1:
        tree.pop(last, None)
    elif kind == 2:
        tree[last] = rng.choice([[], {}, [1, "a"], {"b": {"c": None}}, None, True, [[1.0]]])
    else:
        tree[last] = rng.choice(_MARKS)


def _spoil(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    if rng.random() < 0.3:
        return bytes(changed[: rng.randrange(len(changed))])
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _limit() -> None:
    """Limits memory, and begins large trainings only."""
    from metarl.training.trainer import Trainer

    run = Trainer.run

    def run_if_small(trainer, *args):
        sampler, config = trainer.config.sampler, trainer.config
        steps = sampler.num_tasks * sampler.num_episodes * (sampler.num_adaptations + 1)
        if steps * trainer._collector.env.spec.horizon * config.iterations <= _STEPS:
            run(trainer, *args)
        else:
            trainer.save()

    Trainer.run = run_if_small
    with suppress(ImportError):
        from metarl import api

        api.finish = lambda *_args, **_named: None
    text = Path("/proc/self/statm").read_text(encoding="utf-8")
    size = int(text.split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2_000_000_000,) * 2)


def catch_nothing() -> None:
    """Answers no error with a line."""
    from metarl.cli import commands, train

    def run_uncaught(command):
        command()
        return 0

    commands.run_command = train.run_command = run_uncaught
