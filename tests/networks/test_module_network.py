"""Automatic derivatives of any module against those by hand and finite differences."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from metarl.core.rng import stream
from metarl.networks.distributions import DiagonalGaussian
from metarl.networks.mlp import TanhMLP
from metarl.networks.module_network import ModuleNetwork, build_network
from metarl.networks.policies import MLPPolicy

N, M, S, A = 3, 9, 4, 2
HIDDEN = (5, 6)


class Skipping(nn.Module):
    """A network that is no chain: the second layer reads the input again; one matrix is unused."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(S, 5), nn.Linear(5 + S, A)
        self.unused = nn.Parameter(torch.zeros(2, 2))
        self.scale = nn.Parameter(torch.zeros(A))

    def forward(self, obs):
        hidden = nn.functional.silu(self.first(obs))
        return self.scale * self.second(torch.cat([hidden, obs], dim=-1))


NETWORKS = {
    "relu": lambda: build_network(S, A, HIDDEN, "relu"),
    "silu": lambda: build_network(S, A, HIDDEN, "silu"),
    "elu, layer norm": lambda: build_network(S, A, HIDDEN, "elu", True),
    "tanh, layer norm": lambda: build_network(S, A, HIDDEN, "tanh", True),
    "skipping": lambda: ModuleNetwork(Skipping(), S, A),
    "linear": lambda: ModuleNetwork(nn.Linear(S, A), S, A),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def random_params(network, seed=0):
    """Different parameters for every task, all of them non-zero."""
    rng = np.random.default_rng(seed)
    shapes = {n: v.shape for n, v in network.initial(rng).items()}
    return {n: torch.from_numpy(rng.normal(size=(N, *s))) for n, s in shapes.items()}


def as_layers(params):
    """Parameters of a TanhMLP in the names and shapes of torch's layers."""
    named = {}
    for name, value in params.items():
        kind, index = name[:-1], 2 * int(name[-1])
        named[f"{index}.{kind}"] = value.mT.contiguous() if kind == "weight" else value
    return named


def plain_tanh():
    layers = nn.Linear(S, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, A)
    return ModuleNetwork(nn.Sequential(*layers), S, A)


def test_every_product_equals_that_of_the_tanh_network_by_hand():
    fast, module = TanhMLP(S, A, HIDDEN), plain_tanh()
    params, tangent = random_params(fast), random_params(fast, seed=1)
    obs, cotangent, change = draw(N, M, S, seed=2), draw(N, M, A, seed=3), draw(N, M, A, seed=4)
    results = []
    for network, convert in ((fast, dict), (module, as_layers)):
        p, v = convert(params), convert(tangent)
        activations = network.activations(p, obs)
        tangents = network.jvp(p, v, activations)
        gradient, kept = network.vjp(p, activations, cotangent)
        second = network.vjp_tangent(p, v, activations, tangents, kept, change)
        results.append((network.outputs(p, obs), activations[-1], tangents[-1], gradient, second))
    by_hand, automatic = results
    for one, other in zip(by_hand[:3], automatic[:3], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)
    for one, other in zip(by_hand[3:], automatic[3:], strict=True):
        expected = as_layers(one)
        assert expected.keys() == other.keys()
        for name, value in expected.items():
            torch.testing.assert_close(other[name], value, rtol=1e-11, atol=1e-11)


def differences(function, params, direction, width=1e-6):
    ends = [
        function({n: v + sign * width * direction[n] for n, v in params.items()})
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * width)


def test_jvp_equals_a_central_difference(network):
    params, direction, obs = random_params(network), random_params(network, 1), draw(N, M, S)
    (tangent,) = network.jvp(params, direction, network.activations(params, obs))
    expected = differences(lambda p: network.outputs(p, obs), params, direction)
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-7)


def test_vjp_is_the_transpose_of_jvp(network):
    params, direction, obs = random_params(network), random_params(network, 1), draw(N, M, S)
    cotangent, activations = draw(N, M, A, seed=2), network.activations(params, obs)
    gradient, _ = network.vjp(params, activations, cotangent)
    (tangent,) = network.jvp(params, direction, activations)
    for task in range(N):  # and no task reads the parameters of another one
        one = sum(float((gradient[n][task] * direction[n][task]).sum()) for n in params)
        assert one == pytest.approx(float((cotangent[task] * tangent[task]).sum()), rel=1e-9)


