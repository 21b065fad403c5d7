"""Running means and variances of observations and returns: values, merged by pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_STD = 1e-2
"""Smallest standard deviation divided by: what hardly ever moves must not become noise of size one."""


@dataclass(frozen=True)
class Moments:
    """Mean and variance of what was seen so far.

    They stay as they are within an iteration: a policy whose inputs are scaled differently in acting and in learning is
    another policy, and its probability ratio is wrong.

    Attributes:
        count: How many vectors (), float64.
        mean: (S,), float64.
        variance: (S,), float64.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    @staticmethod
    def none(size: int) -> Moments:
        """The moments before anything was seen: mean 0, variance 1."""
        zero = torch.zeros((), dtype=torch.float64)
        return Moments(zero, zero.expand(size).clone(), torch.ones(size, dtype=torch.float64))

    def merged(self, values: Tensor) -> Moments:
        """Adds the vectors (L, S); none of them changes nothing.

        Source: Chan et al. 1979, Updating formulae and a pairwise algorithm for computing sample variances.
        """
        values = values.double()
        if not len(values):
            return self
        number = torch.tensor(float(len(values)), dtype=torch.float64)
        variance, mean = torch.var_mean(values, dim=0, correction=0)
        total = self.count + number
        shift = mean - self.mean
        between = shift.square() * (self.count * number / total.square())
        return Moments(
            total,
            self.mean + shift * (number / total),
            (self.variance * self.count + variance * number) / total + between,
        )

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and reciprocal standard deviation (S,), float32."""
        return self.mean.float(), self.variance.sqrt().clamp(min=MIN_STD).reciprocal().float()
