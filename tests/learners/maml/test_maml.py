"""Meta-gradient, curvature product and update of MAML-TRPO against independent answers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from meta_objective import (
    double_trial,
    log_prob,
    quadrature_objective,
    random_batch,
    small_policy,
)

from metarl.core.rng import stream
from metarl.core.rollout import Rollout
from metarl.functional import gaussian
from metarl.functional.params import repeat
from metarl.functional.trust_region import MARGIN
from metarl.learners.maml import outer_trpo
from metarl.learners.maml.adaptation import GradientSteps
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.maml.meta_gradient import meta_gradient
from metarl.learners.maml.outer_trpo import TrpoStep

STEP_SIZES = (0.3, 0.2)


def objective(num_steps):
    return quadrature_objective(STEP_SIZES[:num_steps])


@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("kind", ["lvc", "dice"])
def test_meta_gradient_equals_finite_differences(kind, num_steps):
    policy, params = small_policy()
    ours = objective(num_steps).gradient(policy, params, kind)
    exact = objective(num_steps).differences(policy, params)
    for name in params:
        torch.testing.assert_close(ours[name], exact[name], rtol=1e-6, atol=1e-8)


def test_meta_gradient_of_plain_log_likelihood_is_wrong():
    policy, params = small_policy()
    ours = objective(1).gradient(policy, params, "loglik")
    exact = objective(1).differences(policy, params)
    error = max(float((ours[n] - exact[n]).abs().max()) for n in params)
    assert error > 0.1


# --- the curvature product


def small_learner(**settings):
    defaults = {"hidden_sizes": (5,), "inner_lr": 0.4, "curvature_fraction": 1.0, "max_kl": 0.01}
    config = MamlConfig(**{**defaults, **settings})
    return Maml(config, 3, 2, seed=1)


def kl_of_adapted(learner, vector, context, rollouts):
    """Mean KL divergence from the sampling to the adapted policy, differentiable in vector."""
    sizes = [v.numel() for v in learner.params.values()]
    total = 0.0
    final, _ = learner._batch(rollouts[-1])
    for i in range(len(final.obs)):
        parts = vector.split(sizes)
        own = {
            n: p.view_as(v).unsqueeze(0)
            for (n, v), p in zip(learner.params.items(), parts, strict=True)
        }
        steps = zip(context.batches, (0.4, 0.2), strict=False)  # inner_lr, and half of it later
        for batch, step_size in steps:
            mine = batch.slice_tasks(i, i + 1)
            terms = (log_prob(learner.policy, own, mine) - mine.log_prob).exp() * mine.advantage
            loss = -(terms * mine.weight).sum()
            gradients = torch.autograd.grad(loss, list(own.values()), create_graph=True)
            own = {n: v - step_size * g for (n, v), g in zip(own.items(), gradients, strict=True)}
        mine = final.slice_tasks(i, i + 1)
        obs = mine.obs.flatten(1, 2)
        old = {n: v[i : i + 1] for n, v in context.params.items()}
        network, distribution = learner.policy.network, learner.policy.distribution
        kl = gaussian.kl_divergence(
            network.outputs(old, obs),
            distribution.log_std(old),
            network.outputs(own, obs),
            distribution.log_std(own),
        )
        total = total + (kl * mine.weight.flatten(1)).sum()
    return total / len(final.obs)


@pytest.mark.parametrize("num_adaptations", [1, 2])
def test_gauss_newton_product_equals_the_hessian_of_the_kl(num_adaptations):
    learner = small_learner()
    context, rollouts = double_trial(learner, num_adaptations=num_adaptations)
    final, _ = learner._batch(rollouts[-1])
    played = learner._trial(context, rollouts[-1], final)
    product = TrpoStep(learner.adaptation, learner.params, played, 0.01).curvature()
    start = torch.cat([v.flatten() for v in learner.params.values()]).requires_grad_()
    kl = kl_of_adapted(learner, start, context, rollouts)
    (gradient,) = torch.autograd.grad(kl, start, create_graph=True)
    for seed in range(3):
        direction = torch.from_numpy(np.random.default_rng(seed).standard_normal(len(start)))
        by_double_backward = torch.autograd.grad(gradient @ direction, start, retain_graph=True)[0]
        torch.testing.assert_close(product(direction), by_double_backward, rtol=1e-9, atol=1e-12)


def test_curvature_is_symmetric_positive_semi_definite():
    learner = small_learner()
    context, rollouts = double_trial(learner)
    final, _ = learner._batch(rollouts[-1])
    played = learner._trial(context, rollouts[-1], final)
    product = TrpoStep(learner.adaptation, learner.params, played, 0.01).curvature()
    size = sum(v.numel() for v in learner.params.values())
    matrix = torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64)])
    torch.testing.assert_close(matrix, matrix.T)
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-12


def test_first_order_ignores_the_jacobian():
    results = {}
    for first_order in (False, True):
        learner = small_learner(first_order=first_order)
        context, rollouts = double_trial(learner)
        final, _ = learner._batch(rollouts[-1])
        played = learner._trial(context, rollouts[-1], final)
        results[first_order] = meta_gradient(learner.adaptation, learner.params, played)
        gradients = []
        for i in range(3):
            mine = final.slice_tasks(i, i + 1)
            own = {n: v[i : i + 1].detach().requires_grad_() for n, v in context.params.items()}
            gain = (log_prob(learner.policy, own, mine) * mine.advantage * mine.weight).sum()
            grads = torch.autograd.grad(gain, list(own.values()))
            gradients.append(torch.cat([g.flatten() for g in grads]))
    plain = torch.stack(gradients).mean(dim=0)
    torch.testing.assert_close(results[True], plain)
    assert not torch.allclose(results[False], plain, rtol=1e-2)


# --- the update


@pytest.mark.parametrize("fraction", [1e-30, 5e-324])
@pytest.mark.parametrize("surrogate", ["lvc", "dice"])
def test_tiny_curvature_fraction_takes_the_first_of_the_states(fraction, surrogate):
    updates = []
    for each in (fraction, 1e-3):  # trials of 4 episodes of 5 steps
        learner = small_learner(curvature_fraction=each, surrogate=surrogate)
        updates.append(learner.update(*double_trial(learner), None))
    assert updates[0] == updates[1]


def test_curvature_of_failed_episodes_takes_others_of_the_task():
    """Every second of four episodes is chosen; in task 0 only the last one has a valid step."""
    policy, _ = small_policy()
    params = {n: v.double() for n, v in repeat(policy.initial(np.random.default_rng(0)), 3).items()}
    batch = random_batch(policy, params)
    valid = batch.valid.clone()
    valid[0, :3] = 0.0
    found = replace(batch, valid=valid).subsample(2, whole_episodes=True)
    assert torch.equal(found.obs[0], batch.obs[0, [3, 1]])
    assert torch.equal(found.valid[0], valid[0, [3, 1]]) and found.weight[0].sum() == 1.0
    usual = batch.subsample(2, whole_episodes=True)
    for name, value in vars(usual).items():
        torch.testing.assert_close(vars(found)[name][1:], value[1:], rtol=0, atol=0)
    torch.testing.assert_close(usual.action, batch.action[:, ::2], rtol=0, atol=0)


def update_with(**settings):
    learner = small_learner(**settings)
    context, rollouts = double_trial(learner, num_tasks=5)
    metrics = learner.update(context, rollouts, None)
    return learner, metrics


@pytest.mark.parametrize("chunk", [2, 3, 5])
def test_chunk_size_does_not_change_the_update(chunk):
    one, _ = update_with(task_chunk=1)
    other, metrics = update_with(task_chunk=chunk)
    assert metrics["update/step_scale"] > 0
    for name, value in one.params.items():
        torch.testing.assert_close(other.params[name], value, rtol=1e-9, atol=1e-11)


def test_threads_do_not_change_the_update_bit_for_bit():
    results = []
    for num_threads in (1, 3):
        learner = Maml(MamlConfig(hidden_sizes=(5,)), 3, 2, seed=1, num_threads=num_threads)
        context, rollouts = double_trial(learner, num_tasks=5)
        learner.update(context, rollouts, None)
        results.append(learner.params)
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name])


def test_update_improves_the_surrogate_in_the_trust_region():
    learner, metrics = update_with(max_kl=0.02)
    assert 0.0 < metrics["kl"] <= 0.02
    assert metrics["update/gain"] > 0.0
    assert metrics["update/rejected"] == 0.0


def test_small_step_has_the_predicted_kl_and_gain():
    _, metrics = update_with(max_kl=1e-6, cg_iterations=50, cg_damping=0.0)
    assert metrics["kl"] == pytest.approx(MARGIN * 1e-6, rel=0.05)
    assert metrics["update/gain"] == pytest.approx(metrics["update/predicted_gain"], rel=0.05)


def test_rejected_line_search_keeps_theta_bit_for_bit(monkeypatch):
    learner = small_learner(line_search_steps=3)
    context, rollouts = double_trial(learner)
    before = {n: v.clone() for n, v in learner.params.items()}
    monkeypatch.setattr(outer_trpo, "objective", lambda *_: torch.tensor([-1.0, 0.0]))
    metrics = learner.update(context, rollouts, None)
    assert metrics["update/rejected"] == 1.0
    assert metrics["update/line_search_tries"] == 3.0
    for name, value in before.items():
        assert torch.equal(learner.params[name], value)


def test_gradient_that_is_not_finite_names_the_task():
    learner = small_learner()
    context, rollouts = double_trial(learner)
    before = {n: v.clone() for n, v in learner.params.items()}
    broken = replace(rollouts[0], obs=rollouts[0].obs.clone())
    broken.obs[1, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="task 1: the gradient of 'weight0'"):
        learner.adapt(learner.begin(3, 4, ()), broken, ())
    for name, value in before.items():
        assert torch.equal(learner.params[name], value)


def test_adaptation_that_is_not_finite_names_task_and_rollout(monkeypatch):
    learner = small_learner()
    context, rollouts = double_trial(learner)
    before = {n: v.clone() for n, v in learner.params.items()}
    monkeypatch.setattr(GradientSteps, "rates", lambda own, params, count: [math.inf] * count)
    message = "task 0: 'weight0' is not finite after adapting to rollout 1"
    with pytest.raises(FloatingPointError, match=message):
        learner.adapt(context, rollouts[1], ())
    for name, value in before.items():
        assert torch.equal(learner.params[name], value)


def test_policy_that_did_not_act_is_rejected():
    learner = small_learner()
    context, rollouts = double_trial(learner)
    foreign = replace(rollouts[-1], log_prob=rollouts[-1].log_prob + 0.1)
    with pytest.raises(FloatingPointError, match="not the policy that acted"):
        learner.update(context, [rollouts[0], foreign], None)


def single_trial(learner, obs_size, action_size, weight=1.0, tasks=2, steps=50):
    """A float32 trial in which the learner acts step by step on random observations."""
    rng = np.random.default_rng(0)
    learner.params = {n: weight * v if "weight" in n else v for n, v in learner.params.items()}
    size = tasks, 2, steps
    context, rollouts = learner.begin(*size[:2], ()), []
    for k in range(2):
        obs = torch.from_numpy(3.0 * rng.normal(size=(*size, obs_size))).float()
        noise = torch.from_numpy(rng.normal(size=(*size, action_size))).float()
        with torch.inference_mode():
            acted = [
                learner.act(context, obs[:, :, t], noise[:, :, t], explore=True)[0]
                for t in range(steps)
            ]
        done = torch.zeros(size[:2], dtype=torch.bool)
        rollout = Rollout(
            obs=obs,
            action=torch.stack([a.value for a in acted], dim=2).clone(),
            log_prob=torch.stack([a.log_prob for a in acted], dim=2).clone(),
            reward=torch.from_numpy(rng.normal(size=size)).float(),
            valid=torch.ones(size, dtype=torch.bool),
            terminated=done,
            truncated=done,
            last_obs=obs[:, :, -1],
        )
        rollouts.append(rollout)
        context = learner.adapt(context, rollout, ()) if k == 0 else context
    return context, rollouts


@pytest.mark.parametrize("weight", [1.0, 10.0])
@pytest.mark.parametrize("log_std", [-4.6, 0.0])
@pytest.mark.parametrize("num_actions", [1, 500, 2000])
def test_many_actions_with_any_noise_are_no_other_policy(num_actions, log_std, weight):
    config = MamlConfig(
        hidden_sizes=(16,), initial_log_std=log_std, min_log_std=-5.0, inner_lr=1e-4
    )
    learner = Maml(config, 5, num_actions, seed=0)
    context, rollouts = single_trial(learner, 5, num_actions, weight)
    assert learner.update(context, rollouts, None)["update/ratio_error"] < 0.05
    other = replace(context, params={n: v.clone() for n, v in context.params.items()})
    other.params["bias1"] += 1e-3 * weight
    with pytest.raises(FloatingPointError, match="not the policy that acted"):
        learner.update(other, rollouts, None)


def test_first_update_measures_the_scale_and_keeps_theta():
    learner = small_learner(normalize_obs=True)
    context, rollouts = single_trial(learner, 3, 2)
    theta = {n: v.clone() for n, v in learner.params.items()}
    metrics = learner.update(context, rollouts, None)
    assert all(torch.equal(v, theta[n]) for n, v in learner.params.items())
    assert metrics["kl"] == metrics["update/rejected"] == metrics["update/gradient_norm"] == 0.0
    assert learner._moments.count == sum(r.valid.sum() for r in rollouts)
    obs = torch.cat([r.obs.flatten(0, 2) for r in rollouts]).double()
    torch.testing.assert_close(learner._moments.mean, obs.mean(dim=0))
    copy = small_learner(normalize_obs=True)
    copy.load_state_dict(learner.state_dict())
    for resumed in (learner, copy):  # the next update is no warm-up, also after a resume
        context, rollouts = single_trial(resumed, 3, 2)
        metrics = resumed.update(context, rollouts, None)
        assert metrics["kl"] > 0.0 and not torch.equal(resumed.params["weight0"], theta["weight0"])
    assert all(torch.equal(v, copy.params[n]) for n, v in learner.params.items())


def test_statistics_that_change_within_an_iteration_are_found():
    learner = small_learner(normalize_obs=True)
    for wrong in (False, True):
        context, rollouts = single_trial(learner, 3, 2)
        if wrong:
            learner._scale = learner._moments.merge(rollouts[1].obs.flatten(0, 2)[:20]).scale()
            with pytest.raises(FloatingPointError, match="not the policy that acted"):
                learner.update(context, rollouts, None)
        else:
            learner.update(context, rollouts, None)


def test_adaptation_is_one_gradient_step_per_task():
    learner = small_learner()
    context, rollouts = double_trial(learner)
    batch = context.batches[0]
    for i in range(3):
        mine = batch.slice_tasks(i, i + 1)
        own = {n: v.unsqueeze(0).detach().requires_grad_() for n, v in learner.params.items()}
        loss = -(log_prob(learner.policy, own, mine) * mine.advantage * mine.weight).sum()
        gradients = torch.autograd.grad(loss, list(own.values()))
        for (name, value), gradient in zip(own.items(), gradients, strict=True):
            expected = value.detach() - 0.4 * gradient
            torch.testing.assert_close(context.params[name][i : i + 1], expected)


def test_later_steps_are_a_fraction_of_the_first_and_shrink():
    learner = small_learner(inner_lr=0.4, later_lr=0.5, later_decay=0.25)
    rates = learner.adaptation.rates
    assert rates(learner.params, 4) == pytest.approx([0.4, 0.2, 0.05, 0.0125])
    assert [len(rates(learner.params, k)) for k in range(3)] == [0, 1, 2]
    equal = small_learner(inner_lr=0.4, later_lr=0.5)
    assert equal.adaptation.rates(equal.params, 4) == [0.4, 0.2, 0.2, 0.2]


def test_third_adaptation_takes_the_decayed_step():
    learner = small_learner(inner_lr=0.4, later_lr=0.5, later_decay=0.25)
    context, _ = double_trial(learner, num_adaptations=3)
    before, after = context.points[2], context.params
    own = {n: v.detach().clone().requires_grad_() for n, v in before.items()}
    batch = context.batches[2]
    loss = -(log_prob(learner.policy, own, batch) * batch.advantage * batch.weight).sum()
    gradients = torch.autograd.grad(loss, list(own.values()))
    for (name, value), gradient in zip(before.items(), gradients, strict=True):
        torch.testing.assert_close(after[name], value - 0.05 * gradient)


def test_initial_parameters_depend_on_the_seed_only():
    one, same, other = (Maml(MamlConfig(), 4, 2, seed=s) for s in (3, 3, 4))
    assert torch.equal(one.params["weight0"], same.params["weight0"])
    assert not torch.equal(one.params["weight0"], other.params["weight0"])
    assert stream(3, "init").random() == stream(3, "init").random()


def test_trust_region_halves_and_its_count_is_restored():
    learner = small_learner(max_kl=0.04, kl_halving=2)
    radii = []
    for _ in range(5):
        radii.append(learner.max_kl())
        context, rollouts = double_trial(learner)
        assert learner.update(context, rollouts, None)["kl"] <= radii[-1]
    assert radii[::2] == pytest.approx([0.04, 0.02, 0.01])
    other = small_learner(max_kl=0.04, kl_halving=2)
    other.load_state_dict(learner.state_dict())
    assert other.max_kl() == learner.max_kl() < radii[-1]
