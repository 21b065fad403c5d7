"""The squashed Gaussian against torch.distributions."""

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from metarl.learners.pearl import squashed_gaussian


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(0)
    shapes = [torch.randn(7, 3, generator=draw, dtype=torch.float64) for _ in range(3)]
    return shapes[0], 0.5 * shapes[1], shapes[2]


def test_log_density_equals_that_of_torch(inputs):
    mean, log_std, noise = inputs
    action, log_prob = squashed_gaussian.sample(mean, log_std, noise)
    raw = mean + log_std.exp() * noise
    reference = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    torch.testing.assert_close(action, raw.tanh())
    torch.testing.assert_close(log_prob, reference.log_prob(action), rtol=1e-7, atol=1e-7)


def test_density_of_one_number_integrates_to_one():
    mean, log_std = torch.tensor([0.4, -1.2]).double(), torch.tensor([-0.7, 0.3]).double()
    action = torch.linspace(-1.0, 1.0, 200_003, dtype=torch.float64)[1:-1].unsqueeze(-1)
    noise = (action.atanh() - mean) / log_std.exp()
    _, log_prob = squashed_gaussian.sample(mean, log_std, noise)
    total = torch.trapezoid(log_prob.exp(), action, dim=0)
    torch.testing.assert_close(total, torch.ones(2).double(), rtol=1e-3, atol=1e-3)


def test_log_density_is_finite_where_the_tangent_is_one():
    far = torch.tensor([40.0, -40.0], requires_grad=True)
    action, log_prob = squashed_gaussian.sample(far, torch.zeros(2), torch.zeros(2))
    assert action.tolist() == [1.0, -1.0] and log_prob.isfinite().all()
    expected = 80.0 - 2.0 * torch.tensor(2.0).log() - 0.5 * torch.tensor(2 * torch.pi).log()
    torch.testing.assert_close(log_prob, expected.expand(2))
    (slope,) = torch.autograd.grad(log_prob.sum(), far)
    torch.testing.assert_close(slope, torch.tensor([2.0, -2.0]))
