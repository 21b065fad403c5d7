"""Policies that cannot be filmed are refused, and arguments out of range."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import metarl
from metarl.core.errors import ConfigError
from metarl.envs import make
from metarl.filming import film, film_together
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.sb3.config import Sb3PpoConfig
from metarl.reporting.episode import Episode
from metarl.runs import folder
from metarl.trained_policy import TrainedPolicy

PEARL = {"hidden_sizes": [8], "encoder_sizes": [8], "update_ratio": 1e-3}


def policy(env="ant-dir", learner=None):
    algo = "rl2" if learner is None else "sb3-ppo"
    config = SimpleNamespace(env=env, algo=algo, learner=learner or Rl2Config())
    return TrainedPolicy(Path("run"), config, None)


def test_runs_of_different_environments_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="runs of different environments: ant-dir, ant-vel"):
        film_together([policy(), policy("ant-vel")], tmp_path / "race.mp4")


def test_policy_from_scratch_is_refused(tmp_path):
    scratch = policy(learner=Sb3PpoConfig(mode="scratch"))
    with pytest.raises(ConfigError, match="a policy from scratch knows one task"):
        film_together([policy(), scratch], tmp_path / "race.mp4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_tasks": 0}, "num_tasks = 0: must be at least 1"),
        ({"num_adaptations": 0}, "num_adaptations = 0: must be at least 1"),
        ({"num_adaptations": -1}, "num_adaptations = -1: must be at least 1"),
        ({"size": 63}, "size = 63: must be even, from 16 to 4096"),
        ({"size": 8192}, "size = 8192: must be even, from 16 to 4096"),
        ({"formats": ["avi"]}, r"formats = \['avi'\]: must be a list of mp4, gif, html"),
        ({"formats": []}, r"formats = \[\]: must be a list of mp4, gif, html"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        film(policy(), **change)
    with pytest.raises(ConfigError, match=message):
        film_together([policy()], tmp_path / "race.mp4", **change)


def test_film_needs_an_episode_and_a_policy(tmp_path):
    with pytest.raises(ConfigError, match="num_episodes = 0: must be at least 1"):
        film(policy(), num_episodes=0)
    with pytest.raises(ConfigError, match=r"policies = \[\]: must be at least one policy"):
        film_together([], tmp_path / "race.mp4")


def test_episodes_are_drawn_by_the_environment_of_their_policy(tmp_path, monkeypatch):
    def play(env, learner, tasks, **_):
        played = Episode(np.zeros((1, 2)), np.zeros(1), tasks[0], "task", "stage", env.spec.dt)
        return [[played, played]]

    monkeypatch.setattr("metarl.reporting.film.film_trial", play)
    monkeypatch.setattr(
        "metarl.reporting.film.write_films", lambda _path, _env, panels, *_, **__: panels
    )
    sampler = SimpleNamespace(num_episodes=2)
    config = SimpleNamespace(
        env="navigation-2d",
        algo="rl2",
        learner=Rl2Config(),
        seed=0,
        sampler=sampler,
        observe_task=False,
        observe_terrain=False,
    )
    learner = SimpleNamespace(pools_episodes=False)
    policies = [
        TrainedPolicy(tmp_path / name, config, learner, _env=make("navigation-2d")) for name in "ab"
    ]
    (row,) = film_together(policies, tmp_path / "race.mp4", num_tasks=1)
    assert [episode.drawn_by(None) for episode in row] == [policy.env for policy in policies]
    assert [episode.name for episode in row] == ["a: rl2, seed 0", "b: rl2, seed 0"]
    policies[1].config = SimpleNamespace(**{**vars(config), "seed": 1})
    (row,) = film_together(policies, tmp_path / "race.mp4", num_tasks=1)
    assert [episode.name for episode in row] == ["rl2, seed 0", "rl2, seed 1"]


@pytest.mark.parametrize(
    ("algo", "settings", "stages"),
    [
        ("maml-trpo", {}, ["before adaptation", "after 2 adaptations"]),
        ("rl2", {"memory_size": 4}, ["adapts while it acts", "after 2 rollouts"]),
        ("pearl", {"guess": "episode", **PEARL}, ["before adaptation", "after 2 adaptations"]),
        ("pearl", {"guess": "step", **PEARL}, ["adapts while it acts", "after 2 rollouts"]),
        ("sb3-ppo", {"mode": "multi-task", "minibatches": 1}, ["does not adapt"]),
    ],
)
def test_film_says_how_a_policy_adapts(algo, settings, stages, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "metarl.reporting.film.write_films", lambda _path, _env, panels, *_, **__: panels
    )
    monkeypatch.setattr("metarl.filming.record_films", lambda *_: None)
    sampler = {"num_tasks": 2, "num_episodes": 1, "threads": 1}
    options = {"learner": settings, "sampler": sampler, "iterations": 1}
    with metarl.train("navigation-2d", algo, evaluate=False, run_dir=tmp_path, **options) as own:
        (row,) = film(own, num_tasks=1, num_adaptations=2)
        assert [episode.stage for episode in row] == stages
        (row,) = film_together([own], tmp_path / "race.mp4", num_tasks=1, num_adaptations=2)
        assert [episode.stage for episode in row] == stages[-1:]


@pytest.mark.parametrize(
    ("name", "options", "formats"),
    [
        ("race.gif", {}, ("gif",)),
        ("race.html", {}, ("html",)),
        ("race.mp4", {}, None),  # and a replay beside it
        ("race", {}, None),
        ("race.gif", {"formats": ["mp4"]}, ["mp4"]),
    ],
)
def test_suffix_chooses_the_format(name, options, formats, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "metarl.reporting.film.write_films",
        lambda _path, _env, _panels, chosen, **_: written.append(chosen) or [],
    )
    sampler = {"num_tasks": 2, "num_episodes": 1, "threads": 1}
    settings = {"evaluate": False, "sampler": sampler, "iterations": 1}
    with metarl.train("navigation-2d", run_dir=tmp_path / "run", **settings) as own:
        film_together([own], tmp_path / name, num_tasks=1, **options)
    assert written == [formats]


def test_film_of_chosen_tasks_lies_beside_that_of_held_out_ones(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "metarl.reporting.film.write_films",
        lambda path, *_, **__: written.append(path.name) or [],
    )
    sampler = {"num_tasks": 2, "num_episodes": 1, "threads": 1}
    with metarl.train(
        "navigation-2d", evaluate=False, run_dir=tmp_path, sampler=sampler, iterations=1
    ) as own:
        film(own, num_tasks=1)
        film(own, tasks=[[0.1, 0.2]])
    assert written == ["adaptation.mp4", "chosen-tasks.mp4"]


def test_age_of_a_film_is_that_of_its_checkpoint(tmp_path):
    """Not that of the files: a copy of a run, or a synchronised one, has other times."""
    film = tmp_path / "videos" / "adaptation.mp4"
    film.parent.mkdir()
    film.write_bytes(b"of 3")
    (tmp_path / "checkpoints").mkdir()
    folder.record_films(tmp_path, [film], 3)
    for time in (1, 2**31):
        os.utime(film, (time, time))
        assert not folder.is_old_film(tmp_path, film, 3)
        assert folder.is_old_film(tmp_path, film, 4)
    film.write_bytes(b"by hand")  # nothing is known of it but its time
    assert not folder.is_old_film(tmp_path, film, 4)
    os.utime(film, (1, 1))
    assert folder.is_old_film(tmp_path, film, 3)


@pytest.mark.parametrize("content", ["", "[]", '{"videos/adaptation.mp4": 3}'])
def test_record_of_films_that_is_damaged_is_replaced(content, tmp_path):
    film = tmp_path / "videos" / "adaptation.mp4"
    film.parent.mkdir()
    film.write_bytes(b"of 3")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "films.json").write_text(content)
    os.utime(film, (1, 1))
    assert folder.is_old_film(tmp_path, film, 3)
    folder.record_films(tmp_path, [film], 3)
    assert not folder.is_old_film(tmp_path, film, 3)
