"""The loss of every learner against finite differences, in double precision."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fewshot_tasks import CLASSIFICATION, REGRESSION, SINGLE, double_params, tasks_of

from metarl.fewshot.learners.bmaml import BayesianMaml
from metarl.fewshot.learners.gp import GaussianProcess
from metarl.fewshot.learners.gradient import GradientLearner
from metarl.fewshot.learners.leo import Leo
from metarl.fewshot.learners.mann import Mann
from metarl.fewshot.learners.prototypical import Prototypical
from metarl.fewshot.learners.siamese import Siamese

BOTH = [
    lambda p: GradientLearner(p, 0.3, num_steps=2),
    lambda p: GradientLearner(p, 0.3, learns_rates=True),
    lambda p: GradientLearner(p, 0.3, adapts="head", num_steps=2),
    lambda p: GradientLearner(p, 0.3, adapts="context", num_steps=2),
    lambda p: Mann(p, num_hidden=6, num_slots=5, width=3),
    # the distance between first and last z has a part that counts as a constant
    lambda p: replace(Leo(p, latent_size=3, num_related=4), encoder_weight=0.0),
]
CASES = [(problem, make) for problem in (REGRESSION, CLASSIFICATION) for make in BOTH] + [
    (CLASSIFICATION, lambda p: Prototypical(p, embedding_size=3)),
    (CLASSIFICATION, lambda p: Siamese(p, embedding_size=3)),
    (SINGLE, GaussianProcess),
]


@pytest.mark.parametrize(("problem", "make"), CASES)
def test_gradient_of_the_loss_equals_finite_differences(problem, make):
    learner = make(problem)
    params, tasks = double_params(learner), tasks_of(problem)

    def value(step, direction):
        point = {n: v + step * direction[n] for n, v in params.items()}
        return learner.loss(point, tasks, np.random.default_rng(2))

    own = {n: v.clone().requires_grad_() for n, v in params.items()}
    loss = learner.loss(own, tasks, np.random.default_rng(2))
    found = torch.autograd.grad(loss, list(own.values()))
    gradient = dict(zip(own, found, strict=True))
    rng, sizes = np.random.default_rng(3), []
    for name in params:
        noise = torch.from_numpy(np.array(rng.normal(size=params[name].shape)))
        direction = {n: noise if n == name else torch.zeros_like(v) for n, v in params.items()}
        slow = (value(1e-5, direction) - value(-1e-5, direction)) / 2e-5
        assert torch.allclose((gradient[name] * noise).sum(), slow, rtol=1e-6, atol=1e-8), name
        sizes.append(float(slow.detach().abs()))
    assert np.median(sizes) > 1e-6  # the loss depends on the parameters


def test_chaser_follows_the_particles_that_see_all_examples():
    learner = BayesianMaml(REGRESSION, 0.2, num_particles=3)
    params, tasks = double_params(learner), tasks_of(REGRESSION)
    own = {n: v.clone().requires_grad_() for n, v in params.items()}
    loss = learner.loss(own, tasks, np.random.default_rng(0))
    gradient = torch.autograd.grad(loss, list(own.values()))

    def particles(point):
        begin = learner.start(point, len(tasks))
        return learner.adapt(begin, tasks.support_x, tasks.support_y, 1, 0)[-1]

    inputs = torch.cat([tasks.support_x, tasks.query_x], dim=1)
    targets = torch.cat([tasks.support_y, tasks.query_y], dim=1)
    leader = learner.adapt(particles(params), inputs, targets, 1, 0)[-1]

    def distance(point):
        chaser = particles(point)
        return sum((chaser[n] - leader[n]).square().sum() for n in chaser) / len(tasks)

    assert torch.allclose(loss, distance(params), rtol=1e-10)
    rng = np.random.default_rng(1)
    noise = {n: torch.from_numpy(rng.normal(size=v.shape)) for n, v in params.items()}
    ends = [distance({n: v + s * noise[n] for n, v in params.items()}) for s in (1e-5, -1e-5)]
    found = sum((g * noise[n]).sum() for n, g in zip(own, gradient, strict=True))
    assert torch.allclose(found, (ends[0] - ends[1]) / 2e-5, rtol=1e-5)
