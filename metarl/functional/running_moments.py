"""Running means and variances of observations and returns: values, merged by pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

MAX_SCALED = 10.0
"""Scaled values are clipped to it [standard deviations]."""

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

    def scale(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Mean and reciprocal standard deviation (S,), float32."""
        factor = self.variance.sqrt().clamp(min=MIN_STD).reciprocal()
        return self.mean.float().to(device), factor.float().to(device)

    def state(self, name: str) -> dict[str, Tensor]:
        """The moments as entries `name/...` of a state_dict."""
        return {f"{name}/{part}": value.clone() for part, value in vars(self).items()}

    @staticmethod
    def of(state: Mapping[str, Tensor], name: str) -> Moments:
        """Reads back what `state` wrote."""
        parts = (f.name for f in fields(Moments))
        return Moments(*(state[f"{name}/{part}"].clone() for part in parts))


def scaled(values: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    """Values (..., S) less their mean, in standard deviations, clipped."""
    mean, factor = scale
    return ((values - mean) * factor).clamp_(-MAX_SCALED, MAX_SCALED)
