"""Starts `train.py` and `metarl` in processes, and reads and damages run folders."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from metarl.runs import checkpoint
from metarl.runs.logger import without_time

REPOSITORY = Path(__file__).resolve().parents[3]
TRAIN = (sys.executable, str(REPOSITORY / "train.py"))
METARL = (sys.executable, "-m", "metarl")
ITERATIONS = 24
TINY = (
    f"--env navigation-2d --iterations {ITERATIONS} --device cpu --learner.hidden-sizes 8 "
    "--sampler.num-tasks 2 --sampler.num-episodes 2 --sampler.threads 1 "
    "--trainer.checkpoint-minutes 0.0001"
).split()
QUIET = "--trainer.evaluate-tasks 0 --trainer.no-video --trainer.no-tensorboard".split()


def start(*command, cwd, **variables):
    """Starts a process; `variables` are added to its environment."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", **variables}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([str(word) for word in command], cwd=cwd, env=env, text=True, **pipes)


def finish(process):
    """Waits for the end of a process; returns its exit code and its output."""
    out, err = process.communicate(timeout=300)
    return SimpleNamespace(code=process.returncode, out=out, err=err)


def call(*command, cwd, **variables):
    return finish(start(*command, cwd=cwd, **variables))


def count_records(run):
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_records(process, run, count):
    """Waits until a run has written a number of records to metrics.jsonl."""
    deadline = time.monotonic() + 300.0
    while count_records(run) < count:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def read_records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def read_files(folder):
    """Returns the bytes of every file of a folder by its relative path."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def is_one_line(text):
    return text.startswith("metarl: ") and text.count("\n") == 1 and text.endswith("\n")


def damage(path):
    """Flips one bit in the middle of a file."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def run_processes(size, *command, cwd):
    """Starts a command in several processes, with the variables of torchrun; waits for all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"PYTHONPATH": str(REPOSITORY)}
    running = [start(*command, cwd=cwd, RANK=str(rank), **shared) for rank in range(size)]
    return [finish(process) for process in running]


def assert_same_runs(one, other):
    """Compares the metrics of two runs, but for times, and their last checkpoints."""
    expected, found = (read_records(run) for run in (one, other))
    assert [without_time(r) for r in found] == [without_time(r) for r in expected]
    left, right = (checkpoint.load_newest(run / "checkpoints") for run in (one, other))
    assert left.step == right.step and left.state["env_steps"] == right.state["env_steps"]
    for name, value in left.tensors.items():
        assert torch.equal(value, right.tensors[name]), name
