"""One torch thread, and what the tests of several files look at: runs, and an environment in worker processes."""

import shutil
import signal
from contextlib import closing

import plugin_envs
import pytest
import torch
from commands import QUIET, TINY, TRAIN, after_records, call, finish, num_records, start

from metarl.envs.plugins.subproc_env import SubprocEnv

# sums and matrix products of torch depend on its number of threads in the last bits
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run that nothing has interrupted, with all that stands at its end; its folder and its outcome."""
    cwd = tmp_path_factory.mktemp("whole")
    done = call(*TRAIN, *TINY, "--trainer.evaluate-tasks", "3", "--run-dir", "run", cwd=cwd)
    return cwd / "run", done


@pytest.fixture(scope="session")
def battered(tmp_path_factory):
    """The same run, killed by SIGKILL, SIGTERM and SIGINT, and resumed each time; folder and outcomes."""
    cwd = tmp_path_factory.mktemp("battered folder")  # a path that the shell would cut in two
    run, outcomes = cwd / "run", []
    words = [*TINY, *QUIET, "--run-dir", run]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        count = num_records(run)
        process = start(*TRAIN, *words, cwd=cwd)
        after_records(process, run, count + 3)
        process.send_signal(number)
        outcomes.append(finish(process))
        words = ["--resume", run]
    outcomes.append(call(*TRAIN, *words, cwd=cwd))
    return run, outcomes


@pytest.fixture
def copy(battered, tmp_path):
    """A finished run, moved to another folder."""
    shutil.copytree(battered[0], tmp_path / "moved" / "run")
    return tmp_path / "moved" / "run"


@pytest.fixture(scope="module")
def spots():
    """An environment with two workers whose tasks are set by each test."""
    with closing(SubprocEnv("spots", plugin_envs.Spot, 2)) as env:
        yield env
