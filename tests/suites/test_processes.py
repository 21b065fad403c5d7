"""Processes of runs: how they end with the one that has started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from metarl.suites.processes import ENDS_WITH_STDIN, Child, ThisMachine

PARENT = """
import sys, time
from pathlib import Path
from metarl.suites.processes import Child
arguments = ["train", "--env", "navigation-2d", "--run-dir", "run", "--iterations", "100000",
             "--sampler.num-tasks", "2", "--sampler.num-episodes", "2", "--trainer.no-video"]
print(Child(arguments, Path("log")).pid, flush=True)
time.sleep(600)
"""


def wait_until(condition, limit=120.0):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_training_is_saved_and_ends_where_its_parent_is_killed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=tmp_path, stdout=subprocess.PIPE, env=environment
    ) as parent:
        pid = int(parent.stdout.readline())
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
        parent.kill()
    wait_until(lambda: not runs(pid))
    log = (tmp_path / "log").read_text()
    assert "stopped by SIGTERM" in log and "--resume run" in log
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_process_ends_at_once_where_another_machine_goes_on(tmp_path):
    arguments = ["train", "--env", "navigation-2d", "--run-dir", str(tmp_path / "run")]
    arguments += ["--iterations", "100000", "--sampler.num-tasks", "2", "--trainer.no-video"]
    child = Child(arguments, tmp_path / "log", environment={ENDS_WITH_STDIN: "kill"})
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
    child.stdin.close()
    assert child.wait() == -signal.SIGKILL


def test_process_works_in_its_folder_with_its_environment(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "mine.py").write_text("import nothing_like_it\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    arguments = ["check-env", "mine:Env"]
    child = Child(arguments, tmp_path / "log", str(tmp_path / "other"), environment)
    assert child.wait() == 2
    assert "nothing_like_it" in (tmp_path / "log").read_text()


def test_signal_after_the_end_does_nothing(tmp_path):
    child = ThisMachine().spawn(["--version"], tmp_path / "log")
    assert child.wait() == 0 and child.poll() == 0 and child.loss == ""
    child.send_signal(signal.SIGTERM)
    assert (tmp_path / "log").read_text().startswith("metarl ")


def test_blocked_signals_reach_the_process(tmp_path):
    """Ray blocks SIGINT in its processes, and children inherit that."""
    arguments = ["train", "--env", "navigation-2d", "--run-dir", str(tmp_path / "run")]
    arguments += ["--iterations", "100000", "--sampler.num-tasks", "2", "--trainer.no-video"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        child = Child(arguments, tmp_path / "log")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
    child.send_signal(signal.SIGINT)
    assert child.wait() == 75
    assert "stopped by SIGINT" in (tmp_path / "log").read_text()
