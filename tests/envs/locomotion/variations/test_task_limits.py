"""Tasks beyond what a variation can do are refused; others beyond its range are played."""

import functools

import numpy as np
import pytest

from metarl.core.errors import ConfigError
from metarl.envs.registry import make
from metarl.envs.wrappers.gymnasium import check_task
from metarl.evaluation.evaluate import check_chosen_tasks


@functools.cache
def build(name):
    return make(name, 1)


@pytest.mark.parametrize(
    ("name", "task", "problem"),
    [
        # each was another map, another delay, no map at all or a traceback
        ("half-cheetah-terrain", [9, 1, 0], r"kind = 9: must be a whole number in \[0, 7\]"),
        ("half-cheetah-terrain", [0.25, 1, 0], "kind = 0.25: .* 1 rough"),
        ("half-cheetah-terrain", [0, 1, 7], r"patch = 7: must be a whole number in \[0, 3\]"),
        ("half-cheetah-terrain", [0, 2, 0], r"level = 2: must be a number in \[0.2, 1\]"),
        ("half-cheetah-dir-delay", [1, 5], r"delay = 5: must be a whole number in \[0, 4\] step"),
        ("half-cheetah-dir-delay", [1, -1], "delay = -1"),
        ("half-cheetah-actuator", [1] * 6 + [4], r"delay = 4: .* in \[0, 3\]"),
        ("half-cheetah-dir-push", [1, 0.5, 0], "interval = 0: must be a whole number >= 1 step"),
        ("half-cheetah-cripple", [7, 0], "limb = 7: .* 5 ffoot"),
        ("half-cheetah-cripple", [0, 20.5], "onset = 20.5: must be a whole number >= 0"),
        ("half-cheetah-weak", [0, 0, -1], "strength = -1: must be a number >= 0"),
        ("half-cheetah-damage", [0, 0, 3, 0.5], "failure = 3"),
        ("half-cheetah-friction", [-1], "friction = -1"),
        ("half-cheetah-load", [-0.5, 0], "load = -0.5"),
        ("quadruped-vel-servo", [1, -1, 1], "servo_stiffness = -1"),
    ],
)
def test_unusable_task_is_refused_with_its_limits(name, task, problem):
    env = build(name)
    with pytest.raises(ValueError, match=f"{name}: task 0: {problem}"):
        env.set_tasks(np.array([task], dtype=float), 1)
    with pytest.raises(ConfigError, match=f"{name}: task 0: {problem}"):
        check_chosen_tasks([task], env.spec)
    with pytest.raises(ValueError, match=problem):
        check_task(env.spec, task)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("half-cheetah-terrain", [7, 1, 3]),
        ("half-cheetah-dir-delay", [1, 4]),
        ("half-cheetah-dir-push", [1, 9, 200]),
        ("half-cheetah-cripple", [5, 999]),
        ("half-cheetah-friction", [9]),
    ],
)
def test_usable_task_beyond_the_range_is_played(name, task):
    env = build(name)
    env.set_tasks(np.array([task], dtype=float), 1)
    env.reset([np.random.default_rng(0)])
    assert not env.step(np.zeros((1, env.spec.action_size)), np.ones(1, bool)).fault.any()


@pytest.mark.parametrize("name", ["half-cheetah-terrain", "half-cheetah-delay-push-damage-load"])
def test_drawn_tasks_are_within_the_limits(name):
    spec = build(name).spec
    for tasks in (spec.tasks, spec.tasks.test):
        assert len(check_chosen_tasks(tasks.sample(np.random.default_rng(0), 500), spec)) == 500
