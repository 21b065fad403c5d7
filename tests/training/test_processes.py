"""Trainings of several processes, as torchrun starts them."""

import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import (
    ITERATIONS,
    QUIET,
    TINY,
    TRAIN,
    assert_same_runs,
    call,
    finish,
    is_one_line,
    run_processes,
    start,
    wait_for_records,
)

from metarl.cli import train as cli
from metarl.core.errors import ConfigError
from metarl.runs import checkpoint
from metarl.training import processes

MEMBER = Path(__file__).parent.parent / "helpers" / "sampling" / "group_member.py"


def test_processes_exchange_values_and_failures(tmp_path):
    for done in run_processes(3, sys.executable, MEMBER, "exchange", cwd=tmp_path):
        assert (done.code, done.out, done.err) == (0, "done\n", "")


def test_group_is_left_before_the_interpreter_ends(tmp_path):
    """Else a thread of torch that needs Python's lock then aborts the process, now and then."""
    for done in run_processes(2, sys.executable, MEMBER, "stay", cwd=tmp_path):
        assert (done.code, done.out, done.err) == (0, "left\n", "")


def test_run_of_torchrun_that_was_stopped_is_that_of_one_process(tmp_path, finished_run):
    run = tmp_path / "run"
    torchrun = sys.executable, "-m", "torch.distributed.run", "--standalone"
    train = *torchrun, "--nproc-per-node", "2", TRAIN[1], *TINY, *QUIET, "--run-dir", run
    process = start(*train, cwd=tmp_path)
    wait_for_records(process, run, 3)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert "metarl: stopped by SIGTERM after iteration" in stopped.err
    assert stopped.err.count("stopping after this iteration") == 1
    assert 3 <= checkpoint.load_newest(run / "checkpoints").step < ITERATIONS
    first, other = run_processes(2, *TRAIN, "--resume", run, cwd=tmp_path)
    assert (first.code, other.code, other.out, other.err) == (0, 0, "", "")
    assert first.err == "" and f"done: {run}" in first.out
    assert_same_runs(finished_run[0], run)


def test_memory_is_trained_by_two_processes_as_by_one(tmp_path):
    """To rounding; from the command line, where the processes first compare their states."""
    algo = "--algo", "rl2", "--learner.memory-size", "8", "--sampler.num-tasks", "4"
    words = [word for word in TINY if word not in ("--learner.hidden-sizes", "8")]
    states = []
    for size in (1, 2):
        run = tmp_path / f"{size}"
        arguments = *words, *algo, *QUIET, "--iterations", "2", "--run-dir", run
        done = run_processes(size, *TRAIN, *arguments, cwd=tmp_path)
        assert [(each.code, each.err) for each in done] == [(0, "")] * size
        states.append(checkpoint.load_newest(run / "checkpoints").tensors)
    one, two = states
    assert set(one) == set(two)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        ("raise", 3, "iteration 3: no such task; the state before it is saved in"),
        ("kill", 6, "iteration 3: one of the 2 processes has ended, or has not answered"),
    ],
)
def test_failure_of_one_process_ends_all_with_one_line(kind, code, text, tmp_path):
    run = tmp_path / "run"
    arguments = [*TINY, *QUIET, "--run-dir", run]
    command = sys.executable, MEMBER, "misbehave", kind, *arguments
    first, other = run_processes(2, *command, cwd=tmp_path)
    assert first.code == code and is_one_line(first.err) and text in first.err
    assert first.err.count("iteration 3") == first.err.count("is saved in") == 1
    assert other.code == (-signal.SIGKILL if kind == "kill" else code)
    assert other.out == other.err == ""
    assert checkpoint.load_newest(run / "checkpoints").step == 2


@pytest.mark.parametrize(
    ("variables", "arguments", "text"),
    [
        ({"MASTER_ADDR": ""}, [], "WORLD_SIZE is 3 and MASTER_ADDR is missing; start with"),
        ({}, [], "--sampler.num-tasks 2: and 3 processes; they divide the tasks, so start fewer"),
        ({}, ["--seeds", "1,2"], "--seeds with 3 processes: start one training for each seed"),
    ],
)
def test_processes_that_cannot_train_are_one_line(
    variables, arguments, text, tmp_path, monkeypatch, capsys
):
    known = {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in {**known, **variables}.items():
        monkeypatch.setenv(name, value)
    assert cli.main([*TINY, *arguments, "--run-dir", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and text in err
    assert not (tmp_path / "run").exists()


def test_learner_that_cannot_split_its_update_is_refused():
    config, group = SimpleNamespace(algo="sb3-ppo"), SimpleNamespace(size=2)
    with pytest.raises(ConfigError, match="--algo sb3-ppo with 2 processes: its update cannot"):
        processes.require_support(config, object(), group)


def test_one_process_continues_a_run_of_two(tmp_path, finished_run, capsys):
    run = tmp_path / "run"
    arguments = [*TINY, *QUIET, "--run-dir", run, "--iterations", "3"]
    done = run_processes(2, *TRAIN, *arguments, cwd=tmp_path)
    assert [each.code for each in done] == [0, 0]
    again = call(*TRAIN, "--resume", run, "--iterations", str(ITERATIONS), cwd=tmp_path)
    assert again.code == 0
    assert again.err == (
        "metarl: the run no longer repeats bit for bit: processes: 2 at the start, 1 now\n"
    )
    assert_same_runs(finished_run[0], run)
