"""LEO against obvious code with autograd in double precision, and finite differences."""

import pytest
import torch
from meta_objective import assert_tangents_transpose_cotangents, played

from metarl.learners.maml.adaptations.leo import READ, READ_BIAS, WRITE
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.maml.meta_gradient import meta_gradient, objective
from metarl.learners.maml.outer_ppo import ppo_gradient
from metarl.networks.latent import DECODE, LATENT, OFFSET

NUM_TASKS, RATES = 3, (0.8, 0.4)
KINDS = {"without encoder": 0, "with encoder": 4}


def leo(encoder_size=0, **settings):
    defaults = {"hidden_sizes": (5,), "inner_lr": 0.8, "later_lr": 0.5, "curvature_fraction": 1.0}
    sizes = {"adapts": "latent", "latent_size": 2, "encoder_size": encoder_size}
    learner = Maml(MamlConfig(**sizes | defaults | settings), 3, 2, seed=1)
    if encoder_size:  # zero is a special point, so the tests use another
        rng = torch.Generator().manual_seed(3)
        shape = learner.params[WRITE].shape
        learner.params[WRITE] = 0.5 * torch.randn(shape, generator=rng)
    return learner


def steps_of(batch, task):
    """The valid steps of a task: obs (M, S), action (M, A), log_prob, advantage (M,)."""
    valid = batch.valid[task].bool()
    return [
        part[task][valid] for part in (batch.obs, batch.action, batch.log_prob, batch.advantage)
    ]


def log_prob_of(params, latent, obs, action):
    """Log-density of actions under the network whose last layer is decoded, unit by unit."""
    hidden = torch.tanh(obs @ params["weight0"] + params["bias0"])
    means = []
    for code in latent:
        row = sum(z * d for z, d in zip(code, params[DECODE], strict=True)) + params[OFFSET]
        means.append(hidden @ row[:-1] + row[-1])
    std = params["log_std"].exp()
    return torch.distributions.Normal(torch.stack(means, dim=1), std).log_prob(action).sum(dim=1)


def slow_latent(params, batches, task):
    """The task's code after a step on each batch, differentiable in the meta-parameters."""
    latent = params[LATENT]
    for k, batch in enumerate(batches):
        obs, action, old, advantage = steps_of(batch, task)
        if k == 0 and WRITE in params:
            rows = torch.cat([obs, action, advantage.unsqueeze(1)], dim=1)
            units = torch.tanh(rows @ params[READ] + params[READ_BIAS])
            latent = latent + (units.mean(dim=0) @ params[WRITE]).view_as(latent)
        ratio = (log_prob_of(params, latent, obs, action) - old).exp()
        loss = -(ratio * advantage).mean()
        (gradient,) = torch.autograd.grad(loss, latent, create_graph=True)
        latent = latent - RATES[k] * gradient
    return latent


def slow_gradient(learner, trial):
    """Mean over the tasks of the gradient of the return after adaptation, by autograd."""
    leaves = {n: v.detach().clone().requires_grad_() for n, v in learner.params.items()}
    total = 0.0
    for task in range(NUM_TASKS):
        latent = slow_latent(leaves, trial.batches[:-1], task)
        obs, action, old, advantage = steps_of(trial.batches[-1], task)
        ratio = (log_prob_of(leaves, latent, obs, action) - old).exp()
        total = total + (ratio * advantage).mean()
    found = torch.autograd.grad(total / NUM_TASKS, list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def flat(values):
    return torch.cat([v.reshape(-1) for v in values.values()])


@pytest.mark.parametrize("num_adaptations", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_meta_gradient_is_that_of_maml_in_the_latent_space(kind, num_adaptations):
    learner = leo(KINDS[kind])
    trial = played(learner, num_adaptations)
    expected = slow_gradient(learner, trial)
    assert all(v.any() for v in expected.values())
    found = meta_gradient(learner.adaptation, learner.params, trial)
    torch.testing.assert_close(found, flat(expected), rtol=1e-8, atol=1e-11)
    steps = ppo_gradient(learner.adaptation, learner.params, trial)
    torch.testing.assert_close(-flat(steps), flat(expected), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_meta_gradient_equals_finite_differences(kind):
    learner = leo(KINDS[kind])
    trial, rng = played(learner, num_adaptations=2), torch.Generator().manual_seed(5)
    found = meta_gradient(learner.adaptation, learner.params, trial)

    def gain(shift):
        params = {n: v + shift * direction[n] for n, v in learner.params.items()}
        chunks = [objective(learner.adaptation, params, trial, chunk) for chunk in trial.chunks]
        return sum(float(each[0]) for each in chunks) / NUM_TASKS

    for _ in range(3):
        direction = {
            n: torch.randn(v.shape, generator=rng, dtype=v.dtype) for n, v in learner.params.items()
        }
        difference = (gain(1e-5) - gain(-1e-5)) / 2e-5
        assert float(found @ flat(direction)) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_tangents_are_the_transpose_of_cotangents(kind):
    assert_tangents_transpose_cotangents(leo(KINDS[kind]))


def test_training_starts_as_maml_in_the_latent_space():
    learners = [leo(0), Maml(leo(4).config, 3, 2, seed=1)]
    points = [played(each).chunks[0].points[-1] for each in learners]
    assert all(torch.equal(v, points[1][n]) for n, v in points[0].items())


def test_adaptation_moves_the_code_alone():
    learner = leo(4)
    before, after = played(learner).chunks[0].points
    assert {n for n in before if not torch.equal(before[n], after[n])} == {LATENT}


def test_codes_of_outputs_decode_to_a_usual_layer():
    params = Maml(MamlConfig(adapts="latent", hidden_sizes=(64,)), 3, 40, seed=0).params
    weight = (params[LATENT] @ params[DECODE])[:, :-1]
    assert float(weight.square().mean()) == pytest.approx(2.0 / 104.0, rel=0.15)
