"""The return of an episode as a function of the latent that it was played with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.rollout import Params, Rollout
from metarl.functional import gaussian_process
from metarl.functional.gaussian_process import Posterior

JITTER = 1e-6
"""Variance that keeps matrices positive definite in float64, in units of the returns' variance."""

UNKNOWN = 1e6
"""Variance of the noise of an episode whose simulation failed, in the same units."""


@dataclass(frozen=True)
class Trials:
    """Episodes of N tasks.

    Attributes:
        latent: With which each was played (N, M, C), float64.
        result: Its return (N, M), float64.
        noise: Variance of the noise beside that of the kernel (N, M) [variances of returns].
    """

    latent: Tensor
    result: Tensor
    noise: Tensor

    @staticmethod
    def empty(num_tasks: int, latent_size: int) -> Trials:
        """Returns no episode of N tasks."""
        none = torch.zeros(num_tasks, 0, dtype=torch.float64)
        return Trials(none.unsqueeze(-1).expand(-1, -1, latent_size), none, none)

    def append(self, latent: Tensor, rollout: Rollout) -> Trials:
        """Returns the episodes with those of a rollout, played with latents (N, E, C)."""
        noise = JITTER + UNKNOWN * rollout.truncated.double()
        parts = latent.double(), rollout.returns(), noise
        own = self.latent, self.result, self.noise
        return Trials(*(torch.cat(pair, dim=1) for pair in zip(own, parts, strict=True)))


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation () of returns, float64, in which the process has its units."""

    mean: Tensor
    deviation: Tensor

    @staticmethod
    def of(trials: Trials) -> Scale:
        """Returns the scale of the episodes whose return is known, or 0 and 1 without any."""
        known = trials.result[trials.noise < UNKNOWN]
        if not len(known):
            return Scale(torch.zeros(()).double(), torch.ones(()).double())
        deviation = known.std(correction=0)
        floor = 1e-6 * known.abs().max().clamp(min=1.0)
        return Scale(known.mean(), torch.where(deviation > floor, deviation, 1.0))

    def targets(self, trials: Trials) -> Tensor:
        """Returns the scaled returns (N, M)."""
        return (trials.result - self.mean) / self.deviation


def predict(kernel: Params, scale: Scale, trials: Trials, candidates: Tensor) -> Posterior:
    """Returns the posterior of the scaled return at candidates (Q, C) in every task."""
    own = {name: value.detach().double() for name, value in kernel.items()}
    queries = candidates.double().expand(len(trials.latent), -1, -1)
    known = trials.latent, scale.targets(trials)
    return gaussian_process.posterior(own, *known, queries, trials.noise)


def choose_mean(found: Posterior, num_episodes: int) -> Tensor:
    """Returns the index (N, E) of the candidate with the largest mean, for every episode."""
    return found.mean.argmax(dim=1, keepdim=True).expand(-1, num_episodes)


def choose_sample(found: Posterior, noise: Tensor) -> Tensor:
    """Returns the index (N, E) of the largest value of functions drawn with noise (N, E, Q).

    Source: Thompson 1933, On the likelihood that one unknown probability exceeds another.
    """
    return found.sample(noise, JITTER).argmax(dim=2)


def likelihood_loss(kernel: Params, scale: Scale, trials: Trials) -> Tensor:
    """Returns minus the mean log-density [nats] of an episode's scaled return."""
    own = {name: value.double() for name, value in kernel.items()}
    known = trials.latent, scale.targets(trials), trials.noise
    found = gaussian_process.log_likelihood(own, *known)
    return -found.mean() / trials.result.shape[1]
