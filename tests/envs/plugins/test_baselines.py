"""Baselines of Stable-Baselines3 on plug-ins, whose rows restart at different steps."""

import pytest
import torch
from commands import is_one_line, read_records

from metarl.cli import train as cli
from metarl.runs import checkpoint
from metarl.runs.logger import without_time

ARGUMENTS = (
    "--env restarting_envs:FallsAndAborts --no-check --device cpu --sampler.num-tasks 3 "
    "--sampler.num-episodes 2 --trainer.evaluate-tasks 0 --trainer.no-video "
    "--trainer.no-tensorboard --learner.epochs 2 --learner.minibatches 2"
).split()
ALGOS = {
    "sb3-ppo": ["--algo", "sb3-ppo", "--learner.mode", "multi-task"],
    "sb3-rl2": ["--algo", "sb3-rl2", "--learner.lstm-size", "8", "--sampler.num-adaptations", "1"],
}


@pytest.fixture(params=ALGOS)
def train(request, tmp_path, monkeypatch):
    """Trains a baseline in a folder of a name, and returns the folder."""
    monkeypatch.setenv("ABORTED", str(tmp_path / "aborted"))
    (tmp_path / "aborted").touch()

    def run(name, *, iterations=2, workers=1):
        counts = ["--iterations", str(iterations), "--sampler.threads", str(workers)]
        place = ["--run-dir", str(tmp_path / name)]
        assert cli.main([*ALGOS[request.param], *ARGUMENTS, *counts, *place]) == 0
        return tmp_path / name

    return run


def read_metrics(run):
    return [{**without_time(r), "workers/restarts": 0} for r in read_records(run)]


def assert_same_run(one, other):
    assert read_metrics(one) == read_metrics(other)
    some, others = (checkpoint.load_newest(run / "checkpoints").tensors for run in (one, other))
    assert some.keys() == others.keys()
    for name, value in some.items():
        assert torch.equal(value, others[name]), name


def test_baseline_trains_alike_with_any_workers_and_resumed(train, tmp_path):
    whole = train("whole")
    records = read_records(whole)
    assert [record["iteration"] for record in records] == [1, 2]
    assert all(record["workers/restarts"] == 0 for record in records)
    half = train("half", iterations=1, workers=2)
    assert cli.main(["--resume", str(half), "--iterations", "2", "--trust-env"]) == 0
    assert_same_run(half, whole)
    (tmp_path / "aborted").unlink()
    killed = train("killed", workers=2)
    assert (tmp_path / "aborted").exists()
    assert sum(record["workers/restarts"] for record in read_records(killed)) >= 1
    assert_same_run(killed, whole)


def test_failing_restart_ends_the_training_in_one_line(tmp_path, capsys):
    arguments = [*ARGUMENTS, "--env", "restarting_envs:FailsInThirdReset", *ALGOS["sb3-ppo"]]
    run = ["--iterations", "2", "--sampler.threads", "2", "--run-dir", str(tmp_path / "run")]
    assert cli.main([*arguments, *run]) == 3
    err = capsys.readouterr().err
    assert is_one_line(err) and "reset raised OSError: no robot" in err
    assert "task 0 (spot " in err and "restart" in err
