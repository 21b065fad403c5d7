"""MAML and its relatives against obvious code, and the equalities of the papers."""

import numpy as np
import pytest
import torch
from fewshot_tasks import CLASSIFICATION, REGRESSION, double_params, tasks_of
from torch.nn import functional

from metarl.fewshot.learner import Outer
from metarl.fewshot.learners.gradient import GradientLearner, Reptile
from metarl.fewshot.learners.inner import adapt
from metarl.learners.maml.inner_loop import RATE
from metarl.networks.mlp import CONTEXT, READ

RNG = np.random.default_rng(0)


def slow_output(params, x):
    for i in range(3):
        x = x @ params[f"weight{i}"] + params[f"bias{i}"]
        x = functional.relu(x) if i < 2 else x
    return x


def slow_loss(problem, params, x, y):
    output = slow_output(params, x)
    if problem.is_classification:
        return functional.cross_entropy(output, y.argmax(dim=1))
    return functional.mse_loss(output, y)


def slow_adapted(problem, params, tasks, task, rate, steps):
    own = dict(params)
    for _ in range(steps):
        loss = slow_loss(problem, own, tasks.support_x[task], tasks.support_y[task])
        found = torch.autograd.grad(loss, list(own.values()), create_graph=True)
        own = {n: v - rate * g for (n, v), g in zip(own.items(), found, strict=True)}
    return own


def gradient_of(learner, params, tasks):
    own = {n: v.clone().requires_grad_() for n, v in params.items()}
    found = torch.autograd.grad(learner.loss(own, tasks, RNG), list(own.values()))
    return dict(zip(own, found, strict=True))


@pytest.mark.parametrize("problem", [REGRESSION, CLASSIFICATION])
def test_maml_equals_obvious_code_task_by_task(problem):
    learner = GradientLearner(problem, 0.3, num_steps=2)
    params, tasks = double_params(learner), tasks_of(problem)
    own = {n: v.clone().requires_grad_() for n, v in params.items()}
    losses = [
        slow_loss(
            problem,
            slow_adapted(problem, own, tasks, i, 0.3, 2),
            tasks.query_x[i],
            tasks.query_y[i],
        )
        for i in range(len(tasks))
    ]
    slow = torch.autograd.grad(torch.stack(losses).mean(), list(own.values()))
    for name, found in zip(own, slow, strict=True):
        assert torch.allclose(gradient_of(learner, params, tasks)[name], found, rtol=1e-9), name
    for k, outputs in enumerate(learner.predict(params, tasks, 2)):
        for i in range(len(tasks)):
            adapted = slow_adapted(problem, own, tasks, i, 0.3, k)
            assert torch.allclose(outputs[i], slow_output(adapted, tasks.query_x[i]))


def test_first_order_gradient_is_that_at_the_adapted_point():
    learner = GradientLearner(REGRESSION, 0.3, num_steps=2, order=1)
    params, tasks = double_params(learner), tasks_of(REGRESSION)
    start = {n: v.clone().requires_grad_() for n, v in params.items()}
    total = {n: torch.zeros_like(v) for n, v in params.items()}
    for i in range(len(tasks)):
        point = slow_adapted(REGRESSION, start, tasks, i, 0.3, 2)
        point = {n: v.detach().requires_grad_() for n, v in point.items()}
        loss = slow_loss(REGRESSION, point, tasks.query_x[i], tasks.query_y[i])
        for n, found in zip(point, torch.autograd.grad(loss, list(point.values())), strict=True):
            total[n] += found / len(tasks)
    first = gradient_of(learner, params, tasks)
    second = gradient_of(GradientLearner(REGRESSION, 0.3, num_steps=2), params, tasks)
    for name in params:
        assert torch.allclose(first[name], total[name], rtol=1e-9), name
        assert not torch.allclose(first[name], second[name], rtol=1e-3), name


def test_reptile_step_goes_towards_the_adapted_mean():
    inner = GradientLearner(REGRESSION, 0.3, num_steps=3)
    learner = Reptile(inner, Outer(step_size=0.5, is_sgd=True))
    params, tasks = double_params(learner), tasks_of(REGRESSION)
    x = torch.cat([tasks.support_x, tasks.query_x], dim=1)
    y = torch.cat([tasks.support_y, tasks.query_y], dim=1)
    both = type(tasks)(x, y, x, y)
    own = {n: v.clone().requires_grad_() for n, v in params.items()}
    ends = [slow_adapted(REGRESSION, own, both, i, 0.3, 3) for i in range(len(tasks))]
    gradient = gradient_of(learner, params, tasks)
    for name, value in params.items():
        mean = torch.stack([end[name] for end in ends]).mean(dim=0)
        assert torch.allclose(value - 0.5 * gradient[name], value + 0.5 * (mean - value))


def test_meta_sgd_with_constant_rates_is_maml():
    maml, meta_sgd = (GradientLearner(REGRESSION, 0.3, learns_rates=own) for own in (False, True))
    params, tasks = double_params(maml), tasks_of(REGRESSION)
    rates = {RATE + n: torch.full_like(v, 0.3) for n, v in params.items()}
    found, expected = (
        gradient_of(meta_sgd, params | rates, tasks),
        gradient_of(maml, params, tasks),
    )
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-9), name
    start = {n: v.dtype for n, v in meta_sgd.initial(RNG).items()}
    assert {n for n in start if n.startswith(RATE)} == set(rates)


def test_anil_moves_only_the_last_layer():
    learner = GradientLearner(CLASSIFICATION, 0.3, adapts="head")
    params, tasks = double_params(learner), tasks_of(CLASSIFICATION)
    before, after = learner.adapt(params, tasks, 1, 0)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {"weight2", "bias2"}


def test_cavia_equals_a_network_with_the_context_as_input():
    learner = GradientLearner(REGRESSION, 0.3, adapts="context", context_size=2)
    params, tasks = double_params(learner), tasks_of(REGRESSION)
    context = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    wide = {n: v for n, v in params.items() if n not in (CONTEXT, READ)}
    wide["weight0"] = torch.cat([params["weight0"], params[READ]])

    def output(x, own):
        return slow_output(wide, torch.cat([x, own.expand(len(x), 2)], dim=1))

    expected = []
    for i in range(len(tasks)):
        loss = functional.mse_loss(output(tasks.support_x[i], context), tasks.support_y[i])
        moved = context - 0.3 * torch.autograd.grad(loss, context)[0]
        expected.append(functional.mse_loss(output(tasks.query_x[i], moved), tasks.query_y[i]))
    found = learner.loss(params, tasks, RNG)  # whatever the stored context is
    assert torch.allclose(found, torch.stack(expected).mean(), rtol=1e-9)


def test_adaptation_of_one_task_ignores_the_others():
    learner = GradientLearner(REGRESSION, 0.3)
    params, tasks = double_params(learner), tasks_of(REGRESSION)
    together = learner.predict(params, tasks, 3)[-1]
    alone = type(tasks)(*(v[1:2] for v in vars(tasks).values()))
    assert torch.allclose(learner.predict(params, alone, 3)[-1][0], together[1], rtol=1e-12)


def test_step_on_a_quadratic_has_the_closed_form():
    start = {"x": torch.tensor([[2.0], [-1.0]], dtype=torch.float64)}
    points = adapt(lambda p: 1.5 * p["x"].square().sum(dim=1), start, [0.1, 0.1], 2)
    assert torch.allclose(points[-1]["x"], (1 - 0.1 * 3.0) ** 2 * start["x"])
