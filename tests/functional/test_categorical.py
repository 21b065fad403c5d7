import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical

from metarl.functional import categorical


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def actions(logits, seed=1):
    return categorical.sample(logits, draw(*logits.shape, seed=seed))


def test_log_prob_and_entropy_equal_torch_distributions():
    logits = 2.0 * draw(3, 5, 4)
    action, expected = actions(logits), Categorical(logits=logits)
    found = categorical.log_prob(action, logits)
    torch.testing.assert_close(found, expected.log_prob(action.argmax(dim=-1)))
    torch.testing.assert_close(categorical.entropy(logits), expected.entropy())


def test_log_prob_of_three_alternatives_by_hand():
    logits = torch.tensor([0.0, math.log(2.0), math.log(5.0)])
    found = categorical.log_prob(torch.eye(3), logits)
    assert found.exp().tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_kl_equals_torch_distributions_and_is_zero_for_itself():
    p, q = draw(3, 5, 4), draw(3, 5, 4, seed=1)
    expected = torch.distributions.kl_divergence(Categorical(logits=p), Categorical(logits=q))
    torch.testing.assert_close(categorical.kl_divergence(p, q), expected)
    assert not categorical.kl_divergence(p, p).any()


def test_fisher_product_equals_the_hessian_of_the_kl():
    logits, tangent = draw(4), draw(4, seed=1)
    hessian = torch.autograd.functional.hessian(
        lambda q: categorical.kl_divergence(logits, q), logits
    )
    torch.testing.assert_close(categorical.fisher_product(tangent, logits), hessian @ tangent)


def test_samples_are_one_hot_with_the_right_frequencies():
    logits = torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=torch.float64)
    number = 200_000
    drawn = categorical.sample(logits.expand(number, 4), draw(number, 4))
    assert ((drawn == 0) | (drawn == 1)).all() and (drawn.sum(dim=-1) == 1).all()
    p = logits.softmax(dim=-1)
    error = (drawn.mean(dim=0) - p) / (p * (1.0 - p) / number).sqrt()
    assert error.abs().max() < 4.0


def test_sample_depends_on_its_own_noise_even_if_extreme():
    logits, noise = draw(6, 3).float(), draw(6, 3, seed=2).float()
    drawn = categorical.sample(logits, noise)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn[2:3], categorical.sample(logits[2:3], noise[2:3]))
    # in float32 the normal distribution function is 1 at 9 sigma
    extreme = torch.tensor([[9.0, 8.0, -9.0], [-9.0, 8.0, 9.0]])
    assert categorical.sample(torch.zeros(2, 3), extreme).argmax(dim=-1).tolist() == [0, 2]


def test_mode_is_the_likeliest_alternative():
    assert categorical.mode(torch.tensor([[0.1, 3.0, -1.0]])).tolist() == [[0.0, 1.0, 0.0]]
