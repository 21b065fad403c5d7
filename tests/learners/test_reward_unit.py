"""Learners that learn the same whatever the unit of the rewards is."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from learner_cases import GP, METRIC, RL2, TEACHER, VARIBAD
from sign_tasks import SignBatch, collect
from whole_trial import trial

from metarl.core.rng import stream
from metarl.envs.registry import make
from metarl.learners.registry import ALGORITHMS, build_learner
from metarl.learners.reward_unit import RewardUnit
from metarl.learners.rl2.rl2 import Rl2
from metarl.learners.varibad.varibad import Varibad
from metarl.sampling.sampler import Key

CASES = {"rl2": (Rl2, RL2), "varibad": (Varibad, replace(VARIBAD, encoder_updates=2))}


class ScaledBatch(SignBatch):
    """Sign tasks with rewards of one size, in another unit."""

    def __init__(self, unit):
        super().__init__()
        self.unit = unit

    def step(self, action, alive):
        outcome = super().step(action, alive)
        outcome.reward = np.sign(outcome.reward) * self.unit
        return outcome


def blind(learner):
    """Makes an untrained memory ignore rewards, whose unit nothing has shown yet."""
    network = getattr(learner, "policy", None) or learner.network
    for parameter in network.memory.parameters():
        if parameter.dim() == 2 and parameter.shape[1] == 2 + 1 + 2:
            parameter.data[:, 3] = 0.0
    learner._state.acting.load_state_dict(network.state_dict())


def train(name, unit, updates=3):
    kind, config = CASES[name]
    learner = kind(config, 2, 1, seed=0)
    blind(learner)
    for iteration in range(updates):
        rollouts, context = collect(learner, ScaledBatch(unit), iteration)
        learner.update(context, rollouts, None)
    return {n: v for n, v in learner.state_dict().items() if n.startswith("policy/")}


@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("name", CASES)
def test_updates_do_not_depend_on_the_rewards_unit(name, unit):
    expected, found = train(name, 1.0), train(name, unit)
    for part, value in expected.items():
        torch.testing.assert_close(found[part], value, rtol=1e-3, atol=1e-4)


def rollouts_of(reward):
    reward = torch.as_tensor(reward).float().reshape(1, 1, -1)
    return [SimpleNamespace(reward=reward, valid=torch.ones_like(reward, dtype=torch.bool))]


def test_usual_rewards_are_read_as_they_are():
    for size in (0.02, 1.0, 1e4):
        assert RewardUnit().measure(rollouts_of([0.0, -size])) == RewardUnit(1.0)


def test_zero_rewards_fix_no_unit():
    assert RewardUnit().measure(rollouts_of([0.0, 0.0])) == RewardUnit()


OTHERS = {
    "teacher-student": replace(TEACHER, teacher_updates=2, student_updates=1),
    "gp": GP,
    "metric": replace(METRIC, encoder_steps=3),
}

UPDATES = {"teacher-student": 4, "gp": 3, "metric": 2}
"""All phases of the student; the first rollout of metric is read before the unit is known."""


def train_on_navigation(name, unit):
    env = make("navigation-2d", 1)
    step = env.step

    def scaled(*args):
        outcome = step(*args)
        return replace(outcome, reward=outcome.reward * unit)

    env.step = scaled
    learner = build_learner(ALGORITHMS[name], OTHERS[name], env.spec, seed=0)
    for iteration in range(UPDATES[name]):
        tasks = env.spec.tasks.sample(stream(0, "tasks", iteration), 3)
        key = Key(0, "train", iteration)
        rollouts, context = trial(env, learner, tasks, 2, 1, key, is_training=True)
        learner.update(context, rollouts, tasks)
    state = learner.state_dict()
    return {n: v for n, v in state.items() if n.startswith(("policy/", "encoder/"))}


@pytest.mark.parametrize("name", OTHERS)
def test_small_units_give_the_same_updates(name):
    expected, found = train_on_navigation(name, 1e-5), train_on_navigation(name, 1e-8)
    for part, value in expected.items():
        torch.testing.assert_close(found[part], value, rtol=1e-3, atol=2e-3)
