"""Determinism over threads, workers and interruptions, and growth over many iterations."""

from __future__ import annotations

import itertools
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from metarl.learners.registry import ALGORITHMS
from torture import trainings
from torture.processes import Outcome, call
from torture.records import Break, Row, run_trials

ENVS = ("navigation-2d", "half-cheetah-dir/rllib", "torture.plugin_kinds:Good")
"""In NumPy, in MuJoCo's threads, and in worker processes."""

PAGE = os.sysconf("SC_PAGE_SIZE") / 1024.0
"""Size of a page [KiB]."""


def compare_runs(seed: int, count: int, broken: Break = None) -> Row:
    """Trains with other numbers of threads and workers and with interruptions."""
    with tempfile.TemporaryDirectory() as folder:
        known: dict[tuple[str, str], trainings.Result] = {}

        def expected(algo: str, env: str) -> trainings.Result:
            if (algo, env) not in known:
                place = trainings.fresh(Path(folder, "whole"))
                _require(call(_words(algo, env, 1), place))
                known[algo, env] = trainings.read_result(place / "run")
            return known[algo, env]

        def trial(algo: str, env: str, threads: int, number: int | None) -> str:
            place, result = trainings.fresh(Path(folder, "x")), expected(algo, env)
            words = _words(algo, env, threads)
            at = random.Random(f"{seed}{algo}{env}{threads}{number}").uniform(0.1, 1.0)
            signals = [(at, number)] if number else []
            call(words, place, prepare=[broken], signals=signals)
            done = trainings.resume(words, place, broken)
            return done.find_fault(frozenset({0})) or trainings.compare(result, place / "run")

        signals = None, signal.SIGKILL, signal.SIGTERM
        choices = list(itertools.product(ALGORITHMS, ENVS, (2, 3), signals))
        random.Random(seed).shuffle(choices)

        def trials() -> Iterator[tuple[str, Callable[[], str]]]:
            for algo, env, threads, number in choices[:count]:
                text = signal.Signals(number).name if number else "undisturbed"
                name = f"{algo} on {env}, {threads} threads, {text}"
                yield name, partial(trial, algo, env, threads, number)

        return run_trials("determinism", trials())


def _words(algo: str, env: str, threads: int) -> list[str]:
    return trainings.command(algo, env=env, iterations=3, threads=threads)


def _require(done: Outcome) -> None:
    if fault := done.find_fault(frozenset({0})):
        raise RuntimeError(f"an undisturbed run failed: {fault}")


# --- growth ---------------------------------------------------------------------------------------

GROWING = ("maml-trpo", "rl2", "sb3-ppo")


def grow(seed: int, count: int, broken: Break = None) -> Row:
    """Measures the memory of trainings of `count` iterations; fits a line to the second half."""
    began, failures, notes = time.monotonic(), [], []
    # an allocator returns memory in steps, which weigh less in a longer run
    limit = 0.5 + 600.0 / count
    learners = GROWING if count >= 500 else GROWING[:1]
    for algo in learners:
        with tempfile.TemporaryDirectory() as folder:
            words = trainings.command(algo, "--seed", seed, iterations=count, minutes=60.0)
            place, path = Path(folder), Path(folder, "pages")
            done = call(words, place, prepare=[broken, partial(_note_pages, path)], longest=1800.0)
            if fault := done.find_fault(frozenset({0})):
                failures.append(f"{algo}: {fault}")
                continue
            pages = np.loadtxt(path)[count // 2 :]
        slope = float(np.polyfit(np.arange(len(pages)), pages * PAGE, 1)[0])
        notes.append(f"{algo} {slope:.2f} KiB an iteration")
        if slope > limit:
            failures.append(f"{algo} grows by {slope:.2f} KiB an iteration")
    seconds = time.monotonic() - began
    return Row("growth", len(learners), tuple(failures), seconds, ", ".join(notes))


def _note_pages(path: Path) -> None:
    """Appends the resident pages of this process to a file at every record of the log."""
    from metarl.runs.logger import RunLog

    write = RunLog.write

    def write_and_note(log, record):
        write(log, record)
        pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{pages}\n")

    RunLog.write = write_and_note


# --- the product, broken --------------------------------------------------------------------------


def count_threads() -> None:
    """Draws other random numbers with other numbers of threads."""
    from metarl.training.trainer import Trainer

    begin = Trainer.__init__

    def begin_with_threads(self, env, learner, distribution, config, *rest):
        other = replace(config, seed=config.seed + config.sampler.threads - 1)
        begin(self, env, learner, distribution, other, *rest)

    Trainer.__init__ = begin_with_threads


def leak() -> None:
    """Keeps 64 KiB of every record."""
    from metarl.runs.logger import RunLog

    write, kept = RunLog.write, []

    def write_and_keep(log, record):
        write(log, record)
        kept.append(os.urandom(65536))

    RunLog.write = write_and_keep
