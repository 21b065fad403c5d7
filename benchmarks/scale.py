"""Collection on a cluster: what Ray costs on one machine, what is sent, and workers that are killed.

    local           an iteration of MAML-TRPO on ant-dir with the collector of this process
    ray             the same with Ray's actors on the same cores
    bytes           what the workers send and receive in an iteration of 40 Ant tasks, and the bytes
                    of it that the update reads, from the operations of torch
    kills           trainings in which actors are killed at random instants, against one without

The first two take turns in one process. `--plan` prints what the measured shares give for more
cores, over a simulated network.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.side_by_side import describe, machine, parser, table, take_turns, write_json
from metarl import collecting
from metarl.builders import build_env, build_learner
from metarl.config.schema import build_config, to_yaml
from metarl.core.parallel import one_torch_thread
from metarl.core.rng import stream
from metarl.sampling.cluster.packing import pack
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
            parts = config, self.collector, self.workers, self.learner
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
        side.collector.take_counts()
        rollouts, context, tasks = side.collect()
        moved = side.collector.take_counts()["workers/megabytes"] * 1e6
        storages: dict[int, int] = {}
        for leaf in _list_tensors((rollouts, context)):
            size = leaf.untyped_storage().nbytes()
            storages[leaf.untyped_storage().data_ptr()] = min(size, leaf.nbytes)
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
class Network:
    """A simulated network.

    Attributes:
        latency: Of a message [s].
        bandwidth: Of the machine of the update [bytes/s].
    """

    latency: float
    bandwidth: float


def predict(shares: dict[str, float], cores: int, network: Network) -> dict[str, float]:
    """Predicts an iteration whose tasks grow with the cores (N tasks for each core).

    Args:
        shares: Seconds of collection of a task on one core, seconds of update of a task on one
            core, bytes of a task, bytes of the parameters, tasks for each core.
        cores: Number of cores, for the workers and the update alike.
        network: The network.
    """
    tasks = shares["tasks"] * cores
    collect = shares["collect"] * shares["tasks"]
    # messages of all workers pass one after another through the machine of the update
    transfer = network.latency * 2 + (shares["bytes"] * tasks) / network.bandwidth
    update = shares["update"] * tasks / min(cores, shares["update_cores"])
    total = collect + transfer + update
    ideal = collect + shares["update"] * shares["tasks"]
    parts = {"collect": collect, "transfer": transfer, "update": update}
    return {**parts, "total": total, "efficiency": ideal / total}
