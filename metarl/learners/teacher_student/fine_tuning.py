"""PPO on the student, through its memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.core.machine.parallel import ALONE, Group
from metarl.core.rollout import Metrics, Rollout
from metarl.functional.advantages import explained_variance, gae_over_trial, standardise
from metarl.functional.running_moments import Moments, normalize
from metarl.learners.ppo_passes import Steps
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.learners.teacher_student.networks import TeacherStudentNetwork
from metarl.learners.teacher_student.ppo import Ppo
from metarl.learners.trial_memory import check_sampling
from metarl.networks.distributions import Distribution, own_metrics
from metarl.sampling.sequences import Sequences


@dataclass(frozen=True)
class Trials:
    """M trials of up to L steps that the student acted in, with what PPO needs.

    Attributes:
        steps: The trials.
        inputs: Of the memory (L, M, S + A + 2).
        advantage: (L, M) [standard deviations].
        target: Of the value (L, M) [scaled].
    """

    steps: Sequences
    inputs: Tensor
    advantage: Tensor
    target: Tensor


class FineTuning:
    """Trains memory, guess, actor and critic; the critic reads the guess, as the actor does.

    Args:
        network: The networks.
        distribution: Over actions.
        adam: Of all parameters but the encoder's.
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
        self._network, self._distribution, self._config = network, distribution, config
        self._ppo = Ppo(network, distribution, adam, config, group)

    @torch.no_grad()
    def guess(self, inputs: Tensor) -> Tensor:
        """Maps the memory's inputs (L, M, I) to latent numbers (L, M, Z), without gradients."""
        network = self._network
        number = min(self._config.minibatches, inputs.shape[1])  # bounds the memory
        parts = inputs.tensor_split(number, dim=1)
        found = [network.guess(network.memory.unroll(each)) for each in parts]
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def check(self, steps: Sequences, inputs: Tensor, latent: Tensor) -> Metrics:
        """Returns the error of the recomputed log-probabilities, and the policy's own numbers.

        See `check_sampling` and `own_metrics`.
        """
        network, size = self._network, steps.obs.shape[-1]
        params = network.distribution_params()
        error = check_sampling(
            (self._distribution, params),
            steps,
            inputs,
            network.output(inputs[..., :size], latent),
            lambda other: network.output(other[..., :size], self.guess(other)),
        )
        return {"update/ratio_error": error, **own_metrics(self._distribution, params)}

    @torch.no_grad()
    def estimate(
        self,
        rollouts: Sequence[Rollout],
        steps: Sequences,
        inputs: Tensor,
        latent: Tensor,
        obs_moments: Moments,
        value_moments: Moments,
    ) -> tuple[Trials, Moments, float]:
        """Estimates advantages within episodes, as those of the teacher.

        After an episode that reaches the horizon comes the value of its last observation, with the
        guess of its last step; after one that the task ends nothing.

        Args:
            rollouts: K + 1, on the device.
            steps: The same as trials (L, M).
            inputs: Of the memory (L, M, S + A + 2).
            latent: The guesses (L, M, Z).
            obs_moments: Of the observations.
            value_moments: Of the returns.

        Returns:
            The trials, the new moments of the returns, and the share of the variance of the returns
            that the value explains.
        """
        config, network, device = self._config, self._network, inputs.device
        scale, (mean, factor) = obs_moments.scale(device), value_moments.scale(device)
        value = network.value(inputs[..., : steps.obs.shape[-1]], latent) / factor + mean
        reward, ends = steps.reward.clone(), torch.zeros_like(steps.valid)
        columns = torch.arange(value.shape[1], device=device)
        start = torch.zeros_like(columns)
        for rollout in rollouts:
            count = rollout.valid.sum(dim=2).flatten()
            end = start + count + rollout.truncated.flatten()
            obs = normalize(rollout.last_obs.flatten(0, 1), scale)
            after = network.value(obs, latent[end - 1, columns]) / factor + mean
            after = torch.where(rollout.terminated.flatten(), 0.0, after)
            some = count > 0  # a simulation may fail in the first step
            last = (start + count - 1)[some], columns[some]
            reward[last] += config.discount * after[some]
            ends[last], start = True, end
        masks, settings = (steps.valid, steps.acted), (config.discount, config.gae_lambda)
        advantage = gae_over_trial(reward, value, *masks, *settings, ends=ends)
        target = advantage + value
        explained = explained_variance(target[steps.valid], value[steps.valid])
        merged = value_moments.merge(target[steps.valid].cpu().unsqueeze(-1))
        mean, factor = merged.scale(device)
        shaped = standardise(advantage[None], steps.valid[None])[0]
        return Trials(steps, inputs, shaped, (target - mean) * factor), merged, explained

    def train(self, trials: Trials, orders: Iterable[np.ndarray]) -> Metrics:
        """Makes a pass of PPO for each order (M,) of the trials, back through time."""
        steps, network = trials.steps, self._network
        numbers = steps.valid.sum(dim=0).cpu()  # of each trial's steps
        obs = trials.inputs[..., : steps.obs.shape[-1]]

        def select(rows: Tensor) -> tuple[Steps, Tensor]:
            rows = rows.to(obs.device, non_blocking=True)
            mask = steps.valid[:, rows]
            own = obs, steps.action, steps.log_prob, trials.advantage, trials.target
            latent = network.guess(network.memory.unroll(trials.inputs[:, rows]))
            return Steps(*(part[:, rows][mask] for part in own)), latent[mask]

        return self._ppo.train(orders, select, lambda rows: int(numbers[rows.cpu()].sum()))
