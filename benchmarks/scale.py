"""Collection on a cluster: the cost of Ray on one machine, bytes sent, and killed workers.

    local           an iteration of MAML-TRPO on ant-dir with the collector of this process
    ray             the same with Ray's actors on the same cores
    speed-up        an iteration with 1 and 2 actors, and with one for each core
    bytes           what the workers send and receive in an iteration of 40 Ant tasks, and the bytes
                    of it that the update reads, from the operations of torch
    kills           trainings in which actors are killed at random instants, against one without

The first two take turns in one process. The measured shares of an iteration then give a prediction
for more cores, over a simulated network.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.side_by_side import (
    RATIO_HEADER,
    Ratio,
    describe,
    machine,
    parser,
    table,
    take_turns,
    write_json,
)
from metarl import collecting
from metarl.builders import build_env, build_learner
from metarl.config.schema import build_config, to_yaml
from metarl.core.machine.parallel import ALONE, one_torch_thread
from metarl.core.rng import stream
from metarl.sampling.cluster.ray_workers import RayWorkers
from metarl.sampling.sampler import Collector
from metarl.sampling.trials import Key

CORES = len(os.sched_getaffinity(0))


class Side:
    """A learner and its collector, here or on Ray.

    Args:
        config: The settings.
        is_remote: Collect by actors of Ray.
    """

    def __init__(self, config: Any, *, is_remote: bool):
        self.config, self.env = config, build_env(config)
        self.learner = build_learner(config, self.env, "cpu")
        self.collector: Any = Collector(self.env, config.sampler.slices)
        if is_remote:
            build = partial(collecting.build_worker, to_yaml(config), os.getcwd())
            self.workers = RayWorkers("local", build)
            parts = config, self.collector, self.workers, self.learner, ALONE
            self.collector = collecting.join_cluster(*parts)
        self.iteration, self.seconds = 0, [0.0, 0.0]

    def collect(self) -> tuple[Any, Any, np.ndarray]:
        """Runs the trial of the next iteration."""
        sampler = self.config.sampler
        rng = stream(0, "tasks", self.iteration)
        tasks, key = self.env.spec.tasks.sample(rng, sampler.num_tasks), Key(0, "t", self.iteration)
        sizes = sampler.num_episodes, sampler.num_adaptations
        self.iteration += 1
        return *self.collector.trial(self.learner, tasks, *sizes, key, is_training=True), tasks

    def round(self) -> float:
        """Makes an iteration; returns its steps."""
        with one_torch_thread():
            began = time.perf_counter()
            rollouts, context, tasks = self.collect()
            collected = time.perf_counter()
            self.learner.update(context, rollouts, tasks)
        self.seconds = [collected - began, time.perf_counter() - collected]
        return sum(rollout.num_steps() for rollout in rollouts)

    def close(self) -> None:
        self.collector.close()
        self.env.close()


class Reads(TorchDispatchMode):
    """Notes the storages that operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, torch.Tensor):
                self.places.add(leaf.untyped_storage().data_ptr())
        return func(*args, **(kwargs or {}))


def measure_bytes(config: Any) -> dict[str, float]:
    """Measures an iteration: bytes sent by and to the workers, and those that the update reads."""
    with closing(Side(config, is_remote=True)) as side, one_torch_thread():
        side.round()  # a first update only measures the scale of observations
        side.collector.take_counts()
        rollouts, context, tasks = side.collect()
        moved = side.collector.take_counts()["workers/megabytes"] * 1e6
        storages: dict[int, int] = {}
        for leaf in _list_tensors((rollouts, context)):
            size = leaf.untyped_storage().nbytes()
            place = leaf.untyped_storage().data_ptr()
            storages[place] = max(storages.get(place, 0), min(size, leaf.nbytes))
        with Reads() as reads:
            side.learner.update(context, rollouts, tasks)
        read = sum(size for place, size in storages.items() if place in reads.places)
    return {"moved": moved, "read": float(read), "ratio": moved / read}


