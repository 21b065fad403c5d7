"""What the observation holds beside the robot, from the command line on."""

import pytest

from metarl import experiment
from metarl.cli import train as cli

SMALL = ["--sampler.num-tasks", "1", "--sampler.num-episodes", "1", "--iterations", "1"]
QUIET = ["--trainer.evaluate-tasks", "0", "--trainer.no-video", "--trainer.no-tensorboard"]


def obs_size(run, *flags):
    words = ["--env", "half-cheetah-terrain", *SMALL, *QUIET, *flags, "--run-dir", str(run)]
    assert cli.main(words) == 0
    policy = experiment.load(run, 1)
    obs_size = policy.env.spec.obs_size
    policy.close()
    return obs_size


def test_the_observation_can_hold_the_task_and_the_ground(tmp_path):
    plain = obs_size(tmp_path / "plain")
    assert obs_size(tmp_path / "task", "--observe-task") == plain + 3  # kind, level and patch
    assert obs_size(tmp_path / "ground", "--observe-terrain") > plain


@pytest.mark.parametrize("env", ["ant-dir", "navigation-2d"])
def test_the_ground_is_observed_only_where_there_is_one(env, tmp_path, capsys):
    words = ["--env", env, "--observe-terrain", "--run-dir", str(tmp_path / "run")]
    assert cli.main(words) == 2
    assert "has no terrain" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
