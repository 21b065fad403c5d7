"""Hand-written derivatives of log-probabilities against automatic ones, and the protocol."""

import numpy as np
import pytest
import torch

from metarl.functional import categorical, gaussian
from metarl.networks.distributions import (
    Categorical,
    DiagonalGaussian,
    build_distribution,
    clamp_,
)
from metarl.networks.scores import CategoricalScores, GaussianScores

N, M, A = 2, 5, 3


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def gaussian_case():
    action, log_std = draw(N, M, A, seed=1), 0.3 * draw(N, A, seed=2)

    def scores(output, others):
        raw = others["log_std"].unsqueeze(1)
        return GaussianScores(action, output, raw, torch.ones_like(raw))

    def log_density(output, others):
        return gaussian.log_prob(action, output, others["log_std"].unsqueeze(1))

    return scores, log_density, {"log_std": log_std}


def categorical_case():
    action = categorical.sample(draw(N, M, A, seed=1), draw(N, M, A, seed=3))
    return (
        lambda output, others: CategoricalScores(action, output),
        lambda output, others: categorical.log_prob(action, output),
        {},
    )


@pytest.mark.parametrize("case", [gaussian_case, categorical_case])
def test_score_derivatives_equal_automatic_ones(case):
    scores, log_density, others = case()
    output, output_tangent = draw(N, M, A, seed=4), draw(N, M, A, seed=5)
    params_tangent = {name: draw(*value.shape, seed=6) for name, value in others.items()}
    cotangent, cotangent_tangent = draw(N, M, 1, seed=7), draw(N, M, 1, seed=8)
    found = scores(output, others)
    inputs, direction = (output, *others.values()), (output_tangent, *params_tangent.values())

    def flat(*values):
        return log_density(values[0], dict(zip(others, values[1:], strict=True)))

    torch.testing.assert_close(found.log_prob, flat(*inputs))
    _, expected = torch.autograd.functional.jvp(flat, inputs, direction)
    tangent, kept = found.jvp(output_tangent, params_tangent)
    torch.testing.assert_close(tangent, expected)

    def vjp(*values):
        return torch.func.vjp(flat, *values)[1](cotangent.squeeze(-1))

    through_cotangent = torch.func.vjp(flat, *inputs)[1](cotangent_tangent.squeeze(-1))
    through_inputs = torch.autograd.functional.jvp(vjp, inputs, direction)[1]
    both = [a + b for a, b in zip(through_cotangent, through_inputs, strict=True)]
    for result, expected in (
        (found.vjp(cotangent), vjp(*inputs)),
        (found.vjp_tangent(cotangent, cotangent_tangent, kept), both),
    ):
        output_cotangent, own = result
        assert list(own) == list(others)
        for one, other in zip((output_cotangent, *own.values()), expected, strict=True):
            torch.testing.assert_close(one, other)


DISTRIBUTIONS = {"gaussian": DiagonalGaussian(-0.5, -2.0), "categorical": Categorical()}


@pytest.fixture(params=DISTRIBUTIONS)
def distribution(request):
    return DISTRIBUTIONS[request.param]


def own_params(distribution):
    """Own parameters of N tasks: the initial ones, some of them below the bound of log_std."""
    initial = distribution.initial(A).items()
    return {n: v.double() + draw(N, A, seed=9) - 1.0 for n, v in initial}


def test_precomputed_sampling_equals_sampling(distribution):
    params, output, noise = own_params(distribution), draw(N, M, A), draw(N, M, A, seed=1)
    action, log_prob = distribution.sample(params, output, noise)
    precomputed = distribution.precompute(params)
    fast_action, fast_log_prob = distribution.sample_precomputed(precomputed, output, noise)
    assert torch.equal(fast_action, action)
    torch.testing.assert_close(fast_log_prob, log_prob)
    torch.testing.assert_close(distribution.log_prob(params, output, action), log_prob)


