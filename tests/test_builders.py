"""Environments given as objects; training tasks: a distribution or a fixed set."""

import dataclasses
import functools
from contextlib import closing

import numpy as np
import plugin_envs
import pytest

from metarl.builders import build_learner, make_env, training_tasks
from metarl.collecting import require_experience
from metarl.config.sampler import SamplerConfig
from metarl.config.schema import TrainConfig
from metarl.core.errors import ConfigError, ResourceError
from metarl.core.rng import stream
from metarl.envs.registry import make
from metarl.learners.gp.config import GpConfig
from metarl.learners.metric.config import MetricConfig

CONFIG = TrainConfig(env="navigation-2d")


def draw_training_tasks(config):
    distribution = training_tasks(make(config.env), config)
    drawn = [distribution.sample(stream(config.seed, "tasks", i), 2) for i in range(20)]
    return {tuple(task) for task in np.concatenate(drawn)}


def test_training_uses_only_the_fixed_set():
    sampler = dataclasses.replace(CONFIG.sampler, train_tasks=3)
    config = dataclasses.replace(CONFIG, sampler=sampler)
    expected = set(training_tasks(make(config.env), config).tasks)
    assert len(expected) == 3
    assert draw_training_tasks(config) == expected
    assert draw_training_tasks(dataclasses.replace(config, seed=1)).isdisjoint(expected)
    assert len(draw_training_tasks(CONFIG)) == 40


def test_size_of_the_training_set_comes_from_the_definition():
    config = dataclasses.replace(CONFIG, env="hopper-params")
    assert len(training_tasks(make("hopper-params"), config).tasks) == 40
    sampler = dataclasses.replace(CONFIG.sampler, train_tasks=7)
    changed = dataclasses.replace(config, sampler=sampler)
    assert len(training_tasks(make("hopper-params"), changed).tasks) == 7


@pytest.mark.parametrize(
    ("env", "text"),
    [
        (functools.partial(plugin_envs.Spot), "must be a function of a module that makes the env"),
        (plugin_envs.Spot(), "must be the class Spot or a function, not an instance$"),
        (3, "^env = 3: must be a name, a class, a function or a BatchEnv$"),
    ],
    ids=["partial", "instance", "number"],
)
def test_object_of_another_kind_is_refused_in_one_line(env, text):
    with pytest.raises(ConfigError, match=text) as caught:
        make_env(env)
    assert "\n" not in str(caught.value)


def test_observe_terrain_of_an_object_is_refused():
    text = "^--observe-terrain: plugin_envs:Spot is given as an object; give a -terrain name"
    with pytest.raises(ConfigError, match=text):
        make_env(plugin_envs.Spot, observe_terrain=True)
    with closing(make("navigation-2d")) as env:
        assert make_env(env) is env
        with pytest.raises(ConfigError, match="^--observe-terrain: navigation-2d is given as"):
            make_env(env, observe_terrain=True)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((1, 4, 1), "--sampler.num-tasks = 1: must be at least 2 for metric, whose encoder"),
        (
            (4, 1, 0),
            "--sampler.num-episodes = 1: must be at least 2 for metric without adaptations",
        ),
        ((2, 2, 0), None),
        ((2, 1, 1), None),
    ],
)
def test_metric_needs_tasks_and_episodes_to_compare(sizes, text):
    config = TrainConfig(
        env="navigation-2d", algo="metric", sampler=SamplerConfig(*sizes), learner=MetricConfig()
    )
    if text is None:
        require_experience(config)
        return
    with pytest.raises(ConfigError, match=text):
        require_experience(config)
    require_experience(dataclasses.replace(config, resume="runs/older"))


@pytest.mark.parametrize(
    ("threads", "hint"),
    [
        (-3, "at least 0"),
        (1.5, "a whole number"),
        (True, "a whole number"),
        (5000, "at most 4,096"),
    ],
)
def test_threads_are_a_whole_number_of_a_range(threads, hint):
    with pytest.raises(ConfigError, match=f"threads = {threads}: must be {hint}"):
        make_env("navigation-2d", threads)


def test_learner_without_memory_names_what_was_asked(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("metarl.learners.registry.build_learner", refuse)
    message = r"--algo maml-trpo: no memory for a learner with hidden_sizes \(64, 64\), .*; choose"
    with pytest.raises(ResourceError, match=message):
        build_learner(CONFIG, make("navigation-2d"), "cpu")


@pytest.mark.parametrize("sampler", [{"num_tasks": 1}, {"train_tasks": 1}])
@pytest.mark.parametrize(("algo", "learner"), [("metric", MetricConfig()), ("gp", GpConfig())])
def test_learner_that_contrasts_tasks_needs_two(algo, learner, sampler):
    config = TrainConfig(
        env="navigation-2d", algo=algo, sampler=SamplerConfig(**sampler), learner=learner
    )
    name = f"--sampler.{next(iter(sampler)).replace('_', '-')}"
    with pytest.raises(ConfigError, match=f"^{name} = 1: must be at least 2 for {algo}"):
        require_experience(config)
    require_experience(dataclasses.replace(config, resume="runs/older"))
