"""Fixtures that several files share: trained runs, and an environment in worker processes."""

import shutil
import signal
from contextlib import closing

import plugin_envs
import pytest
import torch
from commands import QUIET, TINY, TRAIN, call, count_records, finish, start, wait_for_records

from metarl.envs.plugins.subproc_env import SubprocEnv

# the last bits of sums and matrix products depend on the number of threads
torch.set_num_threads(1)

# a shell's `nohup` and `&` let their children ignore these, and metarl keeps to that
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """An uninterrupted run with evaluation, video and TensorBoard events; folder and outcome."""
    cwd = tmp_path_factory.mktemp("finished")
    done = call(*TRAIN, *TINY, "--trainer.evaluate-tasks", "3", "--run-dir", "run", cwd=cwd)
    return cwd / "run", done


@pytest.fixture(scope="session")
def interrupted_run(tmp_path_factory):
    """The same run, ended by SIGKILL, SIGTERM and SIGINT and resumed each time; folder, outcomes.

    It has no evaluation, no videos and no TensorBoard events.
    """
    cwd = tmp_path_factory.mktemp("interrupted run")  # a shell splits a path with a space
    run, outcomes = cwd / "run", []
    arguments = [*TINY, *QUIET, "--run-dir", run]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        count = count_records(run)
        process = start(*TRAIN, *arguments, cwd=cwd)
        wait_for_records(process, run, count + 3)
        process.send_signal(number)
        outcomes.append(finish(process))
        arguments = ["--resume", run]
    outcomes.append(call(*TRAIN, *arguments, cwd=cwd))
    return run, outcomes


@pytest.fixture
def run_copy(interrupted_run, tmp_path):
    """A copy of the interrupted run in another folder."""
    shutil.copytree(interrupted_run[0], tmp_path / "moved" / "run")
    return tmp_path / "moved" / "run"


@pytest.fixture(scope="module")
def spots():
    """An environment with two workers whose tasks are set by each test."""
    with closing(SubprocEnv("spots", plugin_envs.Spot, 2)) as env:
        yield env
