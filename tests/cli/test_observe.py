"""The flags --observe-task and --observe-terrain."""

import pytest

from metarl import experiment
from metarl.cli import train as cli

SMALL = ["--sampler.num-tasks", "1", "--sampler.num-episodes", "1", "--iterations", "1"]
QUIET = ["--trainer.evaluate-tasks", "0", "--trainer.no-video", "--trainer.no-tensorboard"]


def train_and_measure(run, *flags):
    arguments = ["--env", "half-cheetah-terrain", *SMALL, *QUIET, *flags, "--run-dir", str(run)]
    assert cli.main(arguments) == 0
    policy = experiment.load(run, 1)
    obs_size = policy.env.spec.obs_size
    policy.close()
    return obs_size


def test_observation_includes_task_and_terrain_on_request(tmp_path):
    plain = train_and_measure(tmp_path / "plain")
    assert (
        train_and_measure(tmp_path / "task", "--observe-task") == plain + 3
    )  # kind, level and patch
    assert train_and_measure(tmp_path / "ground", "--observe-terrain") > plain


@pytest.mark.parametrize("env", ["ant-dir", "navigation-2d"])
def test_observe_terrain_needs_a_terrain(env, tmp_path, capsys):
    arguments = ["--env", env, "--observe-terrain", "--run-dir", str(tmp_path / "run")]
    assert cli.main(arguments) == 2
    assert "has no terrain" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
