"""Guesses of a task: products of Gaussians, one for each transition, and the prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """Distribution q(z) of N tasks: the product of a standard normal prior and of Gaussian factors.

        q(z | c) = N(z; 0, 1) prod_n N(z; mean_n, 1 / precision_n), normalised

    Precisions add up, and so do products of mean and precision. So the order of the transitions
    does not matter, and the posterior after an episode is the prior of the next one.

    Attributes:
        precision: (N, Z), at least 1.
        weighted: Mean times precision (N, Z).

    Source: Rakelly et al. 2019 (arXiv:1903.08254), section 4.1. There the prior is not a factor, so
    that a guess without transitions is not defined.
    """

    precision: Tensor
    weighted: Tensor

    @staticmethod
    def prior(num_tasks: int, latent_size: int) -> Posterior:
        """Returns the standard normal distribution."""
        zeros = torch.zeros(num_tasks, latent_size)
        return Posterior(zeros + 1.0, zeros)

    def observe(self, mean: Tensor, precision: Tensor, valid: Tensor | None = None) -> Posterior:
        """Returns the posterior with C more factors.

        Args:
            mean: (N, C, Z).
            precision: (N, C, Z), > 0.
            valid: Factors that count (N, C); None takes all.
        """
        if valid is not None:
            precision = precision * valid.unsqueeze(-1)
            mean = torch.where(valid.unsqueeze(-1), mean, 0.0)
        weighted = self.weighted + (precision * mean).sum(dim=1)
        return Posterior(self.precision + precision.sum(dim=1), weighted)

    def rows(self, start: int, stop: int) -> Posterior:
        """Returns the distributions start..stop, as views."""
        return Posterior(self.precision[start:stop], self.weighted[start:stop])

    @staticmethod
    def join(parts: Sequence[Posterior]) -> Posterior:
        """Returns the distributions of all parts, in order."""
        return Posterior(
            torch.cat([part.precision for part in parts]),
            torch.cat([part.weighted for part in parts]),
        )

    @property
    def mean(self) -> Tensor:
        """(N, Z)."""
        return self.weighted / self.precision

    def sample(self, noise: Tensor) -> Tensor:
        """Maps standard normal noise (N, ..., Z) to latent numbers of this distribution."""
        shape = len(noise), *[1] * (noise.dim() - 2), noise.shape[-1]
        return self.mean.view(shape) + noise * self.precision.rsqrt().view(shape)

    def kl_from_prior(self) -> Tensor:
        """Returns KL(q || N(0, 1)) (N,) [nats].

        sum_z 1/2 (1 / precision + mean^2 - 1 + log precision)
        """
        own = self.precision.reciprocal() + self.mean.square() - 1.0 + self.precision.log()
        return 0.5 * own.sum(dim=-1)
