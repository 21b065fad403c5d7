"""The lower bound of log_std in the inner and the outer step of MAML-TRPO."""

from dataclasses import replace

import pytest
import torch
from meta_objective import as_rollout, quadratic_reward, quadrature_objective, random_batch

from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.inner_loop import inner_steps
from metarl.learners.maml.maml import Maml
from metarl.networks.distributions import DiagonalGaussian
from metarl.networks.mlp import TanhMLP
from metarl.networks.policies import MLPPolicy

BOUND = -0.4


def bounded_policy(mean=0.5):
    """A policy of one task in double precision, log_std = -0.3 and positive means."""
    policy = MLPPolicy(TanhMLP(1, 1, (3,)), DiagonalGaussian(-0.3, min_log_std=BOUND))
    generator = torch.Generator().manual_seed(0)
    params = {"weight0": 0.4, "bias0": 0.1, "weight1": 0.4, "bias1": 0.0}
    sizes = {"weight0": (1, 1, 3), "bias0": (1, 3), "weight1": (1, 3, 1), "bias1": (1, 1)}
    drawn = {
        n: scale * torch.randn(sizes[n], generator=generator, dtype=torch.float64)
        for n, scale in params.items()
    }
    log_std = torch.full((1, 1), -0.3, dtype=torch.float64)
    return policy, {**drawn, "bias1": drawn["bias1"] + mean, "log_std": log_std}


def falling_reward(state, action):
    """Lowers the mean; noise is bad while the mean is positive, and good below zero."""
    return -3.0 * action - action**3 + 0.3 * state * action


def inner_log_stds(policy, params, objective):
    """Returns log_std of theta_0 .. theta_K."""
    points, batches = [params], []
    for _ in objective.step_sizes:
        batches.append(objective.exact_batch(policy, points[-1]))
        sizes = objective.step_sizes[: len(batches)]
        points = inner_steps(policy, "lvc", params, batches, sizes).points
    return [float(point["log_std"].detach()) for point in points]


def test_log_std_comes_back_in_the_next_inner_step():
    policy, params = bounded_policy()
    start, first, second = inner_log_stds(
        policy, params, quadrature_objective((0.3, 0.02), falling_reward)
    )
    assert first < BOUND < second and start == -0.3


@pytest.mark.parametrize(
    ("reward", "step_sizes", "beyond"),
    [
        (quadratic_reward, (0.3,), [False, True]),
        (quadratic_reward, (0.3, 0.2), [False, True, True]),
        (quadratic_reward, (0.02, 0.3), [False, False, True]),
        (falling_reward, (0.3, 0.02), [False, True, False]),
        (falling_reward, (0.3, 0.02, 0.02), [False, True, False, False]),
    ],
)
@pytest.mark.parametrize("kind", ["lvc", "dice"])
def test_meta_gradient_through_the_bound_equals_differences(kind, reward, step_sizes, beyond):
    policy, params = bounded_policy()
    objective = quadrature_objective(step_sizes, reward)
    assert [value < BOUND for value in inner_log_stds(policy, params, objective)] == beyond
    found = objective.gradient(policy, params, kind)
    exact = objective.differences(policy, params)
    for name in params:
        torch.testing.assert_close(found[name], exact[name], rtol=1e-5, atol=1e-7)
    assert float(found["weight0"].abs().max()) > 1e-3


def bounded_learner(log_std=-1.0, **settings):
    """A float64 learner whose log_std is at its bound -1."""
    config = MamlConfig(hidden_sizes=(5,), initial_log_std=-1.0, min_log_std=-1.0, **settings)
    learner = Maml(config, 3, 2, seed=1)
    learner.params = {n: v.double() for n, v in learner.params.items()}
    learner.params["log_std"].fill_(log_std)
    return learner


def trial_that_rewards_noise(learner, sign, num_adaptations=1, num_tasks=6):
    """A trial whose reward is +-|z|^2, z the noise of the action."""
    context, rollouts = learner.begin(num_tasks, 100, ()), []
    for k in range(num_adaptations + 1):
        batch = random_batch(learner.policy, context.params, num_tasks, 100, 5, seed=k)
        output = learner.policy.network.outputs(context.params, batch.obs.flatten(1, 2))
        mean = output.view_as(batch.action)
        gain = sign * ((batch.action - mean).square().sum(dim=-1) / torch.tensor(-2.0).exp())
        rollouts.append(replace(as_rollout(batch), reward=gain * batch.valid))
        context = learner.adapt(context, rollouts[0], ()) if k < num_adaptations else context
    return context, rollouts


SETTINGS = {"discount": 0.0, "inner_lr": 0.05, "curvature_fraction": 1.0, "cg_damping": 1e-6}


def test_log_std_at_the_bound_rises_where_noise_is_rewarded():
    learner = bounded_learner(**SETTINGS)
    metrics = learner.update(*trial_that_rewards_noise(learner, 1.0), None)
    assert (learner.params["log_std"] > -1.0).all()
    assert metrics["policy/log_std"] == float(learner.params["log_std"].mean())


def test_step_beyond_the_bound_is_spent_on_other_parameters():
    learner = bounded_learner(**SETTINGS, max_kl=1e-4)
    before = learner.params["weight1"].clone()
    metrics = learner.update(*trial_that_rewards_noise(learner, -1.0, 0), None)
    assert (learner.params["log_std"] == -1.0).all() and metrics["policy/log_std"] == -1.0
    assert not torch.equal(learner.params["weight1"], before)
    # the whole trust region is used, as the quadratic model predicts without log_std
    assert metrics["update/step_scale"] == 1.0
    assert metrics["kl"] == pytest.approx(0.95e-4, rel=0.05)
    assert metrics["update/gain"] == pytest.approx(metrics["update/predicted_gain"], rel=0.05)


def test_accepted_step_ends_within_the_bound():
    learner = bounded_learner(log_std=-1.0 + 1e-4, **SETTINGS)
    learner.update(*trial_that_rewards_noise(learner, -1.0, 0), None)
    assert (learner.params["log_std"] == -1.0).all()


def test_saved_log_std_beyond_the_bound_is_loaded_in_force():
    learner = bounded_learner(**SETTINGS)
    state = learner.state_dict()
    learner.load_state_dict({**state, "policy/log_std": torch.full((2,), -4.0).double()})
    assert learner.params["log_std"].tolist() == [-1.0, -1.0]
    learner.update(*trial_that_rewards_noise(learner, 1.0), None)
    assert (learner.params["log_std"] > -1.0).all()


def test_bound_that_is_not_met_changes_no_bit():
    results = []
    for bound in (-1.5, -20.0):
        learner = bounded_learner(**SETTINGS)
        distribution = replace(learner.policy.distribution, min_log_std=bound)
        learner.policy = replace(learner.policy, distribution=distribution)
        metrics = learner.update(*trial_that_rewards_noise(learner, -1.0), None)
        results.append((metrics, learner.params))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())
