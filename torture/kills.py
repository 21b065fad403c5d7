"""Trainings that are killed or stopped, resumed, and compared bit for bit with undisturbed ones."""

from __future__ import annotations

import builtins
import os
import random
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from metarl.learners.registry import ALGORITHMS
from metarl.runs.folder import newest_step
from torture import trainings
from torture.processes import call
from torture.records import Break, Row, run_trials
from torture.trainings import Result


class Events:
    """Counts a process's changes of files in a folder, and kills it at one of them.

    An event is an open for writing, a flush to the disk, a rename, or a new or removed file or
    folder. At the kill the power may be cut too: of every file a random number of the bytes that
    were not flushed is lost.

    Args:
        folder: The folder.
        count_file: Gets a byte for each event.
        number: The event at which the process is killed, from 1 on; 0 for none.
        cuts_power: The bytes that were not flushed are lost.
        seed: Decides how many of them.
        sent: The signal to send instead of SIGKILL.
    """

    def __init__(
        self,
        folder: Path,
        count_file: Path,
        number: int = 0,
        cuts_power: bool = False,
        seed: float = 0,
        sent: int = signal.SIGKILL,
    ):
        self.sent = sent
        self.folder, self.number = f"{folder}{os.sep}", number
        self.cuts_power, self.rng = cuts_power, random.Random(seed)
        self.count_file, self.count = count_file, 0
        self.flushed: dict[str, int] = {}

    def install(self) -> None:
        """Starts to count in this process."""
        self.counter = os.open(self.count_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        fsync = os.fsync

        def counting_fsync(file: int) -> None:
            self.happen()
            fsync(file)
            path = os.readlink(f"/proc/self/fd/{file}")
            if path in self.flushed:
                self.flushed[path] = os.fstat(file).st_size

        os.fsync = counting_fsync
        sys.addaudithook(self.notice)

    def notice(self, event: str, details: tuple) -> None:
        """Counts an event that Python reports before it happens."""
        if event == "open":
            path, _, flags = details
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) and self.owns(path):
                self.happen()
                path = os.path.abspath(os.fsdecode(path))
                size = os.path.getsize(path) if os.path.exists(path) else 0
                self.flushed.setdefault(path, size)
        elif event == "os.rename" and self.owns(details[0]):
            self.happen()
            source, target = (os.path.abspath(os.fsdecode(each)) for each in details[:2])
            for path in [p for p in self.flushed if p == source or p.startswith(source + os.sep)]:
                self.flushed[target + path.removeprefix(source)] = self.flushed.pop(path)
        elif event in ("os.mkdir", "os.remove", "os.rmdir") and self.owns(details[0]):
            self.happen()

    def owns(self, path: object) -> bool:
        """Returns whether a path is in the folder, or relative to one of its files."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        text = os.path.abspath(os.fsdecode(path))
        return text.startswith(self.folder)

    def happen(self) -> None:
        """Counts one event, and kills the process if it is the chosen one."""
        self.count += 1
        os.write(self.counter, b".")
        if self.count == self.number:
            if self.cuts_power:
                self.lose()
            os.kill(os.getpid(), self.sent)

    def lose(self) -> None:
        """Removes a random number of the last bytes that were not flushed from every file."""
        for path, flushed in self.flushed.items():
            size = os.path.getsize(path) if os.path.exists(path) else 0
            if size > flushed:
                os.truncate(path, self.rng.randint(flushed, size))


class Bench:
    """Undisturbed runs of each learner, made when they are first needed.

    Args:
        folder: Where they train.
        broken: Breaks the product.
    """

    def __init__(self, folder: Path, broken: Break = None):
        self.folder, self.broken = folder, broken
        self.known: dict[str, tuple[Result, float, int]] = {}

    def undisturbed(self, algo: str) -> tuple[Result, float, int]:
        """Returns result, duration [s] and number of events of a run."""
        if algo not in self.known:
            place, count = trainings.fresh(self.folder / f"whole-{algo}"), self.folder / "events"
            count.unlink(missing_ok=True)
            words, events = trainings.command(algo), Events(place, count)
            done = call(words, place, prepare=[events.install])
            if fault := done.find_fault(frozenset({0})):
                raise RuntimeError(f"an undisturbed run of {algo} failed: {fault}")
            result = trainings.read_result(place / "run")
            self.known[algo] = result, done.seconds, count.stat().st_size
        return self.known[algo]

    def go_on(self, algo: str, place: Path) -> str:
        """Goes on with a run that was stopped; returns how it differs from the undisturbed one."""
        done = trainings.resume(trainings.command(algo), place, self.broken)
        if fault := done.find_fault(frozenset({0})):
            return f"resume: {fault}"
        if "passed over" in done.err:
            return f"resume: {done.err.strip().splitlines()[0]}"
        leftovers = [path.name for path in (place / "run").rglob(".*")]
        if leftovers:
            return f"resume leaves {leftovers}"
        return trainings.compare(self.undisturbed(algo)[0], place / "run")


def chosen_learners(seed: int, count: int) -> Iterator[tuple[int, str, random.Random]]:
    """Yields number, learner and random numbers of each trial; the learners take turns."""
    names = list(ALGORITHMS)
    for number in range(count):
        yield number, names[(seed + number) % len(names)], random.Random(f"{seed}:{number}")


def kill_anytime(seed: int, count: int, broken: Break = None) -> Row:
    """Kills trainings at random instants."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), broken)

        def trial(algo: str, rng: random.Random) -> str:
            place, (_, seconds, _) = trainings.fresh(bench.folder / "x"), bench.undisturbed(algo)
            signals = [(rng.uniform(0.0, seconds), signal.SIGKILL)]
            call(trainings.command(algo), place, prepare=[broken], signals=signals)
            return bench.go_on(algo, place)

        return run_trials("kills", _named(trial, seed, count))


