"""Meta-LSTM against obvious code with autograd in double precision, and finite differences."""

import math

import pytest
import torch
from meta_objective import assert_tangents_transpose_cotangents, log_prob, played

from metarl.core.errors import ConfigError
from metarl.learners.maml.adaptations.meta_lstm import OWN
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.maml.meta_gradient import meta_gradient, objective
from metarl.learners.maml.outer_ppo import ppo_gradient
from metarl.learners.maml.surrogates import surrogate_loss

NUM_TASKS, SIZE, RATE = 3, 3, 0.3


def learner_of(**settings):
    defaults = {"hidden_sizes": (5,), "inner_lr": RATE, "curvature_fraction": 1.0}
    learner = Maml(MamlConfig(**defaults | settings), 3, 2, seed=1)
    if learner.config.inner == "lstm":  # so that the gates depend on what they read
        learner.params[OWN + "gates"] = 30.0 * learner.params[OWN + "gates"]
        learner.params[OWN + "gates_bias"][0] = 2.0
    return learner


def meta_lstm(**settings):
    return learner_of(inner="lstm", optimiser_size=SIZE, **settings)


def describe(number):
    """The two numbers that the LSTM reads of a number."""
    if abs(number) >= math.exp(-10):
        return [math.log(abs(number)) / 10, math.copysign(1.0, number)]
    return [-1.0, math.exp(10) * number]


def slow_adapted(learner, params, batches, task):
    """Adapts a task number by number with torch's LSTM cell; gradients are constants."""
    own = {n.removeprefix(OWN): v for n, v in params.items() if n.startswith(OWN)}
    point = {n: v for n, v in params.items() if not n.startswith(OWN)}
    forget_bias = torch.tensor([0.0, 1.0, 0.0, 0.0]).double().repeat_interleave(SIZE)
    weights = {
        "weight_ih": own["lstm"][:4].T,
        "weight_hh": own["lstm"][4:].T,
        "bias_ih": own["lstm_bias"] + forget_bias,
        "bias_hh": torch.zeros(4 * SIZE).double(),
    }
    cell = torch.nn.LSTMCell(4, SIZE).double()
    zeros = torch.zeros(1, SIZE).double()
    states, one = {}, torch.ones(1).double()
    for batch in batches:
        mine = batch.slice_tasks(task, task + 1)
        at = {n: v.detach().unsqueeze(0).requires_grad_() for n, v in point.items()}
        loss = surrogate_loss("lvc", log_prob(learner.policy, at, mine), mine).sum()
        found = dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))
        after = {}
        for name, value in point.items():
            numbers = []
            for i, theta in enumerate(value.flatten()):
                one_gradient = found[name].flatten()[i].item()
                state, gates = states.get((name, i), ((zeros, zeros), [one, 0.0 * one]))
                reading = [[*describe(one_gradient), *describe(0.0)]]
                row = torch.tensor(reading, dtype=torch.float64)
                state = torch.func.functional_call(cell, weights, (row, state))
                read = torch.cat([state[0][0], theta.view(1), *gates])
                gates = (read @ own["gates"] + own["gates_bias"]).sigmoid().split(1)
                states[name, i] = state, gates
                numbers.append(gates[0] * theta - gates[1] * one_gradient)
            after[name] = torch.cat(numbers).view_as(value)
        point = after
    return point


def slow_gradient(learner, trial):
    leaves = {n: v.detach().clone().requires_grad_() for n, v in learner.params.items()}
    total = 0.0
    for task in range(NUM_TASKS):
        adapted = slow_adapted(learner, leaves, trial.batches[:-1], task)
        mine = trial.batches[-1].slice_tasks(task, task + 1)
        own = {n: v.unsqueeze(0) for n, v in adapted.items()}
        ratio = (log_prob(learner.policy, own, mine) - mine.log_prob).exp()
        total = total + (ratio * mine.advantage * mine.weight).sum()
    found = torch.autograd.grad(total / NUM_TASKS, list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def flat(values):
    return torch.cat([v.reshape(-1) for v in values.values()])


@pytest.mark.parametrize("num_adaptations", [1, 2])
def test_meta_gradient_equals_a_loop_over_numbers(num_adaptations):
    learner = meta_lstm()
    trial = played(learner, num_adaptations)
    expected = slow_gradient(learner, trial)
    assert all(v.any() for v in expected.values())
    found = meta_gradient(learner.adaptation, learner.params, trial)
    torch.testing.assert_close(found, flat(expected), rtol=1e-8, atol=1e-11)
    steps = ppo_gradient(learner.adaptation, learner.params, trial)
    torch.testing.assert_close(-flat(steps), flat(expected), rtol=1e-8, atol=1e-11)


def test_gradient_of_the_optimiser_equals_finite_differences():
    """After one step, whose gradient does not depend on the optimiser."""
    learner = meta_lstm()
    trial, rng = played(learner), torch.Generator().manual_seed(5)
    found = meta_gradient(learner.adaptation, learner.params, trial)

    def gain(shift):
        params = {n: v + shift * direction[n] for n, v in learner.params.items()}
        chunks = [objective(learner.adaptation, params, trial, chunk) for chunk in trial.chunks]
        return sum(float(each[0]) for each in chunks) / NUM_TASKS

    for _ in range(3):
        direction = {
            n: torch.randn(v.shape, generator=rng, dtype=v.dtype) * n.startswith(OWN)
            for n, v in learner.params.items()
        }
        difference = (gain(1e-5) - gain(-1e-5)) / 2e-5
        assert float(found @ flat(direction)) == pytest.approx(difference, rel=1e-6)


def test_tangents_are_the_transpose_of_cotangents():
    assert_tangents_transpose_cotangents(meta_lstm())


def test_constant_gates_are_first_order_maml():
    learner, other = meta_lstm(), learner_of(first_order=True, later_lr=1.0)
    learner.params[OWN + "gates"] *= 0.0
    learner.params[OWN + "gates_bias"] = torch.tensor([60.0, math.log(RATE / (1.0 - RATE))])
    trials = [played(each, num_adaptations=2) for each in (learner, other)]
    for own, theirs in zip(*(trial.chunks for trial in trials), strict=True):
        for name, value in theirs.points[-1].items():
            torch.testing.assert_close(own.points[-1][name], value, rtol=1e-6, atol=1e-7)
    found = meta_gradient(learner.adaptation, learner.params, trials[0])
    expected = meta_gradient(other.adaptation, other.params, trials[1])
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-5, atol=1e-6)


def test_steps_of_a_trial_keep_the_state_of_the_optimiser():
    """Adapting rollout by rollout is adapting to all of them at once."""
    learner = meta_lstm()
    trial = played(learner, num_adaptations=2)
    chunk = trial.chunks[1]
    start = learner.adaptation.start(learner.params, 1)
    again = learner.adaptation.steps(learner.params, start, trial.batches_of(chunk)[:-1])
    for one, other in zip(again.points, chunk.points, strict=True):
        assert all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(
    "settings", [{"adapts": "head"}, {"outer": "reptile"}, {"learn_rates": True}]
)
def test_settings_of_gradient_steps_are_refused(settings):
    with pytest.raises(ConfigError, match="learner.inner.*lstm.*gradient with"):
        MamlConfig(inner="lstm", **settings)
    with pytest.raises(ConfigError, match="learner.inner_lr.*below 1"):
        MamlConfig(inner="lstm", inner_lr=1.5)
