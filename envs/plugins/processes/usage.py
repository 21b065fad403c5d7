"""Usage of the machine by a worker process, to find plug-ins that need more every episode."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

_MEMORY = 2_000_000
"""Growth of the memory in each episode that is reported [bytes]."""


@dataclass(frozen=True)
class Usage:
    """Threads, files and memory of a process.

    Attributes:
        threads: Threads.
        files: Open files and pipes.
        memory: Resident memory [bytes].
    """

    threads: int
    files: int
    memory: int


def read_usage() -> Usage:
    """Returns what this process uses; zeros where there is no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        counts = [len(os.listdir(f"/proc/self/{name}")) for name in ("task", "fd")]
    except OSError:
        return Usage(0, 0, 0)
    return Usage(*counts, pages * os.sysconf("SC_PAGE_SIZE"))


def find_growth(used: Sequence[Usage], num_episodes: int) -> str:
    """Returns a warning if every set of episodes needs more than the one before, else "".

    Args:
        used: Before the first set of episodes and after each.
        num_episodes: Episodes of a set, in all processes.
    """
    if len(used) < 3:
        return ""
    found = []
    for name, least in (("threads", 1), ("files", 1), ("memory", _MEMORY * num_episodes)):
        values = [vars(each)[name] for each in used]
        steps = [after - before for before, after in zip(values, values[1:], strict=False)]
        if min(steps) >= least:
            numbers = [value // 1_000_000 if name == "memory" else value for value in values]
            unit = " MB" if name == "memory" else ""
            found.append(f"{name} grow from {numbers[0]} to {numbers[-1]}{unit}")
    if not found:
        return ""
    count = (len(used) - 1) * num_episodes
    return f"{' and '.join(found)} in {count} episodes: it leaks"
