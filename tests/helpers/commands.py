"""Starts `train.py` and `metarl` in processes, and reads and damages run folders."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

REPOSITORY = Path(__file__).resolve().parent.parent.parent
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
