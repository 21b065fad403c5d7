"""Training tasks: the distribution of the environment, or a fixed set of its tasks."""

import dataclasses

import numpy as np

from metarl.builders import training_tasks
from metarl.config.schema import TrainConfig
from metarl.core.rng import stream
from metarl.envs.registry import make

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
