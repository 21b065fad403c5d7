"""MAML-TRPO with discrete actions against independent answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from meta_objective import MetaObjective, log_prob

from metarl.core.rollout import Rollout
from metarl.functional import categorical
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.maml.outer_trpo import TrpoStep
from metarl.learners.maml.surrogates import Batch
from metarl.networks.distributions import Categorical
from metarl.networks.mlp import TanhMLP
from metarl.networks.policies import MLPPolicy


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# --- two states, three actions: every expectation is a sum

STATES = torch.tensor([[-0.7], [0.9]], dtype=torch.float64)
REWARDS = torch.tensor([[1.0, -0.5, 0.2], [-1.5, 0.3, 2.0]], dtype=torch.float64)
STEP_SIZES = (0.6, 0.4)


def small_policy():
    policy = MLPPolicy(TanhMLP(1, 3, (4,)), Categorical())
    params = policy.initial(np.random.default_rng(0))
    return policy, {n: v.double().unsqueeze(0) for n, v in params.items()}


def expected_return(policy, params):
    p = policy.network.outputs(params, STATES.unsqueeze(0))[0].softmax(dim=-1)
    return (p * REWARDS).sum(dim=1).mean()


def exact_batch(policy, params):
    """Every action in every state as an episode of one step, weighted by its probability."""
    with torch.no_grad():
        p = policy.network.outputs(params, STATES.unsqueeze(0))[0].softmax(dim=-1)
        obs = STATES.repeat_interleave(3, dim=0).view(1, 6, 1, 1)
        action = torch.eye(3, dtype=torch.float64).repeat(2, 1).view(1, 6, 1, 3)
        gain, weight = REWARDS.view(1, 6, 1), p.reshape(1, 6, 1) / 2
        batch = Batch(obs, action, torch.zeros_like(gain), gain, torch.ones_like(gain), weight)
        return replace(batch, log_prob=log_prob(policy, params, batch))


@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("kind", ["lvc", "dice"])
def test_meta_gradient_equals_finite_differences(kind, num_steps):
    policy, params = small_policy()
    objective = MetaObjective(expected_return, exact_batch, STEP_SIZES[:num_steps])
    found, exact = objective.gradient(policy, params, kind), objective.differences(policy, params)
    for name in params:
        torch.testing.assert_close(found[name], exact[name], rtol=1e-6, atol=1e-8)


def discrete_learner(**settings):
    defaults = {"hidden_sizes": (5,), "inner_lr": 0.4, "curvature_fraction": 1.0}
    config = MamlConfig(**{**defaults, **settings})
    learner = Maml(config, 2, 3, seed=1, discrete=True)
    learner.params = {n: v.double() for n, v in learner.params.items()}
    return learner


def trial(learner, num_tasks=3, episodes=4, steps=5):
    """A float64 trial with random observations and rewards; the learner chooses the actions."""
    context, rollouts = learner.begin(num_tasks, episodes, ()), []
    for k in range(2):
        shape = (num_tasks, episodes, steps)
        obs = draw(*shape, 2, seed=10 + k)
        noise = draw(*shape, 3, seed=20 + k)
        actions = [
            learner.act(context, obs[:, :, t], noise[:, :, t], explore=True)[0]
            for t in range(steps)
        ]
        done = torch.zeros(shape[:2], dtype=torch.bool)
        rollouts.append(
            Rollout(
                obs=obs,
                action=torch.stack([a.value for a in actions], dim=2),
                log_prob=torch.stack([a.log_prob for a in actions], dim=2),
                reward=draw(*shape, seed=30 + k),
                valid=torch.ones(shape, dtype=torch.bool),
                terminated=done,
                truncated=done,
                last_obs=obs[:, :, -1],
            )
        )
        if k == 0:
            context = learner.adapt(context, rollouts[0], ())
    return context, rollouts


def kl_of_adapted(learner, vector, context, rollouts):
    """Mean KL divergence from the sampling to the adapted policy, differentiable in vector."""
    policy, sizes = learner.policy, [v.numel() for v in learner.params.values()]
    final, _ = learner._batch(rollouts[-1])
    total = 0.0
    for i in range(len(final.obs)):
        parts = zip(learner.params.items(), vector.split(sizes), strict=True)
        own = {n: p.view_as(v).unsqueeze(0) for (n, v), p in parts}
        mine = context.batches[0].slice_tasks(i, i + 1)
        terms = (log_prob(policy, own, mine) - mine.log_prob).exp() * mine.advantage
        loss = -(terms * mine.weight).sum()
        gradients = torch.autograd.grad(loss, list(own.values()), create_graph=True)
        own = {n: v - 0.4 * g for (n, v), g in zip(own.items(), gradients, strict=True)}
        obs = final.slice_tasks(i, i + 1).obs.flatten(1, 2)
        old = {n: v[i : i + 1] for n, v in context.params.items()}
        kl = categorical.kl_divergence(
            policy.network.outputs(old, obs), policy.network.outputs(own, obs)
        )
        total = total + kl.mean()
    return total / len(final.obs)


def test_gauss_newton_product_equals_the_hessian_of_the_kl():
    learner = discrete_learner()
    context, rollouts = trial(learner)
    final, _ = learner._batch(rollouts[-1])
    played = learner._trial(context, rollouts[-1], final)
    product = TrpoStep(learner.adaptation, learner.params, played, 0.01).curvature()
    start = torch.cat([v.flatten() for v in learner.params.values()]).requires_grad_()
    kl = kl_of_adapted(learner, start, context, rollouts)
    (gradient,) = torch.autograd.grad(kl, start, create_graph=True)
    direction = draw(len(start), seed=40)
    expected = torch.autograd.grad(gradient @ direction, start)[0]
    torch.testing.assert_close(product(direction), expected, rtol=1e-9, atol=1e-12)


def test_small_step_has_the_predicted_kl_and_gain():
    learner = discrete_learner(max_kl=1e-8, cg_iterations=60, cg_damping=0.0)
    metrics = learner.update(*trial(learner), None)
    assert metrics["kl"] == pytest.approx(0.95e-8, rel=0.05)
    assert metrics["update/gain"] == pytest.approx(metrics["update/predicted_gain"], rel=0.05)
    assert metrics["update/ratio_error"] < 1e-12 and "policy/log_std" not in metrics


def test_acting_without_exploration_takes_the_likeliest_action():
    learner = discrete_learner()
    obs = draw(3, 4, 2)
    context = learner.begin(3, 4, ())
    action, _ = learner.act(context, obs, torch.full((3, 4, 3), torch.nan), explore=False)
    logits = learner.policy.network.outputs(context.acting, obs)
    assert torch.equal(action.value.argmax(dim=-1), logits.argmax(dim=-1))
    assert not action.log_prob.any() and (action.value.sum(dim=-1) == 1).all()
