"""Imitation of the teacher by the student, in the states that the student visits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.core.machine.parallel import ALONE, Group
from metarl.core.rollout import Metrics
from metarl.learners.ppo_passes import split, take_step
from metarl.learners.split_gradient import Gradient, split_gradient
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.learners.teacher_student.networks import TeacherStudentNetwork
from metarl.networks.distributions import Distribution
from metarl.sampling.sequences import Sequences


@dataclass(frozen=True)
class Lessons:
    """M trials of up to L steps that the student acted in, with what the teacher does there.

    Attributes:
        inputs: Of the memory (L, M, S + A + 2).
        obs: Scaled (L, M, S).
        valid: (L, M) the step counts.
        latent: The teacher's numbers (L, M, Z).
        output: Of the teacher's actor (L, M, A).
    """

    inputs: Tensor
    obs: Tensor
    valid: Tensor
    latent: Tensor
    output: Tensor


class Imitation:
    """Trains the student to guess the teacher's latent numbers, and to act like the teacher.

    Args:
        network: The networks.
        distribution: Over actions.
        adam: Of the student's own parameters.
        config: Settings.
        group: Processes that divide the trials of every minibatch.
    """

    def __init__(
        self,
        network: TeacherStudentNetwork,
        distribution: Distribution,
        adam: torch.optim.Optimizer,
        config: TeacherStudentConfig,
        group: Group = ALONE,
    ):
        self._network, self._distribution, self._adam = network, distribution, adam
        self._config, self._group = config, group

    @torch.no_grad()
    def prepare(self, steps: Sequences, inputs: Tensor, latent: Tensor) -> Lessons:
        """Computes what the teacher does in the student's trials.

        Args:
            steps: The trials.
            inputs: Of the memory (L, M, S + A + 2).
            latent: The teacher's numbers of each task (N, Z).
        """
        length, rows, size = steps.obs.shape
        obs = inputs[..., :size]
        latent = latent.repeat_interleave(rows // len(latent), dim=0).expand(length, -1, -1)
        return Lessons(inputs, obs, steps.valid, latent, self._network.output(obs, latent))

    def train(self, lessons: Lessons, orders: Iterable[np.ndarray]) -> Metrics:
        """Makes a pass for each order (M,) of the trials, in minibatches, back through time.

        Raises:
            FloatingPointError: A gradient is not finite.
        """
        config, totals, count = self._config, np.zeros(2), 0
        numbers = lessons.valid.sum(dim=0).cpu()  # of each trial's steps

        def count_steps(rows: Tensor) -> int:
            return int(numbers[rows.cpu()].sum())

        for order in orders:
            for part in split(order, config.minibatches, count_steps):
                gradient, means = split_gradient(
                    lambda rows: self._differentiate(lessons, rows),
                    count_steps,
                    part.to(lessons.obs.device, non_blocking=True),
                    self._group,
                )
                take_step(self._adam, gradient, config.max_gradient)
                totals += means.tolist()
                count += 1
        kl, error = totals / count
        return {"kl": kl, "update/latent_error": error}

    def _differentiate(self, lessons: Lessons, rows: Tensor) -> tuple[Gradient, Tensor]:
        """Returns the gradient of the loss on rows (B,), and the means of its two parts (2,)."""
        network, valid = self._network, lessons.valid[:, rows]
        latent = network.guess(network.memory.unroll(lessons.inputs[:, rows]))
        params, output = network.distribution_params(), lessons.output[:, rows]
        kl = self._distribution.kl_divergence(
            params, output, params, network.output(lessons.obs[:, rows], latent)
        )[valid].mean()
        error = (latent - lessons.latent[:, rows]).square().mean(dim=-1)[valid].mean()
        loss = kl + self._config.latent_weight * error
        parameters = self._adam.param_groups[0]["params"]
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
        return gradient, torch.stack([kl.detach(), error.detach()])
