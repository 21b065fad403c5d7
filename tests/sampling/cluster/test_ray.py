"""Trials on actors of Ray, with several nodes in one machine; skipped where Ray is missing."""

import os
import random
import signal
import socket
import threading
import time
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import torch
from cluster_cases import config_of, iterate, parts, trained_here
from commands import (
    QUIET,
    TINY,
    TRAIN,
    assert_same_runs,
    finish,
    read_records,
    run_processes,
    start,
)

from metarl import collecting
from metarl.config.schema import to_yaml
from metarl.core.errors import ResourceError
from metarl.core.machine.parallel import ALONE
from metarl.sampling.sampler import Collector

pytest.importorskip("ray", reason="Ray is an optional package: the extra [ray]")
pytestmark = pytest.mark.filterwarnings("default")  # Ray leaves sockets and files open

KILLS = 5


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes with a processor each, and a head without any."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()


def join(cluster, config):
    from metarl.sampling.cluster.ray_workers import RayWorkers

    env, learner = parts(config)
    build = partial(collecting.build_worker, to_yaml(config), os.getcwd())
    workers = RayWorkers(cluster.address, build)
    local = Collector(env, config.sampler.slices)
    made = collecting.join_cluster(config, local, workers, learner, ALONE)
    return made, learner, env, workers


def assert_same(found, expected):
    for (metrics, state), (other, before) in zip(found, expected, strict=True):
        assert metrics == other
        assert all(torch.equal(value, before[name]) for name, value in state.items())


def test_killed_actors_and_nodes_that_come_and_go_change_no_bit(cluster):
    config, rng = config_of("maml", num_tasks=6, num_episodes=20), random.Random(0)
    expected = trained_here(config)
    collector, learner, env, workers = join(cluster, config)
    with closing(env), closing(collector):
        second = cluster.add_node(num_cpus=1)
        killed, stop = [], threading.Event()

        def kill():
            while len(killed) < KILLS and not stop.wait(rng.uniform(0.05, 0.5)):
                found = workers.list_processes()
                if found:
                    killed.append(rng.choice(found))
                    os.kill(killed[-1], signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        found = iterate(config, collector, learner, env, range(1))
        cluster.remove_node(second)
        found += iterate(config, collector, learner, env, range(1, 2))
        deadline = time.monotonic() + 60.0
        while not killed and time.monotonic() < deadline:  # a fast machine has iterated before
            time.sleep(0.01)
        found += iterate(config, collector, learner, env, range(2, 3))
        stop.set()
        thread.join()
        counts = collector.take_counts()
    assert_same(found, expected)
    assert killed and counts["workers/lost"] >= 1


def test_slow_network_and_full_store_change_no_bit(monkeypatch):
    """Every message waits for 2 to 20 ms, and most of the store of 80 MB is taken by others."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_testing_asio_delay_us", "*=2000:20000")
    config = config_of("maml", num_tasks=6, num_episodes=20)
    expected = trained_here(config)
    memory = {"object_store_memory": 80_000_000}
    slow = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    try:
        slow.add_node(num_cpus=1, **memory)
        collector, learner, env, _ = join(slow, config)
        with closing(env), closing(collector):
            taken = [ray.put(np.zeros(24_000_000, dtype=np.uint8)) for _ in range(3)]
            found = iterate(config, collector, learner, env, range(3))
            assert len(taken) == 3
    finally:
        slow.shutdown()
    assert_same(found, expected)


def test_address_that_does_not_answer_is_named():
    from metarl.sampling.cluster.connection import connect

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ResourceError, match=f"127.0.0.1:{port} does not answer"):
        connect(f"127.0.0.1:{port}")


def test_run_of_two_processes_with_actors_is_that_of_one_without(cluster, tmp_path):
    train = [*TINY, *QUIET, "--iterations", "6"]
    assert finish(start(*TRAIN, *train, "--run-dir", tmp_path / "one", cwd=tmp_path)).code == 0
    extra = cluster.add_node(num_cpus=1)
    ray_flags = ["--sampler.backend", "ray", "--sampler.address", cluster.address]
    command = [*TRAIN, *train, *ray_flags, "--run-dir", tmp_path / "two"]
    first, other = run_processes(2, *command, cwd=tmp_path)
    cluster.remove_node(extra)
    assert (first.code, other.code, other.out) == (0, 0, "")
    assert read_records(tmp_path / "two")[-1]["workers/number"] == 2.0
    assert_same_runs(tmp_path / "one", tmp_path / "two")
