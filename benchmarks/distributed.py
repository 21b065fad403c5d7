"""Iterations of one and of several processes: `python -m benchmarks.distributed [--json FILE]`.

Each process runs on one thread, and the processor time of each is counted, which waiting for others
is no part of; so the ratio is what a machine gives whose cores are free. All processes must end
with the same parameters, those of MAML bit for bit the ones of a single process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmarks.side_by_side import machine, parser, table, write_json
from metarl.core.machine.parallel import ALONE, Group, one_torch_thread
from metarl.core.rng import stream
from metarl.envs.registry import make
from metarl.learners.registry import ALGORITHMS, build_learner
from metarl.sampling.sampler import Collector, Key
from metarl.training.distributed import ProcessGroup
from metarl.training.launch import read_launch

ENV = "ant-dir"


@dataclass(frozen=True)
class Sizes:
    """Sizes of an iteration.

    Attributes:
        tasks: N.
        episodes: E.
        iterations: Timed ones; one more before them is not.
    """

    tasks: int = 20
    episodes: int = 10
    iterations: int = 2


QUICK = Sizes(tasks=2, episodes=4, iterations=1)
ALGOS = "maml-trpo", "rl2"


class Counting:
    """A group that counts the bytes that this process sends."""

    def __init__(self, group: ProcessGroup):
        self.rank, self.size, self.sent = group.rank, group.size, 0
        self._gather, original = group.gather, group._all_gather

        def count(own: torch.Tensor) -> list[torch.Tensor]:
            self.sent += own.numel() * own.element_size()
            return original(own)

        group._all_gather = count  # ty: ignore[invalid-assignment]

    def gather(self, make: Callable[[], Any]) -> list[Any]:
        """See `metarl.core.machine.parallel.Group`."""
        return self._gather(make)


def measure(algo: str, sizes: Sizes, group: Group | Counting) -> dict[str, Any]:
    """Trains for some iterations; returns the processor time of both halves of each [s]."""
    env, algorithm = make(ENV, 1), ALGORITHMS[algo]
    learner = build_learner(algorithm, algorithm.default(), env.spec, seed=0)
    if group.size > 1:
        learner.join_group(group)
    collector, times = Collector(env, group=group), []
    for iteration in range(sizes.iterations + 1):
        tasks = env.spec.tasks.sample(stream(0, "tasks", iteration), sizes.tasks)
        key, began = Key(0, "train", iteration), time.process_time()
        rollouts, context = collector.trial(
            learner, tasks, sizes.episodes, 1, key, is_training=True
        )
        collected = time.process_time()
        learner.update(context, rollouts, tasks)
        times.append((collected - began, time.process_time() - collected))
    sent = group.sent / (sizes.iterations + 1) if isinstance(group, Counting) else 0.0
    total = sum(float(v.double().abs().sum()) for v in learner.state_dict().values())
    return {"times": times[1:], "sent": sent, "state": total}


def start(algo: str, size: int, options: list[str]) -> list[dict[str, Any]]:
    """Measures in `size` processes; returns what each of them has printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "benchmarks.distributed", "--member", algo, *options]
    running = [
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in range(size)
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"{algo} with {size} processes has failed")
    return [json.loads(output) for output in outputs]


def compare(algo: str, options: list[str]) -> dict[str, Any]:
    """Measures one process and two; the busier one counts."""
    (one,), two = start(algo, 1, options), start(algo, 2, options)
    states = {each["state"] for each in (two if algo == "rl2" else [one, *two])}
    if len(states) > 1:
        raise RuntimeError(f"{algo}: the processes disagree: {states}")

    def busiest(found: list[dict[str, Any]], half: int) -> float:
        return max(median(times[half] for times in each["times"]) for each in found)

    names = "collect", "update"
    alone = {name: busiest([one], half) for half, name in enumerate(names)}
    shared = {name: busiest(two, half) for half, name in enumerate(names)}
    ratios = {name: alone[name] / shared[name] for name in names}
    ratios["iteration"] = sum(alone.values()) / sum(shared.values())
    return {"one": alone, "two": shared, "ratio": ratios, "bytes": two[0]["sent"]}


def main() -> None:
    """Measures, and prints a table."""
    options = parser(__doc__)
    options.add_argument("--member", choices=ALGOS, help="be a process of a measurement")
    chosen = options.parse_args()
    sizes, launch = (QUICK if chosen.quick else Sizes()), read_launch()
    if chosen.member:
        group = ALONE if launch.size == 1 else Counting(ProcessGroup(launch))
        with one_torch_thread():
            print(json.dumps(measure(chosen.member, sizes, group)))
        return
    found = {algo: compare(algo, ["--quick"] if chosen.quick else []) for algo in ALGOS}
    rows = [
        [algo, *(f"{each['ratio'][n]:.2f}" for n in ("collect", "update", "iteration"))]
        + [f"{each['bytes'] / 1e6:.1f} MB"]
        for algo, each in found.items()
    ]
    header = [f"two processes, {ENV}", "collect", "update", "iteration", "sent by each"]
    print(table(header, rows))
    if chosen.json:
        write_json(
            chosen.json,
            {"machine": machine(("torch", "mujoco")), "sizes": vars(sizes), "found": found},
        )


if __name__ == "__main__":
    main()
