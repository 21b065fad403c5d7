import math

import pytest
import torch

from metarl.functional.ppo import approximate_kl, clipped_loss, clipped_share


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.1, 2.0, -2.2),  # inside
        (1.5, 2.0, -2.4),  # a gain beyond the clip does not count
        (0.5, 2.0, -1.0),  # a loss always does
        (1.5, -2.0, 3.0),
        (0.5, -2.0, 1.6),
    ],
)
def test_the_loss_by_hand(ratio, advantage, loss):
    found = clipped_loss(torch.tensor(math.log(ratio)), torch.tensor(advantage), 0.2)
    assert float(found) == pytest.approx(loss, rel=1e-5)


def test_the_gradient_vanishes_where_the_ratio_has_gained_beyond_the_clip_only():
    log_ratio = torch.tensor([0.0, 0.5, -0.5, 0.5, -0.5], requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    clipped_loss(log_ratio, advantage, 0.2).sum().backward()
    assert (log_ratio.grad != 0).tolist() == [True, False, True, True, False]
    assert float(log_ratio.grad[0]) == -1.0


def test_the_estimated_divergence_is_the_exact_one_on_average():
    old = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    new = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    estimate = approximate_kl((new / old).log())
    assert (estimate >= 0).all()
    exact = (old * (old / new).log()).sum()
    torch.testing.assert_close((old * estimate).sum(), exact)


def test_the_clipped_share_counts_ratios_that_have_left_the_interval():
    ratio = torch.tensor([1.0, 1.19, 1.21, 0.81, 0.79])
    assert clipped_share(ratio.log(), 0.2).tolist() == [0, 0, 1, 0, 1]
