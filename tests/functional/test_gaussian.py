import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from metarl.functional import gaussian


def distribution(mean, log_std):
    return Independent(Normal(mean, log_std.exp().expand_as(mean)), 1)


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_log_prob_equals_torch_distributions():
    mean, log_std, action = draw(2, 5, 3), 0.3 * draw(2, 1, 3, seed=1), draw(2, 5, 3, seed=2)
    expected = distribution(mean, log_std).log_prob(action)
    assert expected.shape == (2, 5)
    torch.testing.assert_close(
        gaussian.log_prob(action, mean, log_std), expected, rtol=0, atol=1e-13
    )


def test_log_prob_of_two_dimensions_by_hand():
    # sigma = 1 and e, one standard deviation off in each:
    # -(1/2 + 0) - (1/2 + 1) - 2 * log sqrt(2 pi)
    log_std = torch.tensor([0.0, 1.0], dtype=torch.float64)
    action = torch.tensor([1.0, -math.e], dtype=torch.float64)
    found = float(gaussian.log_prob(action, torch.zeros(2, dtype=torch.float64), log_std))
    assert abs(found - (-2.0 - math.log(2.0 * math.pi))) < 1e-14


def test_log_prob_of_noise_equals_log_prob_of_the_action():
    mean, log_std, noise = draw(2, 5, 3), 0.3 * draw(2, 1, 3, seed=1), draw(2, 5, 3, seed=2)
    action = mean + log_std.exp() * noise
    torch.testing.assert_close(
        gaussian.log_prob_of_noise(noise, log_std),
        gaussian.log_prob(action, mean, log_std),
        rtol=0,
        atol=1e-12,
    )


def test_kl_divergence_equals_torch_distributions():
    p = draw(2, 5, 3), 0.5 * draw(2, 1, 3, seed=1)
    q = draw(2, 5, 3, seed=2), 0.5 * draw(2, 1, 3, seed=3)
    expected = kl_divergence(distribution(*p), distribution(*q))
    assert expected.shape == (2, 5)
    torch.testing.assert_close(gaussian.kl_divergence(*p, *q), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        gaussian.kl_divergence(*q, *p),
        kl_divergence(distribution(*q), distribution(*p)),
        rtol=0,
        atol=1e-12,
    )


def test_kl_divergence_equals_the_mean_log_ratio_of_samples():
    p = torch.tensor([0.3, -0.2]).double(), torch.tensor([-0.1, 0.2]).double()
    q = torch.tensor([0.1, 0.4]).double(), torch.tensor([0.2, -0.3]).double()
    action = p[0] + p[1].exp() * draw(400_000, 2)
    ratio = gaussian.log_prob(action, *p) - gaussian.log_prob(action, *q)
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert error < 0.003
    assert abs(float(ratio.mean() - gaussian.kl_divergence(*p, *q))) < 4 * error


def test_kl_divergence_from_itself_is_exactly_zero():
    mean, log_std = draw(2, 5, 3).float(), draw(2, 1, 3, seed=1).float()
    assert not gaussian.kl_divergence(mean, log_std, mean, log_std).any()


def test_entropy_equals_torch_distributions():
    log_std = draw(4, 3)
    expected = distribution(torch.zeros_like(log_std), log_std).entropy()
    torch.testing.assert_close(gaussian.entropy(log_std), expected, rtol=0, atol=1e-13)


# torch's own forward mode scripts its decompositions at the first use
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_fisher_product_equals_the_hessian_of_the_kl():
    size = 3
    old = torch.cat([draw(size), 0.5 * draw(size, seed=1)])

    def kl(new):
        return gaussian.kl_divergence(old[:size], old[size:], new[:size], new[size:])

    hessian = torch.func.hessian(kl)(old)
    tangent = draw(2 * size, seed=2)
    product = torch.cat(gaussian.fisher_product(tangent[:size], tangent[size:], log_std=old[size:]))
    torch.testing.assert_close(product, hessian @ tangent, rtol=0, atol=1e-12)


def test_fisher_product_broadcasts_log_std_over_states():
    mean_side, std_side = gaussian.fisher_product(
        torch.ones(2, 5, 3), torch.ones(2, 3), torch.full((2, 1, 3), math.log(2.0))
    )
    torch.testing.assert_close(mean_side, torch.full((2, 5, 3), 0.25))
    assert torch.equal(std_side, torch.full((2, 3), 2.0))
