"""Bounds on rounding errors: correct policies stay below them, and faults exceed them."""

import math

import numpy as np
import pytest
import torch

from metarl.functional import categorical
from metarl.functional.ppo import check_ratio
from metarl.functional.rounding import categorical_rounding, gaussian_rounding, magnitude, unit
from metarl.networks.distributions import Categorical, DiagonalGaussian

STATES, HIDDEN = 400, 64
SIZES = [1, 8, 500, 2000]
VALID = torch.ones(1, STATES, dtype=torch.bool)


def linear_layer(num_actions, mean_scale, seed=0):
    """Float32 features (1, M, H) and weights (H, A) whose products have a standard deviation."""
    rng = np.random.default_rng(seed)
    hidden = np.tanh(2.0 * rng.normal(size=(1, STATES, HIDDEN)))
    weight = mean_scale / math.sqrt(0.7 * HIDDEN) * rng.normal(size=(HIDDEN, num_actions))
    return torch.from_numpy(hidden).float(), torch.from_numpy(weight).float()


def other_order(hidden, weight):
    """The same product, summed one feature at a time from the last to the first."""
    total = torch.zeros(*hidden.shape[:2], weight.shape[1])
    for i in reversed(range(len(weight))):
        total = torch.addcmul(total, hidden[..., i : i + 1], weight[i])
    return total


def acting(num_actions, sigma, mean_scale, spread=0.2):
    """Returns distribution, parameters, recomputed means, actions and stored log-densities."""
    distribution = DiagonalGaussian(min_log_std=-9.0)
    rng = np.random.default_rng(1)
    log_std = math.log(sigma) + spread * rng.normal(size=(1, num_actions))
    params = {"log_std": torch.from_numpy(log_std).float()}
    hidden, weight = linear_layer(num_actions, mean_scale)
    noise = torch.from_numpy(rng.normal(size=(1, STATES, num_actions))).float()
    precomputed = distribution.precompute(params)
    action, stored = distribution.sample_precomputed(precomputed, hidden @ weight, noise)
    return distribution, params, other_order(hidden, weight), action, stored


def check(distribution, params, mean, action, stored):
    log_ratio = distribution.log_prob(params, mean, action) - stored
    return check_ratio(log_ratio, distribution.log_prob_rounding(params, mean, action), VALID)


@pytest.mark.parametrize("mean_scale", [0.0, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("num_actions", SIZES)
def test_correct_gaussian_policy_is_accepted(num_actions, sigma, mean_scale):
    case = acting(num_actions, sigma, mean_scale)
    log_ratio = case[0].log_prob(case[1], *case[2:4]) - case[4]
    bound = case[0].log_prob_rounding(case[1], *case[2:4])
    assert (log_ratio.abs() < 0.5 * bound).all()
    assert check(*case) == pytest.approx(float(log_ratio.expm1().abs().max()))


def test_absolute_limit_would_stop_correct_policies():
    errors = [check(*acting(num_actions, 0.05, 1.0)) for num_actions in (500, 2000)]
    assert errors[0] > 1e-4 and errors[1] > 2e-4


@pytest.mark.parametrize("num_actions", SIZES)
def test_mean_that_is_off_by_a_thousandth_is_found(num_actions):
    distribution, params, mean, action, stored = acting(num_actions, 0.05, 1.0, spread=0.0)
    for changed in (slice(0, 1), slice(None)):  # one dimension, all of them
        wrong = mean.clone()
        wrong[..., changed] += 1e-3
        with pytest.raises(FloatingPointError, match=r"policy that acted.*rounding explains"):
            check(distribution, params, wrong, action, stored)


@pytest.mark.parametrize("num_actions", SIZES)
@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_changed_scale_of_observations_is_found(sigma, num_actions):
    distribution, params, mean, action, stored = acting(num_actions, sigma, 1.0)
    with pytest.raises(FloatingPointError, match="policy that acted"):
        check(distribution, params, 1.01 * mean, action, stored)


@pytest.mark.parametrize("num_actions", SIZES)
def test_other_noise_is_found(num_actions):
    distribution, params, mean, action, stored = acting(num_actions, 0.1, 1.0)
    wrong = {"log_std": params["log_std"] + 0.01}
    with pytest.raises(FloatingPointError, match="policy that acted"):
        check(distribution, wrong, mean, action, stored)


def test_bound_by_hand():
    # one dimension: z = 2, sigma = 1/2, m = 3 (in the other state), u = 2^-24
    mean, log_std = torch.tensor([[1.0], [-3.0]]), torch.tensor([[math.log(0.5)]])
    action = torch.tensor([[2.0], [-3.0]])
    bound = gaussian_rounding(action, mean, log_std)
    term = 2.0 + math.log(2.0) + 0.5 * math.log(2.0 * math.pi)
    expected = 2.0**-24 * (16.0 * term + (512.0 + 64.0) * math.sqrt(5.0) * (3.0 / 0.5 + 1.0))
    assert float(bound[0]) == pytest.approx(expected, rel=1e-6)


def test_coarsest_type_decides():
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    assert unit(double) == 2.0**-53 and unit(single, double) == unit(single) == 2.0**-24


def test_magnitude_ignores_outputs_that_are_not_finite():
    output = torch.tensor([[1.0, -4.0], [-2.0, math.nan], [math.inf, -math.inf]])
    assert magnitude(output).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("num_actions", [2, 8, 500])
def test_only_the_correct_categorical_policy_is_accepted(num_actions, offset):
    distribution = Categorical()
    hidden, weight = linear_layer(num_actions, 1.0)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(1, STATES, num_actions)))
    action, stored = distribution.sample({}, hidden @ weight + offset, noise.float())
    logits = other_order(hidden, weight) + offset
    assert check(distribution, {}, logits, action, stored) < 1e-4
    wrong = logits + 0.03 * noise.float()
    with pytest.raises(FloatingPointError, match="policy that acted"):
        check(distribution, {}, wrong, action, stored)


def test_categorical_bound_by_hand():
    logits = torch.tensor([[0.0, 0.0], [-3.0, 1.0]])
    action = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    bound = categorical_rounding(action, logits, categorical.log_prob(action, logits))
    expected = 2.0**-24 * (16.0 * (1.0 + math.log(2.0)) + 2.0 * 512.0 * 3.0)
    assert float(bound[0]) == pytest.approx(expected, rel=1e-6)