def _list_tensors(value: Any) -> list[torch.Tensor]:
    """Returns the tensors of a tree of records, each storage once or several times."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _list_tensors(each)]
    if isinstance(value, (list, tuple)):
        return [leaf for each in value for leaf in _list_tensors(each)]
    return _list_tensors(vars(value)) if hasattr(value, "__dict__") else []


@contextmanager
def killing(side: Side, number: int, rng: random.Random, kills: list[float]):
    """Kills `number` processes of actors at random instants while the block runs."""
    stop = threading.Event()

    def kill() -> None:
        while len(kills) < number and not stop.wait(rng.uniform(0.2, 2.5)):
            # one of those that have answered, at a random instant of its work
            found = side.workers.list_processes()
            with suppress(ProcessLookupError):  # it has just been found dead
                if found:
                    os.kill(rng.choice(found), signal.SIGKILL)
                    kills.append(time.monotonic())

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure_kills(config: Any, number: int) -> dict[str, Any]:
    """Trains while actors are killed until `number` are, and compares with a training here."""
    kills: list[float] = []
    lost = redone = 0.0
    with closing(Side(config, is_remote=True)) as side:
        with killing(side, number, random.Random(0), kills):
            while len(kills) < number:
                side.round()
                counts = side.collector.take_counts()
                lost, redone = lost + counts["workers/lost"], redone + counts["workers/redone"]
        iterations, state = side.iteration, side.learner.state_dict()
    with closing(Side(config, is_remote=False)) as here:
        for _ in range(iterations):
            here.round()
        expected = here.learner.state_dict()
    same = all(torch.equal(state[name], value) for name, value in expected.items())
    return {"kills": len(kills), "lost": lost, "redone": redone, "same": same, "rounds": iterations}


@dataclass(frozen=True)
class Shares:
    """Measured costs of an iteration.

    Attributes:
        collect: Time of a core for the trial of a task, adaptation included [s].
        update: Time of a core for a task of an update [s].
        bytes: Sent for a task.
        params: Bytes sent to every worker.
    """

    collect: float
    update: float
    bytes: float
    params: float


@dataclass(frozen=True)
class Network:
    """A simulated network.

    Attributes:
        latency: Of a message [s].
        bandwidth: Of every machine [bytes/s].
        machine: Cores of a machine.
    """

    latency: float = 1e-4
    bandwidth: float = 10e9 / 8
    machine: int = 64


def simulate(shares: Shares, cores: int, tasks: int, network: Network, updaters: int) -> float:
    """Simulates an iteration; returns its time [s].

    The parameters go to the machines in turn, and results come back in the order in which they are
    ready, through the one network interface of the machine of the update. Every core plays
    `tasks` tasks. The update has `updaters` cores.
    """
    machines = -(-cores // network.machine)
    free, arrivals = 0.0, []
    for _ in range(machines):
        free += shares.params / network.bandwidth
        arrivals.append(free + network.latency)
    ends = []
    for core in range(cores):
        # tasks differ by a tenth in length, drawn evenly: the slowest core is waited for
        factor = 1.0 + 0.1 * (core + 0.5) / cores - 0.05
        ends.append(arrivals[core // network.machine] + factor * tasks * shares.collect)
    free = 0.0
    for end in sorted(ends):
        free = max(free, end + network.latency) + tasks * shares.bytes / network.bandwidth
    return free + shares.update * tasks * cores / updaters


def plan(shares: Shares, network: Network) -> list[list[str]]:
    """Returns rows of the predicted efficiency for numbers of cores; 1 is as one core alone."""
    rows = []
    for cores in (2, 16, 256, 4096):
        row = [str(cores)]
        for tasks, updaters in ((4, 4), (4, cores), (40, cores)):
            ideal = tasks * (shares.collect + shares.update)
            spent = simulate(shares, cores, tasks, network, min(updaters, cores))
            row.append(f"{ideal / spent:.2f}")
        rows.append(row)
    return rows


def measure_speedup(config: Any, rounds: int) -> dict[int, float]:
    """Measures iterations with 1 and 2 actors and one for each core; returns steps/s by number."""
    rates = {}
    for number in sorted({1, 2, CORES}):
        sampler = replace(config.sampler, workers=number)
        with closing(Side(replace(config, sampler=sampler), is_remote=True)) as side:
            side.round()
            began = time.perf_counter()
            steps = sum(side.round() for _ in range(rounds))
            rates[number] = steps / (time.perf_counter() - began)
    return rates


def measure(quick: bool, kills: int) -> dict[str, Any]:
    """Measures everything, and prints it as it comes."""
    sizes = {"num_tasks": 4, "num_episodes": 2} if quick else {}
    config = build_config("ant-dir", "maml-trpo", {"sampler": sizes})
    sides = {name: Side(config, is_remote=name == "ray") for name in ("local", "ray")}
    timings = take_turns({name: side.round for name, side in sides.items()}, 2 if quick else 7)
    ratio = Ratio.of("ray / local", timings["ray"], timings["local"], target=0.9)
    print(table(RATIO_HEADER, [ratio.row()]))
    collect, update = sides["local"].seconds
    print(f"local: collect {collect:.2f} s, update {update:.2f} s")
    for side in sides.values():
        side.close()
    rates = measure_speedup(config, 1 if quick else 4)
    rows = [[str(n), f"{rate:,.0f}", f"{rate / rates[1]:.2f}"] for n, rate in rates.items()]
    print(table(("actors", "steps/s", "speed-up"), rows))
    num_tasks = config.sampler.num_tasks
    # on one thread, the only one of which the reads are noted
    wide = build_config(
        "ant-dir", "maml-trpo", {"sampler": {"num_tasks": 40, **sizes, "threads": 1}}
    )
    moved = measure_bytes(wide)
    print(
        f"MB moved {moved['moved'] / 1e6:.1f}, read {moved['read'] / 1e6:.1f}: {moved['ratio']:.2f}"
    )
    tasks = wide.sampler.num_tasks
    scale = CORES / num_tasks
    shares = Shares(collect * scale, update * scale, moved["moved"] / tasks, 1e5)
    plans = {}
    for gigabits in (10, 25, 100):
        plans[gigabits] = plan(shares, Network(bandwidth=gigabits * 1e9 / 8))
        heads = "4 tasks, update on 4", "4, on all", "40, on all"
        print(table((f"cores, {gigabits} Gbit/s", *heads), plans[gigabits]))
    small = build_config("navigation-2d", "maml-trpo", {})
    killed = measure_kills(small, kills) if kills else {}
    print(f"kills: {killed}")
    timed = {name: timing.record() for name, timing in timings.items()}
    return {"timings": timed, "speedup": rates, "bytes": moved, "plan": plans, "kills": killed}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=50, help="actors to kill; 0 kills none")
    chosen = options.parse_args()
    about = machine(("ray", "mujoco", "torch", "numpy"))
    print(describe(about))
    write_json(chosen.json, {"machine": about, **measure(chosen.quick, chosen.kills)})


if __name__ == "__main__":
    main()
