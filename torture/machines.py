"""Machines that lack something: disk, memory, shared memory, descriptors, streams."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from torture import trainings
from torture.kills import Bench
from torture.processes import call
from torture.records import Break, Row, run_trials

_NEW_MOUNTS = 0x00020000
"""CLONE_NEWNS of Linux's sched.h."""

LEARNERS = ("maml-trpo", "rl2", "sb3-ppo")


def _limit_file_size(rng: random.Random) -> Callable[[], None]:
    size = rng.choice([0, rng.randrange(100), rng.randrange(3_000), rng.randrange(30_000)])
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


def _limit_descriptors(rng: random.Random) -> Callable[[], None]:
    number = rng.randint(3, 16)
    return partial(resource.setrlimit, resource.RLIMIT_NOFILE, (number, number))


def _limit_memory(rng: random.Random) -> Callable[[], None]:
    more = rng.randrange(30_000_000)

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        size = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    return limit


def _limit_processes(rng: random.Random) -> Callable[[], None]:
    return partial(resource.setrlimit, resource.RLIMIT_NPROC, (1, 1))


def _close_streams(rng: random.Random) -> Callable[[], None]:
    numbers = [number for number in (0, 1, 2) if rng.random() < 0.6] or [2]

    def close() -> None:
        for number in numbers:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)

    return close


def _fill_disk(rng: random.Random) -> Callable[[], None]:
    return partial(_mount, None, rng.choice([8, 16, 32, 48, 64, 96]))


WAYS = (_limit_file_size, _limit_descriptors, _limit_memory, _close_streams, _fill_disk)
WAYS += (_limit_processes,)


def _mount(place: str | None, size: int) -> None:
    """Puts a file system of `size` [KiB] on a folder, for this process alone.

    Args:
        place: The folder; None for one with the name `disk` below the current one, which the
            process then works in.
        size: Its size.

    Raises:
        PermissionError: This machine does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    folder = place or "disk"
    os.makedirs(folder, exist_ok=True)
    private = 0x40000 | 0x4000  # MS_PRIVATE and MS_REC: no other process sees it
    steps = [
        lambda: libc.unshare(_NEW_MOUNTS),
        lambda: libc.mount(b"none", b"/", None, private, None),
        lambda: libc.mount(b"x", folder.encode(), b"tmpfs", 0, f"size={size}k".encode()),
    ]
    if any(step() for step in steps):
        raise PermissionError(ctypes.get_errno(), "no file system can be mounted here")
    if place is None:
        os.chdir(folder)


def can_mount() -> bool:
    """Returns whether a process can have a file system of its own."""
    with tempfile.TemporaryDirectory() as folder:
        number = os.fork()
        if number == 0:
            try:
                _mount(folder, 8)
                os._exit(0)
            except OSError:
                os._exit(1)
        return os.waitpid(number, 0)[1] == 0


def _keep_disk() -> None:
    """Copies the run from the file system of this process beside it."""
    if Path("run").exists() and Path.cwd().name == "disk":
        shutil.copytree("run", "/proc/self/fd/99/run", symlinks=True)


def lack(seed: int, count: int, broken: Break = None) -> Row:
    """Trains on a machine that lacks something; then goes on where nothing is lacking."""
    ways = [way for way in WAYS if way is not _fill_disk or can_mount()]
    if os.getuid() == 0:  # the limit is not for root
        ways.remove(_limit_processes)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))

        def trial(algo: str, way: Callable, rng: random.Random) -> str:
            place, _ = trainings.fresh(bench.folder / "x"), bench.undisturbed(algo)
            prepare = [partial(_remember, str(place)), broken, way(rng)]
            done = call(trainings.command(algo), place, prepare=prepare, finish=_keep_disk)
            codes = frozenset({0, 2, 5, 6})
            is_silent = way is _close_streams
            fault = "" if is_silent and done.code in codes else done.find_fault(codes)
            if fault:
                return fault
            return bench.go_on(algo, place)

        def trials() -> Iterator[tuple[str, Callable[[], str]]]:
            for number in range(count):
                rng = random.Random(f"{seed}:{number}")
                way, algo = ways[number % len(ways)], LEARNERS[number // len(ways) % len(LEARNERS)]
                name = f"trial {number}, {algo}, {way.__name__.strip('_')}"
                yield name, partial(trial, algo, way, rng)

        return run_trials("machines", trials())


def _remember(place: str) -> None:
    """Opens the folder of the trial as descriptor 99, from which no limit is counted."""
    handle = os.open(place, os.O_RDONLY)
    os.dup2(handle, 99)
    os.close(handle)


def shrink_shared_memory(seed: int, count: int, broken: Break = None) -> Row:
    """Trains a plug-in with a /dev/shm of a few pages."""
    if not can_mount():
        return Row("shared memory", 0, (), 0.0, "no file system can be mounted")
    with tempfile.TemporaryDirectory() as folder:

        def trial(size: int) -> str:
            place = trainings.fresh(Path(folder, "x"))
            words = trainings.command("maml-trpo", env="torture.plugin_kinds:Good", iterations=1)
            words[words.index("--sampler.num-tasks") + 1] = "400"
            done = call(words, place, prepare=[broken, partial(_mount, "/dev/shm", size)])
            if fault := done.find_fault(frozenset({6})):
                return fault
            return "" if "shm" in done.err else f"no word of /dev/shm: {done.err.strip()}"

        rng = random.Random(seed)
        sizes = [rng.choice([4, 8, 12]) for _ in range(count)]
        trials = [(f"{size} KiB", partial(trial, size)) for size in sizes]
        return run_trials("shared memory", trials)


def reserve_nothing() -> None:
    """Does not reserve shared memory; its first write beyond the end is a SIGBUS."""
    os.posix_fallocate = lambda *_args: None
