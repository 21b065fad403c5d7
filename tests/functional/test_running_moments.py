import torch

from metarl.functional.running_moments import MIN_STD, Moments

GENERATOR = torch.Generator().manual_seed(0)
VALUES = torch.randn(50, 3, generator=GENERATOR) * torch.tensor([1.0, 30.0, 0.1]) + 5.0


def test_merged_batches_have_the_moments_of_the_whole():
    merged = Moments.initial(3)
    for part in VALUES.split([7, 1, 0, 30, 12]):
        merged = merged.merge(part)
    expected = torch.var_mean(VALUES.double(), dim=0, correction=0)
    assert float(merged.count) == 50
    torch.testing.assert_close(merged.variance, expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(merged.mean, expected[1], rtol=1e-12, atol=0)


def test_merging_keeps_the_old_moments():
    before = Moments.initial(3)
    before.merge(VALUES)
    assert float(before.count) == 0 and not before.mean.any() and (before.variance == 1).all()


def test_normalized_values_have_mean_0_and_std_1():
    mean, factor = Moments.initial(3).merge(VALUES).scale()
    scaled = (VALUES - mean) * factor
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled.std(dim=0, correction=0), torch.ones(3), rtol=1e-5, atol=0)


def test_initial_moments_keep_values_as_they_are():
    mean, factor = Moments.initial(2).scale()
    assert not mean.any() and (factor == 1).all()


def test_constant_values_are_not_amplified():
    still = torch.full((9, 1), 3.0)
    _, factor = Moments.initial(1).merge(still).scale()
    assert float(factor) == 1 / torch.tensor(MIN_STD).float()