def test_vjp_tangent_equals_a_central_difference(network):
    params, direction, obs = random_params(network), random_params(network, 1), draw(N, M, S)
    cotangent, change = draw(N, M, A, seed=2), draw(N, M, A, seed=3)
    activations = network.activations(params, obs)
    _, kept = network.vjp(params, activations, cotangent)
    found = network.vjp_tangent(params, direction, activations, [], kept, change)
    for name in params:

        def gradient(p, by, name=name):
            return network.vjp(p, network.activations(p, obs), by)[0][name]

        expected = differences(lambda p: gradient(p, cotangent), params, direction)  # noqa: B023
        expected = expected + gradient(params, change)
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_products_leave_no_graph_and_no_gradient(network):
    params, obs = random_params(network), draw(N, M, S)
    with torch.no_grad():
        activations = network.activations(params, obs)
        gradient, kept = network.vjp(params, activations, draw(N, M, A))
        results = [*activations, kept, *gradient.values()]
        results += network.jvp(params, params, activations)
    assert not any(value.requires_grad for value in results)
    assert all(value.grad is None for value in params.values())


def test_outputs_are_differentiable_and_work_in_inference_mode(network):
    params, obs = random_params(network), draw(N, M, S)
    own = {n: v.clone().requires_grad_() for n, v in params.items()}
    assert network.outputs(own, obs).requires_grad
    with torch.inference_mode():
        assert torch.equal(network.outputs(params, obs), network.outputs(own, obs))


def test_threads_do_not_disturb_each_other():
    network = NETWORKS["tanh, layer norm"]()
    cases = [(random_params(network, seed), draw(N, M, S, seed=seed)) for seed in range(40)]
    expected = [network.outputs(*case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda case: network.outputs(*case), cases))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_module_itself_is_not_changed():
    module = nn.Linear(S, A)
    before = {n: v.detach().clone() for n, v in module.named_parameters()}
    network = ModuleNetwork(module, S, A)
    network.outputs(random_params(network), draw(N, M, S))
    assert all(torch.equal(v, before[n]) for n, v in module.named_parameters())


def test_initial_parameters_are_a_function_of_the_stream():
    state = torch.random.get_rng_state()
    network = build_network(40, 20, (100,), "relu", True)
    first, again, other = (network.initial(stream(seed, "init"), 0.1) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(
        torch.equal(first[n], again[n]) and v.dtype == torch.float32 for n, v in first.items()
    )
    assert not torch.equal(first["0.weight"], other["0.weight"])
    bounds = {
        "0.weight": (6 / 140) ** 0.5,
        "3.weight": 0.1 * (6 / 120) ** 0.5,
        "0.bias": 0.025**0.5,
    }
    for name, bound in bounds.items():
        assert 0.95 * bound < float(first[name].abs().max()) <= bound
    assert not first["1.bias"].any() and not first["3.bias"].any()
    assert (first["1.weight"] == 1.0).all()  # of the layer norm


def test_plain_tanh_network_is_the_fast_one():
    assert build_network(S, A, [5, 6]) == TanhMLP(S, A, HIDDEN)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(S, A), nn.BatchNorm1d(A)), "buffer '1.running_mean'"),
        (nn.Linear(S, A + 1), r"maps \(2, 4\) to \(2, 3\), not \(2, 2\)"),
        (nn.Sequential(nn.Tanh()), "no parameters"),
    ],
)
def test_unusable_module_is_named(module, message):
    with pytest.raises(ValueError, match=message):
        ModuleNetwork(module, S, A)


def test_parameter_with_the_name_of_another_one_is_refused():
    class Module(nn.Linear):
        def __init__(self):
            super().__init__(S, A)
            self.log_std = nn.Parameter(torch.zeros(A))

    policy = MLPPolicy(ModuleNetwork(Module(), S, A), DiagonalGaussian())
    with pytest.raises(ValueError, match="'log_std'"):
        policy.initial(stream(0, "init"))
