"""Policies that cannot be filmed side by side are refused."""

from types import SimpleNamespace

import pytest

from metarl.core.errors import ConfigError
from metarl.filming import film_together
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.sb3.config import Sb3PpoConfig


def policy(env="ant-dir", learner=None):
    algo = "rl2" if learner is None else "sb3-ppo"
    return SimpleNamespace(
        config=SimpleNamespace(env=env, algo=algo, learner=learner or Rl2Config())
    )


def test_runs_of_different_environments_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="runs of different environments: ant-dir, ant-vel"):
        film_together([policy(), policy("ant-vel")], tmp_path / "race.mp4")


def test_policy_from_scratch_is_refused(tmp_path):
    scratch = policy(learner=Sb3PpoConfig(mode="scratch"))
    with pytest.raises(ConfigError, match="a policy from scratch knows one task"):
        film_together([policy(), scratch], tmp_path / "race.mp4")
