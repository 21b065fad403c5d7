import math

import pytest
import torch

from metarl.functional.ppo import (
    approximate_kl,
    check_ratio,
    clip_indicator,
    clipped_loss,
    ratio_error,
)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.1, 2.0, -2.2),  # inside
        (1.5, 2.0, -2.4),  # a gain beyond the clip is cut
        (0.5, 2.0, -1.0),  # a loss is not
        (1.5, -2.0, 3.0),
        (0.5, -2.0, 1.6),
    ],
)
def test_clipped_loss_by_hand(ratio, advantage, loss):
    found = clipped_loss(torch.tensor(math.log(ratio)), torch.tensor(advantage), 0.2)
    assert float(found) == pytest.approx(loss, rel=1e-5)


def test_gradient_vanishes_only_for_gains_beyond_the_clip():
    log_ratio = torch.tensor([0.0, 0.5, -0.5, 0.5, -0.5], requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    clipped_loss(log_ratio, advantage, 0.2).sum().backward()
    assert (log_ratio.grad != 0).tolist() == [True, False, True, True, False]
    assert float(log_ratio.grad[0]) == -1.0


def test_approximate_kl_equals_the_exact_one_on_average():
    old = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    new = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    estimate = approximate_kl((new / old).log())
    assert (estimate >= 0).all()
    exact = (old * (old / new).log()).sum()
    torch.testing.assert_close((old * estimate).sum(), exact)


def test_clip_indicator_marks_ratios_outside_the_interval():
    ratio = torch.tensor([1.0, 1.19, 1.21, 0.81, 0.79])
    assert clip_indicator(ratio.log(), 0.2).tolist() == [0, 0, 1, 0, 1]


def test_ratio_error_is_the_largest_at_valid_steps():
    log_ratio = torch.tensor([1.0, 1.1, 0.8, math.nan]).log()
    assert ratio_error(log_ratio, torch.tensor([True, True, True, False])) == pytest.approx(0.2)
    assert ratio_error(log_ratio[1:], torch.tensor([True, False, False])) == pytest.approx(0.1)
    assert ratio_error(log_ratio[1:], torch.ones(3, dtype=torch.bool)) == math.inf


def test_ratio_within_rounding_is_returned():
    log_ratio, rounding = torch.tensor([1e-3, -2e-3, 9.0]), torch.tensor([1e-3, 1e-2, 1e-3])
    valid = torch.tensor([True, True, False])
    assert check_ratio(log_ratio, rounding, valid) == pytest.approx(2e-3, rel=1e-2)


def test_ratio_that_a_nudge_of_the_inputs_explains_is_returned():
    valid, rounding = torch.ones(3, dtype=torch.bool), torch.full((3,), 1e-5)
    log_ratio = torch.tensor([0.0, 1e-4, 2e-3])
    grown = torch.tensor([0.0, 1e-4 + 1e-3, 2e-3])  # the change of a step lasts to the end
    assert check_ratio(log_ratio, rounding, valid, lambda: grown) == pytest.approx(2e-3, rel=1e-2)
    for late in (torch.tensor([0.0, 1e-4, 2e-3 + 1e-3]), log_ratio, log_ratio * math.nan):
        with pytest.raises(FloatingPointError, match="policy that acted"):
            check_ratio(log_ratio, rounding, valid, lambda late=late: late)


@pytest.mark.parametrize(("value", "shown"), [(2e-3, "0.002"), (math.nan, "nan"), (200.0, "inf")])
def test_ratio_beyond_rounding_is_an_error(value, shown):
    # the first one is further from 1, the second one further beyond its bound
    log_ratio, rounding = torch.tensor([1.0, value, 0.0]), torch.tensor([9.0, 1e-3, 1e-3])
    message = rf"policy that acted: \|ratio - 1\| = {shown}, rounding explains 0.001"
    with pytest.raises(FloatingPointError, match=message):
        check_ratio(log_ratio, rounding, torch.ones(3, dtype=torch.bool))
