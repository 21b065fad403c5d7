"""Running means and variances of observations and returns, as immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

MAX_SCALED = 10.0
"""Bound on the absolute value of normalized values [standard deviations]."""

MIN_STD = 1e-2
"""Lower bound on the divisor: an almost constant value must not become noise of size one."""


@dataclass(frozen=True)
class Moments:
    """Mean and variance of all vectors so far.

    A learner changes them between iterations only. A policy whose inputs are scaled differently
    when acting and when learning is another policy, with a wrong probability ratio.

    Attributes:
        count: Number of vectors (), float64.
        mean: (S,), float64.
        variance: (S,), float64.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    @staticmethod
    def initial(size: int) -> Moments:
        """Returns the moments before the first vector: mean 0, variance 1."""
        count, mean = (torch.zeros(shape, dtype=torch.float64) for shape in ((), (size,)))
        return Moments(count, mean, torch.ones(size, dtype=torch.float64))

    def merge(self, values: Tensor) -> Moments:
        """Returns the moments with L more vectors (L, S); the same for an empty batch.

        Source: Chan et al. 1979, Updating formulae and a pairwise algorithm for computing sample
        variances.
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
        """Returns the mean and the reciprocal standard deviation (S,), float32."""
        factor = self.variance.sqrt().clamp(min=MIN_STD).reciprocal()
        parts = self.mean.float(), factor.float()
        return parts[0].to(device, non_blocking=True), parts[1].to(device, non_blocking=True)

    def state(self, name: str) -> dict[str, Tensor]:
        """Returns the moments as entries `name/...` of a state_dict."""
        return {f"{name}/{part}": value.clone() for part, value in vars(self).items()}

    @staticmethod
    def of(state: Mapping[str, Tensor], name: str) -> Moments:
        """Reads the entries of `state` back."""
        parts = (f.name for f in fields(Moments))
        return Moments(*(state[f"{name}/{part}"].clone() for part in parts))


def normalize(values: Tensor, scale: tuple[Tensor, Tensor] | None) -> Tensor:
    """Returns values (..., S) minus the mean [standard deviations], clipped to MAX_SCALED.

    Args:
        values: (..., S).
        scale: From `Moments.scale`, on any device; None returns the values as they are.
    """
    if scale is None:
        return values
    mean, factor = (part.to(values.device, non_blocking=True) for part in scale)
    return ((values - mean) * factor).clamp_(-MAX_SCALED, MAX_SCALED)
