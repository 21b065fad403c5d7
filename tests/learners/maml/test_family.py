"""MAML's relatives against slow autograd in double precision, and the equalities of the papers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from meta_objective import double_trial, log_prob, played

from metarl.functional.ppo import clipped_loss
from metarl.learners.maml import surrogates
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.inner_loop import RATE, inner_steps, linearise
from metarl.learners.maml.maml import Maml
from metarl.learners.maml.meta_gradient import meta_gradient, objective
from metarl.learners.maml.outer_ppo import AdamSteps, ppo_gradient
from metarl.learners.maml.outer_trpo import TrpoStep
from metarl.learners.maml.surrogates import surrogate_loss
from metarl.networks.mlp import CONTEXT, READ, ContextNetwork, TanhMLP

NUM_TASKS = 3

KINDS = {
    "maml": {},
    "anil": {"adapts": "head"},
    "cavia": {"adapts": "context", "context_size": 2},
    "cavia in all layers": {"adapts": "context", "context_size": 2, "context_layers": "all"},
    "meta-sgd": {"learn_rates": True},
    "meta-sgd on the head": {"learn_rates": True, "adapts": "head"},
}


def learner_of(**settings):
    defaults = {"hidden_sizes": (5,), "inner_lr": 0.4, "later_lr": 0.5, "curvature_fraction": 1.0}
    learner = Maml(MamlConfig(**defaults | settings), 3, 2, seed=1)
    if CONTEXT in learner.params:  # zero is a special point, so the tests use another
        learner.params[CONTEXT] = torch.tensor([0.3, -0.7])
    return learner


def slow_adapted(learner, params, batches, task):
    """Adapts a task from meta-parameters by autograd with a graph; returns (1, *shape) values."""
    config, start = learner.config, {n: v for n, v in params.items() if not n.startswith(RATE)}
    own, factor = {n: v.unsqueeze(0) for n, v in start.items()}, 1.0
    moved = [n for n in own if is_moved(config, n)]
    for k, batch in enumerate(batches):
        mine = batch.slice_tasks(task, task + 1)
        loss = surrogate_loss(config.surrogate, log_prob(learner.policy, own, mine), mine).sum()
        found = torch.autograd.grad(loss, [own[n] for n in moved], create_graph=True)
        factor = 1.0 if k == 0 else config.later_lr * config.later_decay ** (k - 1)
        for name, gradient in zip(moved, found, strict=True):
            rate = params[RATE + name] if config.learn_rates else config.inner_lr
            own[name] = own[name] - factor * rate * gradient
    return own


def is_moved(config, name):
    last = len(config.hidden_sizes)
    known = {"all": True, "head": name in (f"weight{last}", f"bias{last}", "log_std")}
    return known.get(config.adapts, name == CONTEXT)


def gain_of(learner, own, final, task):
    mine = final.slice_tasks(task, task + 1)
    log_ratio = log_prob(learner.policy, own, mine) - mine.log_prob
    return (log_ratio.exp() * mine.advantage * mine.weight).sum()


def slow_gradient(learner, trial, params=None, value=gain_of):
    """Mean over the tasks of the gradient of a value of the adapted parameters, by autograd."""
    params = params or learner.params
    leaves = {n: v.detach().clone().requires_grad_() for n, v in params.items()}
    total = 0.0
    for task in range(NUM_TASKS):
        own = slow_adapted(learner, leaves, trial.batches[:-1], task)
        total = total + value(learner, own, trial.batches[-1], task)
    found = torch.autograd.grad(total / NUM_TASKS, list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), found, strict=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in pairs}


def by_name(learner, flat):
    sizes = [v.numel() for v in learner.params.values()]
    parts = zip(learner.params.items(), flat.split(sizes), strict=True)
    return {n: part.view_as(v) for (n, v), part in parts}


def assert_close(ours, expected):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("num_adaptations", [1, 2])
@pytest.mark.parametrize("surrogate", ["lvc", "dice"])
@pytest.mark.parametrize("kind", KINDS)
def test_meta_gradient_equals_autograd(kind, surrogate, num_adaptations):
    learner = learner_of(**KINDS[kind], surrogate=surrogate)
    trial = played(learner, num_adaptations)
    flat = meta_gradient(learner.adaptation, learner.params, trial)
    assert_close(by_name(learner, flat), slow_gradient(learner, trial))


@pytest.mark.parametrize("kind", KINDS)
def test_curvature_equals_the_hessian_of_the_kl(kind):
    learner = learner_of(**KINDS[kind])
    trial = played(learner)
    policy, points = learner.policy, trial.chunks

    def kl_of(learner, own, final, task):
        mine = final.slice_tasks(task, task + 1)
        old = {n: v.detach() for n, v in points[task].points[-1].items()}
        outputs = [policy.network.outputs(p, mine.obs.flatten(1, 2)) for p in (old, own)]
        kl = policy.distribution.kl_divergence(old, outputs[0], own, outputs[1])
        return (kl * mine.weight.flatten(1)).sum()

    leaves = {n: v.detach().clone().requires_grad_() for n, v in learner.params.items()}
    total = sum(
        kl_of(learner, slow_adapted(learner, leaves, trial.batches[:-1], i), trial.batches[-1], i)
        for i in range(NUM_TASKS)
    )
    values = list(leaves.values())
    first = torch.autograd.grad(total / NUM_TASKS, values, create_graph=True, allow_unused=True)
    rng = torch.Generator().manual_seed(0)
    direction = [torch.randn(v.shape, generator=rng, dtype=v.dtype) for v in values]
    inner = sum((g * d).sum() for g, d in zip(first, direction, strict=True) if g is not None)
    second = torch.autograd.grad(inner, values, allow_unused=True)
    expected = torch.cat(
        [
            (torch.zeros_like(v) if g is None else g).flatten()
            for v, g in zip(values, second, strict=True)
        ]
    )
    product = TrpoStep(learner.adaptation, learner.params, trial, 0.01).curvature()
    ours = product(torch.cat([d.flatten() for d in direction]))
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kind", ["maml", "cavia", "cavia in all layers", "meta-sgd"])
def test_clipped_gradient_equals_autograd_after_a_step(kind):
    """At parameters other than those that sampled, where ratios differ from 1 and some clip."""
    learner = learner_of(**KINDS[kind], outer="ppo", clip=0.05)
    trial = played(learner)
    rng = torch.Generator().manual_seed(2)
    moved = {
        n: v + 0.05 * torch.randn(v.shape, generator=rng, dtype=v.dtype)
        for n, v in learner.params.items()
    }

    def loss(learner, own, final, task):
        mine = final.slice_tasks(task, task + 1)
        log_ratio = log_prob(learner.policy, own, mine) - mine.log_prob
        return (clipped_loss(log_ratio, mine.advantage, 0.05) * mine.weight).sum()

    expected = slow_gradient(learner, trial, moved, loss)
    ours = ppo_gradient(learner.adaptation, moved, trial)
    if CONTEXT in ours:
        assert not ours.pop(CONTEXT).any() and expected.pop(CONTEXT).any()
    assert_close(ours, expected)


def test_first_gradient_of_promp_is_that_of_maml():
    learner = learner_of(outer="ppo")
    trial = played(learner)
    ours = ppo_gradient(learner.adaptation, learner.params, trial, inner_kl_weight=3.0)
    expected = by_name(learner, meta_gradient(learner.adaptation, learner.params, trial))
    assert_close({n: -v for n, v in ours.items()}, expected)


def test_inner_divergence_equals_autograd():
    learner = learner_of(outer="ppo")
    trial = played(learner)
    moved = {n: v + 0.1 for n, v in learner.params.items()}
    with_kl, without = (ppo_gradient(learner.adaptation, moved, trial, w) for w in (2.0, 0.0))
    leaves = {n: v.clone().requires_grad_() for n, v in moved.items()}
    policy, total = learner.policy, 0.0
    for i in range(NUM_TASKS):
        mine = trial.batches[0].slice_tasks(i, i + 1)
        old = {n: v.unsqueeze(0) for n, v in learner.params.items()}
        own = {n: v.unsqueeze(0) for n, v in leaves.items()}
        outputs = [policy.network.outputs(p, mine.obs.flatten(1, 2)) for p in (old, own)]
        kl = policy.distribution.kl_divergence(old, outputs[0], own, outputs[1])
        total = total + (kl * mine.weight.flatten(1)).sum()
    found = torch.autograd.grad(2.0 * total / NUM_TASKS, list(leaves.values()))
    for (name, value), added in zip(with_kl.items(), found, strict=True):
        torch.testing.assert_close(value - without[name], added, rtol=1e-7, atol=1e-10)


def test_weight_of_the_penalty_without_a_target_has_no_effect():
    steps = []
    for weight in (0.0, 1e3):
        learner = learner_of(outer="ppo", inner_kl_weight=weight)
        trial = played(learner)
        steps.append(AdamSteps(learner.config, learner.params).take(learner.adaptation, trial))
    assert steps[0].metrics == steps[1].metrics
    assert all(torch.equal(v, steps[1].params[n]) for n, v in steps[0].params.items())


def test_meta_sgd_with_constant_rates_is_maml():
    # 0.5 is the same number in single and in double precision
    learners = [learner_of(inner_lr=0.5), learner_of(inner_lr=0.5, learn_rates=True)]
    trials = [played(learner, 2) for learner in learners]
    gradients = [
        by_name(one, meta_gradient(one.adaptation, one.params, trial))
        for one, trial in zip(learners, trials, strict=True)
    ]
    for chunks in zip(trials[0].chunks, trials[1].chunks, strict=True):
        for name, value in chunks[0].points[-1].items():
            torch.testing.assert_close(chunks[1].points[-1][name], value, rtol=1e-12, atol=0)
    assert_close({n: v for n, v in gradients[1].items() if not n.startswith(RATE)}, gradients[0])
    assert all(v.any() for n, v in gradients[1].items() if n.startswith(RATE))


def test_anil_on_all_layers_is_maml():
    learner = learner_of()
    trial = played(learner, 2)
    batches, params = trial.batches[:-1], trial.chunks[0].points[0]
    own = [batch.slice_tasks(0, 1) for batch in batches]
    masks = [{n: torch.full((), size, dtype=torch.float64) for n in params} for size in (0.4, 0.2)]
    both = [inner_steps(learner.policy, "lvc", params, own, rates) for rates in (masks, [0.4, 0.2])]
    vector = {n: torch.ones_like(v) for n, v in params.items()}
    tapes = [
        linearise(learner.policy, "lvc", one.points, own, rates)
        for one, rates in zip(both, (masks, [0.4, 0.2]), strict=True)
    ]
    assert_close(tapes[0].points[-1], tapes[1].points[-1])
    assert_close(tapes[0].vjp(vector), tapes[1].vjp(vector))
    assert_close(tapes[0].jvp(vector), tapes[1].jvp(vector))


@pytest.mark.parametrize(
    ("kind", "moved"),
    [
        ("anil", {"weight1", "bias1", "log_std"}),
        ("cavia", {CONTEXT}),
        ("cavia in all layers", {CONTEXT}),
    ],
)
def test_adaptation_moves_only_its_parameters(kind, moved):
    trial = played(learner_of(**KINDS[kind]))
    for chunk in trial.chunks:
        before, after = chunk.points
        assert {n for n in before if not torch.equal(before[n], after[n])} == moved


def test_cavia_reads_the_context_as_further_inputs():
    """The network with a context is the plain one on observations followed by the context."""
    inner = TanhMLP(3, 2, (5, 4))
    network = ContextNetwork(inner, 2)
    rng = torch.Generator().manual_seed(0)
    params = {
        n: torch.randn(4, *v.shape, generator=rng, dtype=torch.float64)
        for n, v in network.initial(np.random.default_rng(0)).items()
    }
    obs = torch.randn(4, 6, 3, generator=rng, dtype=torch.float64)
    wide = {n: v for n, v in params.items() if n not in (CONTEXT, READ)}
    wide["weight0"] = torch.cat([params["weight0"], params[READ]], dim=1)
    inputs = torch.cat([obs, params[CONTEXT].unsqueeze(1).expand(-1, 6, -1)], dim=2)
    expected = TanhMLP(5, 2, (5, 4)).outputs(wide, inputs)
    torch.testing.assert_close(network.outputs(params, obs), expected)


def test_context_in_every_layer_equals_obvious_code():
    rng = torch.Generator().manual_seed(0)
    drawn = ContextNetwork(TanhMLP(3, 2, (5, 4)), 2, is_deep=True)
    params = {
        n: torch.randn(4, *v.shape, generator=rng, dtype=torch.float64)
        for n, v in drawn.initial(np.random.default_rng(0)).items()
    }
    obs = torch.randn(4, 6, 3, generator=rng, dtype=torch.float64)
    found = drawn.outputs(params, obs)
    for n in range(4):
        own = {name: value[n] for name, value in params.items()}
        for m in range(6):
            value = obs[n, m]
            for i, read in enumerate((READ, f"{READ}1", f"{READ}2")):
                bias = own[f"bias{i}"] + own[CONTEXT] @ own[read]
                value = value @ own[f"weight{i}"] + bias
                value = value.tanh() if i < 2 else value
            torch.testing.assert_close(found[n, m], value)


def test_update_of_cavia_keeps_the_context_at_zero():
    learner = Maml(MamlConfig(hidden_sizes=(5,), adapts="context"), 3, 2, seed=1)
    before = learner.params[READ].clone()
    context, rollouts = double_trial(learner)
    metrics = learner.update(context, rollouts, None)
    assert metrics["update/step_scale"] > 0.0
    assert not learner.params[CONTEXT].any() and not torch.equal(learner.params[READ], before)


def test_reptile_moves_towards_the_adapted_parameters(monkeypatch):
    learner = learner_of(outer="reptile", outer_lr=0.25)
    context, rollouts = double_trial(learner)
    before = {n: v.clone() for n, v in learner.params.items()}
    last = learner.adapt(context, rollouts[-1], ()).params

    def refuse(*arguments):
        raise AssertionError("a second derivative")

    monkeypatch.setattr(surrogates.LossAt, "hvp", refuse)
    learner.update(context, rollouts, None)
    for name, value in before.items():
        expected = value + 0.25 * (last[name].mean(dim=0) - value)
        torch.testing.assert_close(learner.params[name], expected, rtol=1e-9, atol=1e-12)


def test_first_order_learner_needs_no_second_derivative(monkeypatch):
    learner = learner_of(first_order=True)
    context, rollouts = double_trial(learner)
    monkeypatch.setattr(surrogates.LossAt, "hvp", lambda *_: pytest.fail("a second derivative"))
    assert learner.update(context, rollouts, None)["update/step_scale"] > 0.0


def test_e_maml_adds_the_score_of_the_first_rollout():
    plain, learner = learner_of(), learner_of(sampling_weight=0.7)
    trials = played(plain), played(learner)
    gradients = [
        meta_gradient(one.adaptation, one.params, trial)
        for one, trial in zip((plain, learner), trials, strict=True)
    ]
    returns = trials[1].returns
    scores = (returns - returns.mean()) / returns.std(correction=0)
    leaves = {n: v.clone().requires_grad_() for n, v in learner.params.items()}
    total = 0.0
    for i in range(NUM_TASKS):
        mine = trials[1].batches[0].slice_tasks(i, i + 1)
        own = {n: v.unsqueeze(0) for n, v in leaves.items()}
        total = total + scores[i] * (log_prob(learner.policy, own, mine) * mine.weight).sum()
    found = torch.autograd.grad(0.7 * total / NUM_TASKS, list(leaves.values()))
    expected = torch.cat([g.flatten() for g in found])
    torch.testing.assert_close(gradients[1] - gradients[0], expected, rtol=1e-8, atol=1e-11)


def test_e_maml_leaves_failed_episodes_out_of_the_score():
    learner = learner_of(sampling_weight=1.0)
    context, rollouts = double_trial(learner)
    failed = torch.zeros(NUM_TASKS, 4, dtype=torch.bool)
    failed[0, 1:] = failed[2] = True
    last = replace(rollouts[-1], truncated=failed)
    trial = learner._trial(context, last, learner._batch(last)[0])
    returns = last.returns()
    assert float(trial.returns[0]) == returns[0, 0] and trial.returns[2].isnan()
    # two tasks have a score: one standard deviation above and below their mean
    sign = float((returns[0, 0] - returns[1].mean()).sign())
    torch.testing.assert_close(
        trial.standardised_returns(), sign * torch.tensor([1.0, -1, 0]).double()
    )
    assert meta_gradient(learner.adaptation, learner.params, trial).isfinite().all()


@pytest.mark.parametrize("settings", [{}, {"adapts": "latent", "encoder_size": 3}])
def test_objective_of_e_maml_has_the_meta_gradient(settings):
    """Central differences of the function that the line search compares, along each axis."""
    learner = learner_of(sampling_weight=5.0, **settings)
    trial, width = played(learner), 1e-5
    ours = by_name(learner, meta_gradient(learner.adaptation, learner.params, trial))

    def value(params):
        parts = [objective(learner.adaptation, params, trial, each) for each in trial.chunks]
        return float(sum(parts)[0]) / NUM_TASKS

    for name, exact in ours.items():
        for i in range(exact.numel()):
            ends = []
            for sign in (1.0, -1.0):
                moved = {n: v.clone() for n, v in learner.params.items()}
                moved[name].view(-1)[i] += sign * width
                ends.append(value(moved))
            found = (ends[0] - ends[1]) / (2.0 * width)
            assert found == pytest.approx(float(exact.reshape(-1)[i]), rel=1e-5, abs=1e-7)


def test_pcgrad_without_conflicts_is_the_plain_mean(monkeypatch):
    learner = learner_of(task_conflict="pcgrad")
    trial = played(learner)
    monkeypatch.setattr(
        "metarl.learners.maml.meta_gradient.resolve_conflicts", lambda gradients, _: gradients
    )
    ours = meta_gradient(learner.adaptation, learner.params, trial)
    assert_close(by_name(learner, ours), slow_gradient(learner, trial))


def test_pcgrad_resolves_conflicts_of_learned_parameters_only(monkeypatch):
    given, learner = [], learner_of(**KINDS["cavia"], task_conflict="pcgrad")
    monkeypatch.setattr(
        "metarl.learners.maml.meta_gradient.resolve_conflicts",
        lambda gradients, _: given.append(gradients) or gradients,
    )
    meta_gradient(learner.adaptation, learner.params, played(learner))
    rows = [by_name(learner, row) for row in given[0]]
    for name in learner.params:
        assert all(bool(row[name].any()) == (name != CONTEXT) for row in rows)
