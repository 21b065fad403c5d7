"""Runs on a cluster of Ray; those that need Ray itself are skipped where it is missing."""

import io
import os
import random
import signal
import threading
import time
from contextlib import closing

import pytest
from commands import METARL, REPOSITORY, finish, start, wait_for_records

from metarl.core.errors import Preempted, ResourceError
from metarl.runs import provenance
from metarl.suites.ray_machines import Host
from metarl.suites.runner import run_suite
from metarl.suites.suite import read_suite

SUITE = (
    "{seeds: [0, 1, 2], settings: {iterations: 60, trainer: {video: false, evaluate_tasks: 2}, "
    "sampler: {num_tasks: 2, num_episodes: 2}}, runs: [{env: navigation-2d}]}"
)


@pytest.mark.parametrize(
    ("versions", "parent", "folder", "problem"),
    [
        ({"torch": "0.1"}, "", "", "0.1; install the same"),
        ({}, "none", "", "file system that all"),
        ({}, "", "none", "none; start in a folder that all share"),
    ],
)
def test_machine_that_does_not_fit_is_refused(tmp_path, versions, parent, folder, problem):
    (tmp_path / "log").touch()
    host = Host({**provenance.list_versions(), **versions})
    code, found = host.run(["--version"], tmp_path / parent / "log", str(tmp_path / folder), {})
    assert code == ResourceError.exit_code and problem in found


def test_process_that_is_stopped_before_its_start_never_starts(tmp_path):
    (tmp_path / "log").touch()
    host = Host(provenance.list_versions())
    host.send_signal(signal.SIGTERM)
    found = host.run(["--version"], tmp_path / "log", str(tmp_path), {})
    assert found == (Preempted.exit_code, "")
    assert (tmp_path / "log").read_text() == ""


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="Ray is an optional package: the extra [ray]")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        found.add_node(num_cpus=1)
    yield found
    found.shutdown()


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SUITE)
    return read_suite(path, tmp_path / "runs")


def list_hosts():
    """Returns the ids of the processes of the actors."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if file.read().startswith(b"ray::Host.run"):
                    found.append(int(name))
        except OSError:
            continue
    return found


@pytest.mark.filterwarnings("default")  # Ray leaves sockets and files open
def test_runs_whose_machines_are_killed_have_the_same_bits(cluster, suite, tmp_path):
    from metarl.suites.ray_machines import RayMachines

    here = read_suite(tmp_path / "s.yaml", tmp_path / "here")
    assert run_suite(here, 2, "again", stream=io.StringIO()) == []
    rng, killed, stop = random.Random(0), [], threading.Event()

    def kill():
        while len(killed) < 3 and not stop.wait(rng.uniform(0.5, 3.0)):
            if found := list_hosts():
                killed.append(rng.choice(found))
                os.kill(killed[-1], signal.SIGKILL)

    thread, out = threading.Thread(target=kill), io.StringIO()
    with closing(RayMachines(cluster.address)) as machines:
        assert machines.capacity() == 2
        thread.start()
        assert run_suite(suite, 2, "again", machines=machines, stream=out) == []
        stop.set()
        thread.join()
    assert out.getvalue().count("lost navigation-2d") == len(killed) > 0
    for one, other in zip(here.runs, suite.runs, strict=True):
        name = "checkpoints/it_00000060/tensors.safetensors"
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_reaches_running_and_waiting_runs(cluster, suite, number):
    from metarl.suites.ray_machines import RayMachines

    first = suite.runs[0].folder / "metrics.jsonl"

    def send():
        while not first.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread, out = threading.Thread(target=send), io.StringIO()
    with closing(RayMachines(cluster.address)) as machines:
        thread.start()
        with pytest.raises(Preempted, match="0 of 3 runs are done"):
            run_suite(suite, 3, "again", machines=machines, stream=out)
        thread.join()
    assert f"stopped by {number.name}" in suite.runs[0].log.read_text()


@pytest.mark.filterwarnings("default")
def test_machines_that_cannot_run_it_end_the_suite(cluster, suite, monkeypatch):
    from metarl.suites.ray_machines import RayMachines

    out = io.StringIO()
    with closing(RayMachines(cluster.address)) as machines:
        monkeypatch.setattr(machines, "_versions", {"torch": "0.1"})
        with pytest.raises(ResourceError, match="no machine can run metarl: machine .* has torch"):
            run_suite(suite, 1, "again", machines=machines, stream=out)
    assert out.getvalue().count("its processor is not used") == 2


@pytest.mark.filterwarnings("default")
def test_runs_are_resumed_where_the_command_was_killed(cluster, suite, tmp_path):
    """Ray kills the runs with their actors; the same command resumes them."""
    words = ["suite", str(tmp_path / "s.yaml"), "--run-dir", str(tmp_path / "runs")]
    command = [*METARL, *words, "--ray", cluster.address]
    process = start(*command, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    wait_for_records(process, suite.runs[0].folder, 2)
    process.kill()
    finish(process)
    again = finish(start(*command, cwd=tmp_path, PYTHONPATH=str(REPOSITORY)))
    assert again.code == 0, again.err
    assert f"train --resume {suite.runs[0].folder}" in suite.runs[0].log.read_text()
    assert all((run.folder / "evaluation.json").exists() for run in suite.runs)
