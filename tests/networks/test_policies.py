import math

import numpy as np
import pytest
import torch

from metarl.core.rng import stream
from metarl.networks.policies import GaussianMLP

HIDDEN = [(), (7,), (5, 6), (4, 3, 5)]


def random_params(policy, num_tasks, seed=0, dtype=torch.float64):
    """Different parameters for every task, all of them non-zero."""
    rng = np.random.default_rng(seed)
    shapes = {n: v.shape for n, v in policy.initial(rng, 0.0).items()}
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
def test_mean_equals_a_sequential_network_with_each_tasks_weights(hidden):
    policy = GaussianMLP(4, 2, hidden)
    params, obs = random_params(policy, 3), observations(3, 4)
    mean = policy.mean(params, obs)
    assert mean.shape == (3, 9, 2)
    for task in range(3):
        expected = as_sequential(params, task)(obs[task]).detach()
        torch.testing.assert_close(mean[task], expected, rtol=0, atol=1e-13)


def test_parameters_shared_by_expanding_equal_copies():
    policy = GaussianMLP(4, 2, (5, 6))
    params, obs = random_params(policy, 1, dtype=torch.float32), observations(3, 4).float()
    shared = {n: v.expand(3, *v.shape[1:]) for n, v in params.items()}
    copied = {n: v.contiguous() for n, v in shared.items()}
    assert torch.equal(policy.mean(shared, obs), policy.mean(copied, obs))


# torch's own forward mode scripts its decompositions at the first use
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("hidden", HIDDEN)
def test_mean_tangent_equals_forward_mode_differentiation(hidden):
    policy = GaussianMLP(4, 2, hidden)
    params, direction = random_params(policy, 3), random_params(policy, 3, seed=2)
    obs = observations(3, 4)
    _, expected = torch.func.jvp(lambda p: policy.mean(p, obs), (params,), (direction,))
    tangent = policy.mean_tangent(params, direction, obs)
    torch.testing.assert_close(tangent, expected, rtol=0, atol=1e-12)


def test_mean_tangent_equals_a_central_difference():
    policy = GaussianMLP(4, 2, (5, 6))
    params, direction = random_params(policy, 3), random_params(policy, 3, seed=2)
    obs, step = observations(3, 4), 1e-6
    ends = [
        policy.mean({n: v + sign * step * direction[n] for n, v in params.items()}, obs)
        for sign in (1, -1)
    ]
    tangent = policy.mean_tangent(params, direction, obs)
    torch.testing.assert_close(tangent, (ends[0] - ends[1]) / (2 * step), rtol=0, atol=1e-7)


def test_log_std_is_clamped_from_below_and_broadcasts_over_states():
    policy = GaussianMLP(4, 3, min_log_std=-2.0)
    params = {"log_std": torch.tensor([[-5.0, -2.0, 1.0], [0.0, -1.9, -2.1]])}
    log_std = policy.log_std(params)
    assert log_std.shape == (2, 1, 3)
    assert log_std[:, 0].tolist() == torch.tensor([[-2, -2, 1], [0, -1.9, -2]]).tolist()


def test_initial_parameters_are_a_function_of_the_stream():
    policy = GaussianMLP(4, 2)
    first, again, other = (policy.initial(stream(seed, "init"), -0.5) for seed in (0, 0, 1))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert all(not torch.equal(first[n], other[n]) for n in first if n.startswith("weight"))


def test_initial_parameters_do_not_touch_torchs_generator():
    before = torch.random.get_rng_state()
    GaussianMLP(4, 2).initial(stream(0, "init"), 0.0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_initial_parameters_are_xavier_uniform_with_zero_biases():
    params = GaussianMLP(40, 20, (100,)).initial(stream(0, "init"), -0.5)
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


def test_the_policy_owns_no_tensor():
    policy = GaussianMLP(4, 2)
    assert not any(isinstance(v, torch.Tensor) for v in vars(policy).values())