def test_parameters_of_one_policy_equal_those_of_equal_tasks(distribution):
    one = {name: value[0] for name, value in own_params(distribution).items()}
    tasks = {name: value.expand(N, A) for name, value in one.items()}
    output, noise = draw(N, M, A), draw(N, M, A, seed=1)
    action, log_prob = distribution.sample(one, output, noise)
    assert torch.equal(action, distribution.sample(tasks, output, noise)[0])
    assert torch.equal(log_prob, distribution.sample(tasks, output, noise)[1])
    for function in (distribution.log_prob, lambda *args: distribution.entropy(*args[:2])):
        assert torch.equal(function(one, output, action), function(tasks, output, action))
        assert function(one, output, action).shape == (N, M)


def test_mode_has_the_highest_log_prob(distribution):
    params, output = own_params(distribution), draw(N, M, A)
    mode = distribution.log_prob(params, output, distribution.mode(output))
    for seed in range(5):
        action, _ = distribution.sample(params, output, draw(N, M, A, seed=seed))
        assert (distribution.log_prob(params, output, action) <= mode).all()


def test_kl_divergence_of_a_policy_from_itself_is_zero(distribution):
    params, output = own_params(distribution), draw(N, M, A)
    assert not distribution.kl_divergence(params, output, params, output).any()
    other = distribution.kl_divergence(params, output, params, output + draw(N, M, A, seed=1))
    assert (other > 0).all()


def test_fisher_product_is_the_mean_square_of_scores(distribution):
    params, output = own_params(distribution), draw(N, M, A)
    params_tangent = {name: draw(N, A, seed=2) for name in params}
    output_tangent, weight = draw(N, M, A, seed=3), draw(N, M, 1, seed=4).abs()
    cotangent, own = distribution.fisher_product(
        params, output, params_tangent, output_tangent, weight
    )
    product = (cotangent * output_tangent).sum()
    product += sum((own[name] * params_tangent[name]).sum() for name in own)
    squares = []
    for noise in torch.from_numpy(np.random.default_rng(0).normal(size=(2_000, N, M, A))):
        action, _ = distribution.sample(params, output, noise)
        tangent, _ = distribution.scores(params, output, action).jvp(output_tangent, params_tangent)
        squares.append((tangent.square() * weight.squeeze(-1)).sum())
    squares = torch.stack(squares)
    error = float(squares.std()) / len(squares) ** 0.5
    assert abs(float(squares.mean() - product)) < 4.0 * error


def test_log_std_is_clamped_and_broadcasts_over_states():
    distribution = DiagonalGaussian(min_log_std=-2.0)
    params = {"log_std": torch.tensor([[-5.0, -2.0, 1.0], [0.0, -1.9, -2.1]])}
    log_std = distribution.log_std(params)
    assert log_std.shape == (2, 1, 3)
    assert log_std[:, 0].tolist() == torch.tensor([[-2, -2, 1], [0, -1.9, -2]]).tolist()
    assert torch.equal(distribution.clamp(params)["log_std"], log_std[:, 0])
    in_force = (-2.0 - 2.0 + 1.0 + 0.0 - 1.9 - 2.0) / 6.0
    assert distribution.metrics(params) == {"log_std": pytest.approx(in_force)}


def test_log_std_at_its_bound_moves_inside_only():
    distribution = DiagonalGaussian(min_log_std=-2.0)
    params = {"log_std": torch.tensor([-2.5, -2.0, -2.0, -1.0])}
    direction = {"log_std": torch.tensor([-1.0, -1.0, 1.0, -1.0])}
    assert distribution.can_move(params, direction)["log_std"].tolist() == [0, 0, 1, 1]
    assert distribution.clamp_derivative(params)["log_std"].tolist() == [0, 1, 1, 1]
    clamp_(distribution, params)
    assert params["log_std"].tolist() == [-2.0, -2.0, -2.0, -1.0]


def test_discrete_actions_choose_the_categorical_distribution():
    assert build_distribution(True, -0.5, -2.0) == Categorical()
    assert build_distribution(False, -0.5, -2.0) == DiagonalGaussian(-0.5, -2.0)