def kill_at_events(seed: int, count: int, broken: Break = None) -> Row:
    """Kills trainings at their k-th change of a file, and cuts the power in every second trial."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), broken)

        def trial(algo: str, rng: random.Random) -> str:
            place, (_, _, events) = trainings.fresh(bench.folder / "x"), bench.undisturbed(algo)
            number, cuts_power = rng.randint(1, events), rng.random() < 0.5
            killer = Events(place, bench.folder / "count", number, cuts_power, rng.random())
            words = trainings.command(algo)
            done = call(words, place, prepare=[broken, killer.install])
            if done.code != -signal.SIGKILL and not broken:
                return f"event {number} of {events} did not happen: exit code {done.code}"
            return bench.go_on(algo, place)

        return run_trials("kills at files", _named(trial, seed, count))


_STOPPED = re.compile(r"stopped by (\w+) after iteration (\d+)")


def send_signals(seed: int, count: int, broken: Break = None) -> Row:
    """Stops trainings by SIGINT, SIGTERM or SIGHUP, in some trials by two signals.

    Every second signal comes at a change of a file in the middle of the training.
    """
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), broken)

        def trial(algo: str, rng: random.Random, is_first: bool) -> str:
            place, (_, seconds, events) = (
                trainings.fresh(bench.folder / "x"),
                bench.undisturbed(algo),
            )
            number = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            signals, prepare = [(rng.uniform(0.0, seconds), number)], [broken]
            if rng.random() < 0.3:
                signals.append((signals[0][0] + rng.uniform(0.0, 0.1), number))
            if rng.random() < 0.5 or is_first:
                at = rng.randint(events // 2, events * 3 // 4)
                sender = Events(place, bench.folder / "count", at, sent=number)
                signals, prepare = [], [broken, sender.install]
            done = call(trainings.command(algo), place, prepare=prepare, signals=signals)
            # before the command begins, a signal ends the process as it ends every other
            codes = frozenset({0, 75, 128 + number, -number})
            fault = done.find_fault(codes) if done.code != -number else ""
            if fault:
                return fault
            for name, step in _STOPPED.findall(done.err):
                if name != number.name or newest_step(place / "run") != int(step):
                    return f"stopped after iteration {step}, and {newest_step(place / 'run')} saved"
            return bench.go_on(algo, place)

        def trials() -> Iterator[tuple[str, Callable[[], str]]]:
            for number, algo, rng in chosen_learners(seed, count):
                yield f"trial {number}, {algo}", partial(trial, algo, rng, not number)

        return run_trials("signals", trials())


def _named(
    trial: Callable[[str, random.Random], str], seed: int, count: int
) -> Iterator[tuple[str, Callable[[], str]]]:
    for number, algo, rng in chosen_learners(seed, count):
        yield f"trial {number}, {algo}", partial(trial, algo, rng)


# --- the product, broken --------------------------------------------------------------------------


def lose_digits() -> None:
    """Saves tensors with half of their digits."""
    from metarl.runs import checkpoint

    whole = checkpoint.to_bytes

    def rounded(tensors):
        short = {n: v.to(torch.bfloat16).to(v.dtype) for n, v in tensors.items()}
        return whole(short)

    checkpoint.to_bytes = rounded


def write_in_place() -> None:
    """Writes the files of a checkpoint under their last names, without a rename."""
    from metarl.runs import checkpoint

    def write(directory, step, files, keep):
        target = directory / f"it_{step:08d}"
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with builtins.open(target / name, "wb") as file:
                file.write(content)
        return target

    checkpoint._write = write


def fail_at_signals() -> None:
    """Fails in the handler of a signal."""
    from metarl.training.trainer import Trainer

    def fail(self, number, frame):
        raise RuntimeError("no handler")

    Trainer._note_signal = fail
