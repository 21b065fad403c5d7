"""Stein directions against a loop over particles, and a density that is known."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from metarl.functional.stein import from_rows, stein_direction, to_rows


def test_stein_direction_equals_a_loop_over_particles():
    rng = np.random.default_rng(0)
    theta, gradient = rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 4, 5))
    found = stein_direction(torch.tensor(theta), torch.tensor(gradient), 7).numpy()
    for n in range(2):
        ordered = np.sort(pdist(theta[n], "sqeuclidean"))
        width = ordered[(len(ordered) - 1) // 2] / np.log(4)  # torch's median is the lower one
        for p in range(4):
            total = np.zeros(5)
            for q in range(4):
                apart = theta[n, q] - theta[n, p]
                k = np.exp(-(apart @ apart) / width)
                total += -k * gradient[n, q] + (-2.0 / width * k * apart) / 7
            assert np.allclose(found[n, p], total / 4)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_stein_direction_equals_that_of_all_differences(offset):
    rng = np.random.default_rng(1)
    theta = torch.tensor(rng.normal(size=(3, 6, 40))) + offset
    gradient = torch.tensor(rng.normal(size=(3, 6, 40)))
    apart = theta.unsqueeze(2) - theta.unsqueeze(1)  # (N, q, p, D)
    square = apart.square().sum(dim=-1)
    q, p = torch.triu_indices(6, 6, offset=1)
    width = (square[:, q, p].median(dim=1).values / np.log(6)).view(-1, 1, 1)
    kernel = (-square / width).exp()
    push = (-2.0 / width * kernel).unsqueeze(-1) * apart / 7
    expected = (push - kernel.unsqueeze(-1) * gradient.unsqueeze(2)).mean(dim=1)
    found = stein_direction(theta, gradient, 7)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_one_particle_descends():
    gradient = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(stein_direction(torch.ones(2, 1, 5), gradient, 7), -gradient)


def test_particles_approach_a_normal_density():
    """-M L is the log-density of a normal vector; its particles have its mean and its spread."""
    mean, deviation = torch.tensor([1.0, -2.0]).double(), 0.5
    theta = torch.randn(1, 30, 2, generator=torch.Generator().manual_seed(1)).double()
    for _ in range(2000):
        gradient = (theta - mean) / deviation**2
        theta = theta + 0.1 * stein_direction(theta, gradient, 1)
    assert torch.allclose(theta[0].mean(dim=0), mean, atol=0.02)
    assert torch.allclose(theta[0].std(dim=0), torch.full((2,), deviation).double(), rtol=0.15)


def test_rows_are_parameters_and_back():
    params = {"a": torch.arange(12.0).view(6, 2), "b": torch.arange(36.0).view(6, 2, 3)}
    rows = to_rows(params, 3)
    assert rows.shape == (2, 3, 8)
    assert rows[1, 2].tolist() == [10.0, 11.0, *range(30, 36)]
    back = from_rows(rows, params)
    assert all(torch.equal(back[n], v) for n, v in params.items())
