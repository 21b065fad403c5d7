"""Evaluation and film at the end of a training that fail."""

import os

import pytest

import metarl
from metarl.core.errors import EnvironmentContractError, ResourceError
from metarl.envs.navigation import NavigationEnv
from metarl.runs.folder import newest_step

SMALL = {
    "iterations": 1,
    "sampler": {"num_tasks": 2, "num_episodes": 2, "threads": 1},
    "trainer": {"evaluate_tasks": 3, "video": False, "logger": "none"},
    "device": "cpu",
}
LEARNER = {"hidden_sizes": [8]}


def test_failed_evaluation_says_that_the_training_is_saved(tmp_path, monkeypatch):
    closed = []

    def fail(*_, **__):
        raise EnvironmentContractError("evaluation of navigation-2d: the reward is nan")

    monkeypatch.setattr("metarl.api._run_trial", fail)
    monkeypatch.setattr(NavigationEnv, "close", lambda env: closed.append(env))
    run = tmp_path / "run"
    with pytest.raises(EnvironmentContractError) as caught:
        metarl.train("navigation-2d", learner=LEARNER, run_dir=run, **SMALL)
    text = "evaluation of navigation-2d: the reward is nan"
    assert str(caught.value) == f"{text}; the training is saved in {run}"
    assert newest_step(run) == 1 and closed


def test_read_only_folder_is_refused_before_an_evaluation(tmp_path, monkeypatch):
    run = tmp_path / "run"
    settings = {**SMALL, "trainer": {**SMALL["trainer"], "evaluate_tasks": 0}}
    metarl.train("navigation-2d", learner=LEARNER, run_dir=run, **settings).close()
    monkeypatch.setattr("metarl.api._run_trial", lambda *_: pytest.fail("was evaluated"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ResourceError, match=f"{run}: the evaluation cannot be written to it; make"):
        metarl.evaluate(run)
