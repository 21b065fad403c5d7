"""The gradient of RL^2's loss against a loop, plain autograd and finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sign_tasks import SignBatch, collect

from metarl.functional.ppo import clipped_loss
from metarl.learners.rl2 import gradient
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.gradient import STATISTICS, Batch, MinibatchGradient
from metarl.learners.rl2.rl2 import Rl2
from metarl.networks.actor_critic import MEMORIES
from metarl.sampling.sequences import Sequences

SMALL = {"memory_size": 16, "hidden_size": 16}
WEIGHTS = {"entropy_weight": 0.1, "value_weight": 0.3}


def problem(*, eventful=True, num_tasks=6, **settings):
    """A policy and a batch in double precision, with ratios other than 1."""
    config = Rl2Config(**SMALL, **WEIGHTS, **settings)
    learner = Rl2(config, 2, 1, seed=0)
    env = SignBatch(eventful=eventful)
    steps = Sequences.of(collect(learner, env, num_tasks=num_tasks)[0])
    inputs = learner._inputs(steps).double()
    learner.policy.double().log_std.data -= 0.2
    steps = Sequences(
        **{n: a.double() if a.is_floating_point() else a for n, a in vars(steps).items()}
    )
    draw = torch.Generator().manual_seed(0)
    shape, double = steps.valid.shape, {"dtype": torch.float64, "generator": draw}
    numbers = torch.randn(shape, **double), torch.randn(shape, **double)
    batch = replace(Batch.of(steps, inputs), advantage=numbers[0], target=numbers[1])
    return learner.policy, config, batch


def plain_loss(policy, config, batch, rows):
    """The loss over the rows, the obvious way: all steps at once, masked."""
    steps = batch.steps.rows(rows)
    inputs, advantage, target = (
        part[:, rows] for part in (batch.inputs, batch.advantage, batch.target)
    )
    output, value = policy.unroll(inputs, inputs[..., : steps.obs.shape[-1]])
    params = policy.distribution_params()
    log_ratio = policy.distribution.log_prob(params, output, steps.action) - steps.log_prob
    loss = clipped_loss(log_ratio, advantage, config.clip)
    loss = loss + config.value_weight * (value - target).square()
    loss = loss - config.entropy_weight * policy.distribution.entropy(params, output)
    return loss[steps.valid].mean()


def test_plain_loss_equals_a_loop_over_valid_steps():
    policy, config, batch = problem()
    steps, rows = batch.steps, torch.arange(12)
    with torch.no_grad():
        loss = plain_loss(policy, config, batch, rows)
        mean, value = policy.unroll(batch.inputs, batch.inputs[..., :2])
    _, statistics = MinibatchGradient(policy, config, 1)(batch, rows)
    log_std = policy.distribution.clamp(policy.distribution_params())["log_std"].detach()
    total, number, kl, outside = 0.0, 0, 0.0, 0
    for t, m in steps.valid.nonzero().tolist():
        normal = torch.distributions.Normal(mean[t, m], log_std.exp())
        ratio = float((normal.log_prob(steps.action[t, m]).sum() - steps.log_prob[t, m]).exp())
        a, clipped = float(batch.advantage[t, m]), min(max(ratio, 0.8), 1.2)
        total += -min(ratio * a, clipped * a) - 0.1 * float(normal.entropy().sum())
        total += 0.3 * float(value[t, m] - batch.target[t, m]) ** 2
        kl += ratio - 1.0 - np.log(ratio)
        outside += abs(ratio - 1.0) > 0.2
        number += 1
    assert float(loss) == pytest.approx(total / number, rel=1e-9)
    found = dict(zip(STATISTICS, statistics.tolist(), strict=True))
    assert found["kl"] == pytest.approx(kl / number, rel=1e-9)
    assert found["update/clipped"] == pytest.approx(outside / number)


@pytest.mark.parametrize("eventful", [False, True])
@pytest.mark.parametrize("value_memory", ["shared", "own"])
@pytest.mark.parametrize("memory", MEMORIES)
def test_gradient_equals_plain_autograd(monkeypatch, memory, value_memory, eventful):
    monkeypatch.setattr(gradient, "HEAD_STEPS", 7)
    settings = {"memory": memory, "value_memory": value_memory}
    policy, config, batch = problem(eventful=eventful, num_tasks=10, **settings)
    monkeypatch.setattr(policy.memory, "rows_per_shard", 3)
    rows = torch.tensor([19, 3, 4, 0, 7, 11, 12, 13])
    compute = MinibatchGradient(policy, config, 2)
    assert len(compute.shards(rows)) == 3
    found, _ = compute(batch, rows)
    loss = plain_loss(policy, config, batch, rows)
    expected = torch.autograd.grad(loss, compute.parameters)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "settings", [{"memory": memory} for memory in MEMORIES] + [{"actor": "hypernetwork"}]
)
def test_gradient_equals_finite_differences(settings):
    policy, config, batch = problem(**settings)
    rows = torch.arange(12)
    compute = MinibatchGradient(policy, config, 1)
    found, _ = compute(batch, rows)
    draw = torch.Generator().manual_seed(0)
    for parameter, slope in zip(compute.parameters, found, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=draw)
        start, ends = parameter.data.clone(), []
        for size in (1e-6, -1e-6):
            parameter.data = start + size * direction
            with torch.no_grad():
                ends.append(float(plain_loss(policy, config, batch, rows)))
        parameter.data = start
        expected = (ends[0] - ends[1]) / 2e-6
        assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("memory", MEMORIES)
def test_gradient_does_not_depend_on_the_threads(memory):
    policy, config, batch = problem(memory=memory, num_tasks=20)
    rows = torch.arange(40)
    one, two = (MinibatchGradient(policy, config, n)(batch, rows)[0] for n in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_shards_end_with_their_longest_trial():
    _, _, batch = problem()
    lengths = batch.steps.acted.sum(dim=0)
    shortest = lengths.argmin().unsqueeze(0)
    assert len(batch.rows(shortest).inputs) == lengths.min() < len(batch.inputs)
