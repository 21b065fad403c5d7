import math

import numpy as np
import pytest
import torch

from metarl.core.rng import stream
from metarl.networks.distributions import Categorical, DiagonalGaussian
from metarl.networks.mlp import TanhMLP
from metarl.networks.policies import MLPPolicy

HIDDEN = [(), (7,), (5, 6), (4, 3, 5)]


def random_params(network, num_tasks, seed=0, dtype=torch.float64):
    """Different parameters for every task, all of them non-zero."""
    rng = np.random.default_rng(seed)
    shapes = {n: v.shape for n, v in network.initial(rng).items()}
    return {
        n: torch.from_numpy(rng.normal(size=(num_tasks, *s))).to(dtype) for n, s in shapes.items()
    }


def observations(num_tasks, size, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num_tasks, 9, size)))


def as_sequential(params, task):
    """The network of one task, built of torch's own layers."""
    layers = []
    last = sum(name.startswith("weight") for name in params) - 1
    for i in range(last + 1):
        weight, bias = params[f"weight{i}"][task], params[f"bias{i}"][task]
        layer = torch.nn.Linear(*weight.shape, dtype=weight.dtype)
        layer.load_state_dict({"weight": weight.T, "bias": bias})
        layers += [layer] if i == last else [layer, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_outputs_equal_a_sequential_network_for_each_task(hidden):
    network = TanhMLP(4, 2, hidden)
    params, obs = random_params(network, 3), observations(3, 4)
    outputs = network.outputs(params, obs)
    assert outputs.shape == (3, 9, 2)
    for task in range(3):
        expected = as_sequential(params, task)(obs[task]).detach()
        torch.testing.assert_close(outputs[task], expected, rtol=0, atol=1e-13)


def test_expanded_parameters_equal_copies():
    network = TanhMLP(4, 2, (5, 6))
    params, obs = random_params(network, 1, dtype=torch.float32), observations(3, 4).float()
    shared = {n: v.expand(3, *v.shape[1:]) for n, v in params.items()}
    copied = {n: v.contiguous() for n, v in shared.items()}
    assert torch.equal(network.outputs(shared, obs), network.outputs(copied, obs))


def output_tangent(network, params, direction, obs):
    return network.jvp(params, direction, network.activations(params, obs))[-1]


# torch's own forward mode scripts its decompositions at the first use
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("hidden", HIDDEN)
def test_jvp_equals_automatic_forward_mode(hidden):
    network = TanhMLP(4, 2, hidden)
    params, direction = random_params(network, 3), random_params(network, 3, seed=2)
    obs = observations(3, 4)
    _, expected = torch.func.jvp(lambda p: network.outputs(p, obs), (params,), (direction,))
    tangent = output_tangent(network, params, direction, obs)
    torch.testing.assert_close(tangent, expected, rtol=0, atol=1e-12)


def test_jvp_equals_a_central_difference():
    network = TanhMLP(4, 2, (5, 6))
    params, direction = random_params(network, 3), random_params(network, 3, seed=2)
    obs, step = observations(3, 4), 1e-6
    ends = [
        network.outputs({n: v + sign * step * direction[n] for n, v in params.items()}, obs)
        for sign in (1, -1)
    ]
    tangent = output_tangent(network, params, direction, obs)
    torch.testing.assert_close(tangent, (ends[0] - ends[1]) / (2 * step), rtol=0, atol=1e-7)


def gaussian_policy(*sizes, log_std=0.0):
    return MLPPolicy(TanhMLP(*sizes), DiagonalGaussian(log_std))


def test_initial_parameters_are_a_function_of_the_stream():
    policy = gaussian_policy(4, 2)
    first, again, other = (policy.initial(stream(seed, "init")) for seed in (0, 0, 1))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert all(not torch.equal(first[n], other[n]) for n in first if n.startswith("weight"))


def test_initial_parameters_do_not_use_the_generator_of_torch():
    before = torch.random.get_rng_state()
    gaussian_policy(4, 2).initial(stream(0, "init"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_initial_parameters_are_xavier_uniform_with_zero_biases():
    params = gaussian_policy(40, 20, (100,), log_std=-0.5).initial(stream(0, "init"))
    assert {n: tuple(v.shape) for n, v in params.items()} == {
        "weight0": (40, 100),
        "bias0": (100,),
        "weight1": (100, 20),
        "bias1": (20,),
        "log_std": (20,),
    }
    assert {v.dtype for v in params.values()} == {torch.float32}
    for name, fans in (("weight0", 140), ("weight1", 120)):
        bound = math.sqrt(6.0 / fans)
        assert float(params[name].abs().max()) <= bound
        # uniform on [-b, b] has standard deviation b / sqrt(3); 2,000 draws know it to 1 %
        assert abs(float(params[name].std()) / (bound / math.sqrt(3.0)) - 1.0) < 0.05
    assert not params["bias0"].any() and not params["bias1"].any()
    assert params["log_std"].tolist() == [-0.5] * 20


@pytest.mark.parametrize("distribution", [DiagonalGaussian(), Categorical()])
def test_policy_owns_no_tensor(distribution):
    policy = MLPPolicy(TanhMLP(4, 2), distribution)
    for part in (policy, policy.network, policy.distribution):
        assert not any(isinstance(v, torch.Tensor) for v in vars(part).values())
