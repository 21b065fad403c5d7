"""MAML-TRPO with networks other than the tanh network whose derivatives are written by hand."""

import numpy as np
import pytest
import torch
from meta_objective import double_trial, quadrature_objective, random_batch
from torch import nn

from metarl.core.errors import ConfigError
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.inner_loop import gradient, linearise
from metarl.learners.maml.maml import Maml
from metarl.learners.maml.meta_gradient import meta_gradient
from metarl.learners.maml.outer_trpo import TrpoStep
from metarl.networks.distributions import DiagonalGaussian
from metarl.networks.module_network import ModuleNetwork, build_network
from metarl.networks.policies import MLPPolicy


@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("kind", ["lvc", "dice"])
@pytest.mark.parametrize(
    ("activation", "layer_norm"), [("relu", False), ("relu", True), ("silu", True), ("elu", False)]
)
def test_meta_gradient_equals_finite_differences(activation, layer_norm, kind, num_steps):
    network = build_network(1, 1, (4,), activation, layer_norm)
    policy = MLPPolicy(network, DiagonalGaussian(-0.3, min_log_std=-3.0))
    params = policy.initial(np.random.default_rng(0)).items()
    params = {n: v.double().unsqueeze(0) for n, v in params}
    objective = quadrature_objective((0.1, 0.05)[:num_steps])
    found = objective.gradient(policy, params, kind)
    exact = objective.differences(policy, params, width=1e-6)
    for name in params:
        torch.testing.assert_close(found[name], exact[name], rtol=1e-5, atol=1e-6)


def to_layers(params):
    """Parameters of a tanh network with one hidden layer by the names of torch's layers."""
    names = {"weight0": "0.weight", "bias0": "0.bias", "weight1": "2.weight", "bias1": "2.bias"}
    return {names.get(n, n): v.mT.contiguous() if "weight" in n else v for n, v in params.items()}


def two_learners(**settings):
    """A learner with the tanh network by hand, and one with the same network as a module."""
    config = MamlConfig(hidden_sizes=(5,), inner_lr=0.4, **settings)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    fast = Maml(config, 3, 2, seed=1)
    generic = Maml(config, 3, 2, seed=1, network=ModuleNetwork(module, 3, 2))
    generic.params = to_layers(fast.params)
    return fast, generic


def assert_same(generic, fast):
    expected = to_layers(fast)
    assert generic.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(generic[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["lvc", "loglik", "dice"])
def test_inner_gradient_and_jacobian_equal_those_by_hand(kind):
    fast, generic = two_learners()
    params = {n: v.double().expand(3, *v.shape) for n, v in fast.params.items()}
    batch = random_batch(fast.policy, params, 3)
    by_hand = gradient(fast.policy, kind, params, batch)
    assert_same(gradient(generic.policy, kind, to_layers(params), batch), by_hand)
    rng = np.random.default_rng(0)
    vector = {n: torch.from_numpy(rng.normal(size=v.shape)) for n, v in params.items()}
    points = [params, params]
    tape = linearise(fast.policy, kind, points, [batch], [0.4])
    own = [to_layers(point) for point in points]
    other = linearise(generic.policy, kind, own, [batch], [0.4])
    assert_same(other.jvp(to_layers(vector)), tape.jvp(vector))
    assert_same(other.vjp(to_layers(vector)), tape.vjp(vector))


def products(learner, context, rollouts, direction):
    """Returns the meta-gradient and the curvature product, by name."""
    final, _ = learner._batch(rollouts[-1])
    played = learner._trial(context, rollouts[-1], final)
    flat = torch.cat([v.flatten() for v in direction.values()])
    inputs = learner.adaptation, learner.params, played
    vectors = meta_gradient(*inputs), TrpoStep(*inputs, 0.01).curvature()(flat)
    sizes = [v.numel() for v in learner.params.values()]
    return [
        {
            n: p.view_as(v)
            for (n, v), p in zip(learner.params.items(), vector.split(sizes), strict=True)
        }
        for vector in vectors
    ]


@pytest.mark.parametrize("num_adaptations", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"surrogate": "dice"}, {"first_order": True}])
def test_meta_gradient_and_curvature_equal_those_by_hand(settings, num_adaptations):
    fast, generic = two_learners(**settings)
    context, rollouts = double_trial(fast, num_adaptations=num_adaptations)
    generic.params = to_layers(fast.params)
    other = generic.begin(3, 4, ())
    for k in range(num_adaptations):
        other = generic.adapt(other, rollouts[k], ())
    assert_same(other.params, context.params)
    rng = np.random.default_rng(0)
    direction = {n: torch.from_numpy(rng.normal(size=v.shape)) for n, v in fast.params.items()}
    by_hand = products(fast, context, rollouts, direction)
    automatic = products(generic, other, rollouts, to_layers(direction))
    for one, expected in zip(automatic, by_hand, strict=True):
        assert_same(one, expected)


def test_whole_update_equals_that_by_hand():
    # few enough products that conjugate gradients do not end early by rounding
    fast, generic = two_learners(cg_iterations=4)
    context, rollouts = double_trial(fast)
    generic.params = to_layers(fast.params)
    other = generic.adapt(generic.begin(3, 4, ()), rollouts[0], ())
    metrics = fast.update(context, rollouts, None), generic.update(other, rollouts, None)
    assert metrics[0]["update/step_scale"] > 0.0
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, rel=1e-8, abs=1e-12)
    for name, value in to_layers(fast.params).items():
        torch.testing.assert_close(generic.params[name], value, rtol=1e-8, atol=1e-10)


def test_unknown_activation_is_refused():
    with pytest.raises(ConfigError, match="learner.activation.*tanh, relu, elu or silu"):
        MamlConfig(activation="sine")
