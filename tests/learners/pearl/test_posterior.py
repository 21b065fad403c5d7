"""Products of Gaussians against numerical integration and torch.distributions."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from metarl.learners.pearl.posterior import Posterior


@pytest.fixture
def factors():
    draw = torch.Generator().manual_seed(1)
    mean = torch.randn(2, 5, 3, generator=draw, dtype=torch.float64)
    return mean, torch.rand(2, 5, 3, generator=draw, dtype=torch.float64) + 0.1


def prior(num_tasks, latent_size):
    own = Posterior.prior(num_tasks, latent_size)
    return Posterior(own.precision.double(), own.weighted.double())


def test_product_equals_numerical_integration(factors):
    mean, precision = factors
    posterior = prior(2, 3).observe(mean, precision)
    grid = torch.linspace(-8.0, 8.0, 40_001, dtype=torch.float64)
    for task in range(2):
        for number in range(3):
            log_density = Normal(0.0, 1.0).log_prob(grid)
            for own, weight in zip(mean[task, :, number], precision[task, :, number], strict=True):
                log_density = log_density + Normal(own, weight.rsqrt()).log_prob(grid)
            density = (log_density - log_density.max()).exp()
            density = density / torch.trapezoid(density, grid)
            first = torch.trapezoid(density * grid, grid)
            second = torch.trapezoid(density * (grid - first).square(), grid)
            torch.testing.assert_close(posterior.mean[task, number], first)
            torch.testing.assert_close(posterior.precision[task, number].reciprocal(), second)


def test_posterior_of_one_episode_is_the_prior_of_the_next(factors):
    mean, precision = factors
    whole = prior(2, 3).observe(mean, precision)
    first = prior(2, 3).observe(mean[:, :2], precision[:, :2])
    both = first.observe(mean[:, 2:], precision[:, 2:])
    torch.testing.assert_close(vars(both), vars(whole))
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(
        vars(prior(2, 3).observe(mean[:, order], precision[:, order])), vars(whole)
    )


def test_invalid_transitions_do_not_count(factors):
    mean, precision = (part.clone() for part in factors)
    valid = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()
    mean[:, 4] = float("nan")
    posterior = prior(2, 3).observe(mean, precision, valid)
    rest = prior(1, 3).observe(mean[:1, [0, 1, 3]], precision[:1, [0, 1, 3]])
    torch.testing.assert_close(posterior.mean[:1], rest.mean)
    torch.testing.assert_close(vars(posterior)["precision"][1], torch.ones(3).double())
    assert not posterior.mean[1].any()


def test_divergence_from_the_prior_equals_that_of_torch(factors):
    posterior = prior(2, 3).observe(*factors)
    own = Normal(posterior.mean, posterior.precision.rsqrt())
    expected = kl_divergence(own, Normal(torch.tensor(0.0), torch.tensor(1.0))).sum(dim=-1)
    torch.testing.assert_close(posterior.kl_from_prior(), expected)
    torch.testing.assert_close(prior(2, 3).kl_from_prior(), torch.zeros(2).double())


def test_samples_have_the_mean_and_variance_of_the_posterior(factors):
    posterior = prior(2, 3).observe(*factors)
    noise = torch.randn(2, 200_000, 3, generator=torch.Generator().manual_seed(2)).double()
    drawn = posterior.sample(noise)
    torch.testing.assert_close(drawn.mean(dim=1), posterior.mean, atol=0.01, rtol=0.0)
    torch.testing.assert_close(
        drawn.var(dim=1), posterior.precision.reciprocal(), atol=0.01, rtol=0.02
    )
