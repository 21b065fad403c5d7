"""The context of a trial of PEARL: guesses of the tasks, and the noise of the episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metarl.core.learner import TaskRngs
from metarl.learners.pearl.posterior import Posterior


@dataclass(frozen=True)
class PearlContext:
    """Guesses of the tasks.

    Attributes:
        posterior: q(z) of each task, from all transitions of the rollouts so far.
        noise: Standard normal (N, E, Z), from which each of the present episodes makes its z.
        all_noise: That of the episodes of a rollout (N, L, Z), from which those beyond L start
            again.
        present: q(z) of each present episode (N * E, Z), from its own steps too; None before the
            second of them, and where a guess lasts an episode.
        last: Observation (N, E, S) and action (N, E, A) of the step before; None before the first
            one, and where a guess lasts an episode. Those of ended episodes are never read.
    """

    posterior: Posterior
    noise: Tensor
    all_noise: Tensor
    present: Posterior | None = None
    last: tuple[Tensor, Tensor] | None = None

    def slice_tasks(self, start: int, stop: int) -> PearlContext:
        """Returns the context of the tasks start..stop, as views."""
        number = self.noise.shape[1]
        return PearlContext(
            self.posterior.rows(start, stop),
            self.noise[start:stop],
            self.all_noise[start:stop],
            self.present and self.present.rows(start * number, stop * number),
            self.last and (self.last[0][start:stop], self.last[1][start:stop]),
        )

    @classmethod
    def join(cls, parts: Sequence[PearlContext]) -> PearlContext:
        """Returns the context of all tasks from those of neighbouring slices.

        Where a slice has not acted, the present episodes of all are over.
        """
        joined = PearlContext(
            Posterior.join([part.posterior for part in parts]),
            torch.cat([part.noise for part in parts]),
            torch.cat([part.all_noise for part in parts]),
        )
        lasts = [part.last for part in parts if part.last]
        if len(lasts) < len(parts):
            return joined
        obs, action = (torch.cat(each) for each in zip(*lasts, strict=True))
        present = None
        if any(part.present for part in parts):
            present = Posterior.join([part.present_guesses() for part in parts])
        return replace(joined, present=present, last=(obs, action))

    def read(self, *, explore: bool) -> Tensor:
        """Returns z (N, E, Z) of the present episodes: a sample, or the mean of the guess."""
        noise = self.noise if explore else torch.zeros_like(self.noise)
        if self.present is None:
            return self.posterior.sample(noise)
        return self.present.sample(noise.flatten(0, 1)).view(noise.shape)

    def present_guesses(self) -> Posterior:
        """Returns q(z) of each present episode (N * E, Z)."""
        if self.present is not None:
            return self.present
        number = self.noise.shape[1]
        return Posterior(*(x.repeat_interleave(number, 0) for x in vars(self.posterior).values()))

    def select(self, first: int, num_episodes: int) -> PearlContext:
        """Returns the context for episodes first, first + 1, ... of a rollout, at their start."""
        index = (first + torch.arange(num_episodes)) % self.all_noise.shape[1]
        return replace(self, noise=self.all_noise[:, index], present=None, last=None)


def draw_context(posterior: Posterior, size: tuple[int, int], rngs: TaskRngs) -> PearlContext:
    """Draws noise of size = (E, L) present and all episodes; without streams it is zero.

    The first E rows do not depend on how many follow.
    """
    num_episodes, count = size
    noise = torch.zeros(len(posterior.precision), count, posterior.precision.shape[1])
    for own, rng in zip(noise, rngs, strict=False):
        own.copy_(torch.from_numpy(rng.standard_normal(own.shape, np.float32)))
    return PearlContext(posterior, noise[:, :num_episodes], noise)
