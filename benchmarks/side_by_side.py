"""Tools of all benchmarks: contenders that take turns, the machine, tables and JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PAGES_TO_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Timing:
    """Rounds of one contender.

    Attributes:
        name: Name of the contender.
        work: Units of work in a round (environment steps, updates).
        seconds: Wall-clock time of every round [s].
        cpu_seconds: Processor time of this process in every round [s]; it leaves out child
            processes.
    """

    name: str
    work: float
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median wall-clock time of a round [s]."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Units of work per second."""
        return self.work / self.median

    @property
    def cpu_rate(self) -> float:
        """Units of work per second of processor time."""
        return self.work / statistics.median(self.cpu_seconds)

    def record(self) -> dict[str, Any]:
        """Returns the timing as JSON holds it."""
        return {**asdict(self), "median": self.median, "rate": self.rate}


def take_turns(
    contenders: Mapping[str, Callable[[], float]], rounds: int, limit: float = math.inf
) -> dict[str, Timing]:
    """Runs A B C A B C ..., so that a noisy machine affects all contenders alike.

    Args:
        contenders: Name -> a function that does a round and returns its work. Each runs once before
            the first round.
        rounds: Rounds that count.
        limit: Time after which no further round begins [s]; one round is always made.

    Returns:
        Name -> timing; the work is that of the last round.
    """
    walls: dict[str, list[float]] = {name: [] for name in contenders}
    processors: dict[str, list[float]] = {name: [] for name in contenders}
    began = time.perf_counter()
    work = {name: run() for name, run in contenders.items()}
    for index in range(rounds):
        if index and time.perf_counter() - began > limit:
            break
        for name, run in contenders.items():
            wall, processor = time.perf_counter(), time.process_time()
            work[name] = run()
            walls[name].append(time.perf_counter() - wall)
            processors[name].append(time.process_time() - processor)
    return {
        name: Timing(name, work[name], tuple(walls[name]), tuple(processors[name]))
        for name in contenders
    }


@dataclass(frozen=True)
class Ratio:
    """Ratio of the rates of two contenders, taken in every round.

    Attributes:
        name: Name for people.
        median: Median of the rounds.
        low: Smallest of the rounds.
        high: Largest of the rounds.
        target: The project's target, or None.
    """

    name: str
    median: float
    low: float
    high: float
    target: float | None = None

    @staticmethod
    def of(
        name: str, a: Timing, b: Timing, *, times: float = 1.0, target: float | None = None
    ) -> Ratio:
        """Returns the rate of A over `times` the rate of B.

        Rounds that are neighbours in time are compared, so slow drifts cancel.
        """
        each = [
            (a.work / own) / (times * b.work / other)
            for own, other in zip(a.seconds, b.seconds, strict=True)
        ]
        return Ratio(name, statistics.median(each), min(each), max(each), target)

    def row(self) -> list[str]:
        """Returns a row of a table: name, median, spread, target."""
        target = "" if self.target is None else f"{self.target:g}"
        return [self.name, f"{self.median:.2f}", f"{self.low:.2f} .. {self.high:.2f}", target]


RATIO_HEADER = ("ratio of rates", "median", "spread", "target")


def resident() -> float:
    """Returns the present memory of this process [MB]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGES_TO_MB


def peak_resident() -> float:
    """Returns the peak memory of this process since its last reset [MB]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1.024e-3


def gpu_peak(run: Callable[[], Any]) -> float:
    """Returns the peak GPU memory of a function, with what was allocated before it [MB]."""
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 1e6


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Returns processor, cores, load, and versions of Python and packages."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "processor": model,
        **gpu,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
    }


def describe(computer: Mapping[str, Any]) -> str:
    """Describes the machine in one paragraph."""
    versions = ", ".join(f"{name} {number}" for name, number in computer["versions"].items())
    busy = computer["load_average"] > 0.5
    load = f"load average at the start {computer['load_average']:.1f}" + (
        ": other programs are running, the times are not those of an idle machine" if busy else ""
    )
    gpu = f", {computer['gpu']}" if "gpu" in computer else ""
    return f"{computer['processor']}, {computer['cores']} cores{gpu}, {load}\n{versions}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table with the first column left-aligned and the others right-aligned."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def text(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([text(lines[0]), "  ".join("-" * w for w in widths), *map(text, lines[1:])])


def parser(description: str, robots: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Returns a parser with the options that every benchmark has.

    Args:
        description: The module's docstring, of which --help shows the first line.
        robots: Environments that --envs chooses from; without any there is no such option.
    """
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    options.add_argument("--quick", action="store_true", help="a small workload: does it run?")
    if robots:
        options.add_argument("--envs", nargs="+", choices=robots, default=robots)
    return options


def write_json(path: Path | None, results: Mapping[str, Any]) -> None:
    """Writes the results, if --json names a file."""
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n")
