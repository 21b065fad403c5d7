"""PPO on single steps of a policy that reads numbers about the task, as a teacher does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.core.machine.parallel import ALONE, Group
from metarl.core.rollout import Metrics, Params, Rollout
from metarl.functional.advantages import explained_variance, gae, standardise
from metarl.functional.ppo import check_ratio
from metarl.functional.running_moments import Moments, normalize
from metarl.learners.ppo_passes import Steps, make_passes, ppo_loss, take_step
from metarl.learners.ppo_settings import PpoSettings
from metarl.learners.split_gradient import Gradient, split_gradient
from metarl.networks.distributions import Distribution, clamp_, own_metrics


class ConditionedNetwork(Protocol):
    """An actor and a critic that read a scaled observation and Z latent numbers."""

    def output(self, obs: Tensor, latent: Tensor) -> Tensor:
        """Maps obs (..., S) and latent (..., Z) to the distribution's inputs (..., A)."""

    def value(self, obs: Tensor, latent: Tensor) -> Tensor:
        """Maps obs (..., S) and latent (..., Z) to scaled values (...)."""

    def distribution_params(self) -> Params:
        """Returns the distribution's own parameters, by name."""


class EncodingNetwork(ConditionedNetwork, Protocol):
    """One that computes the latent numbers itself."""

    @property
    def encoder(self) -> Callable[[Tensor], Tensor]:
        """Maps what is known of the task (..., C) to latent numbers (..., Z)."""


def descend(adam: torch.optim.Optimizer, loss: Tensor, max_gradient: float) -> Tensor:
    """Takes a step down the gradient of a loss; returns the norm of the gradient.

    Raises:
        FloatingPointError: The gradient is not finite.
    """
    parameters = adam.param_groups[0]["params"]
    gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
    return take_step(adam, gradient, max_gradient)


Select = Callable[[Tensor], tuple[Steps, Tensor]]
"""Maps a minibatch of rows (B,) to its P steps and their latent numbers (P, Z), differentiable."""


class Ppo:
    """Makes passes of PPO over an actor and a critic that read latent numbers.

    Args:
        network: The networks.
        distribution: Over actions.
        adam: Of the parameters that learn.
        config: Settings.
        group: Processes that divide the rows of every minibatch.
    """

    def __init__(
        self,
        network: ConditionedNetwork,
        distribution: Distribution,
        adam: torch.optim.Optimizer,
        config: PpoSettings,
        group: Group = ALONE,
    ):
        self._network, self._distribution = network, distribution
        self._adam, self._config, self._group = adam, config, group

    def train(
        self,
        orders: Iterable[np.ndarray],
        select: Select,
        count: Callable[[Tensor], int] = len,
    ) -> Metrics:
        """Makes a pass for each order of the rows, in minibatches.

        Args:
            orders: Of the rows.
            select: Chooses the steps of rows.
            count: Returns the number of the steps of rows (B,); by default one each.
        """
        own = self._adam, self._config, count
        return make_passes(orders, lambda rows: self._step(rows, select, count), *own)

    def _step(self, rows: Tensor, select: Select, count: Callable[[Tensor], int]) -> Tensor:
        """Takes a step of Adam; returns KL, clipped share, both losses and the gradient's norm."""
        config, network = self._config, self._network
        parameters, params = self._adam.param_groups[0]["params"], network.distribution_params()

        def differentiate(rows: Tensor) -> tuple[Gradient, Tensor]:
            own, latent = select(rows)
            output, value = network.output(own.obs, latent), network.value(own.obs, latent)
            shared = self._distribution, params, config
            loss, found = ppo_loss(own, output, value, len(value), *shared)
            return torch.autograd.grad(loss, parameters, allow_unused=True), found

        gradient, found = split_gradient(differentiate, count, rows, self._group)
        norm = take_step(self._adam, gradient, config.max_gradient)
        clamp_(self._distribution, params)
        return torch.cat([found, norm.double().unsqueeze(0)])


class ConditionedPpo:
    """Trains an actor and a critic together with the encoder of what they know of the task.

    Args:
        network: The networks.
        distribution: Over actions.
        adam: Of the parameters that learn.
        config: Settings.
        group: Processes that divide the steps of every minibatch.
    """

    def __init__(
        self,
        network: EncodingNetwork,
        distribution: Distribution,
        adam: torch.optim.Optimizer,
        config: PpoSettings,
        group: Group = ALONE,
    ):
        self._network, self._distribution, self._config = network, distribution, config
        self._ppo = Ppo(network, distribution, adam, config, group)

    @torch.no_grad()
    def check(
        self, rollouts: Sequence[Rollout], codes: Sequence[Tensor], moments: Moments
    ) -> Metrics:
        """Returns the error of the recomputed log-probabilities, and the policy's own numbers.

        See `batch`, `check_ratio` and `own_metrics`.
        """
        params, worst = self._network.distribution_params(), 0.0
        scale = moments.scale(codes[0].device)
        for rollout, code in zip(rollouts, codes, strict=True):
            latent = self._network.encoder(code).unsqueeze(2)
            obs = normalize(rollout.obs, scale)
            output = self._network.output(obs, latent.expand(*obs.shape[:3], -1))
            log_prob = self._distribution.log_prob(params, output, rollout.action)
            rounding = self._distribution.log_prob_rounding(params, output, rollout.action)
            error = check_ratio(log_prob - rollout.log_prob, rounding, rollout.valid)
            worst = max(worst, error)
        return {"update/ratio_error": worst, **own_metrics(self._distribution, params)}

    @torch.no_grad()
    def batch(
        self,
        rollouts: Sequence[Rollout],
        codes: Sequence[Tensor],
        obs_moments: Moments,
        value_moments: Moments,
    ) -> tuple[Steps, Tensor, Moments, float]:
        """Collects the valid steps of all rollouts.

        After an episode that reaches the horizon comes the value of its last observation, after one
        that the task ends nothing.

        Args:
            rollouts: On the device.
            codes: For each of them, the encoder's inputs (N, E, C) of its episodes, or (N, 1, C).
            obs_moments: Of the observations.
            value_moments: Of the returns.

        Returns:
            The steps, the encoder's inputs (P, C) in them, the new moments of the returns, and the
            share of the variance of the returns that the value explains.
        """
        device = codes[0].device
        scale, (mean, factor) = obs_moments.scale(device), value_moments.scale(device)

        def values(obs: Tensor, latent: Tensor) -> Tensor:
            scaled = self._network.value(obs, latent.expand(*obs.shape[:3], -1))
            return scaled / factor + mean

        parts, estimates = [], []
        for rollout, code in zip(rollouts, codes, strict=True):
            latent = self._network.encoder(code).unsqueeze(2)
            obs = normalize(rollout.obs, scale)
            value = values(obs, latent)
            after = values(normalize(rollout.last_obs, scale).unsqueeze(2), latent).squeeze(2)
            after = torch.where(rollout.terminated, 0.0, after)
            settings = self._config.discount, self._config.gae_lambda
            advantage = gae(rollout.reward, value, after, rollout.valid, *settings)
            estimates.append((value, advantage))
            inputs = code.unsqueeze(2).expand(*rollout.valid.shape, -1)
            own = (obs, inputs, rollout.action, rollout.log_prob, advantage, advantage + value)
            parts.append([each[rollout.valid] for each in own])
        obs, inputs, *rest, advantage, target = map(torch.cat, zip(*parts, strict=True))
        explained = explained_variance(target, target - advantage)
        merged = value_moments.merge(target.cpu().unsqueeze(-1))
        mean, factor = merged.scale(device)
        whole = torch.ones_like(advantage, dtype=torch.bool)
        shaped = standardise(advantage[None, None], whole[None, None])[0, 0]
        batch = Steps(obs, *rest, shaped, (target - mean) * factor)
        return batch, inputs, merged, explained

    def train(self, batch: Steps, code: Tensor, orders: Iterable[np.ndarray]) -> Metrics:
        """Makes a pass of PPO for each order (P,) of the steps, with inputs code (P, C)."""

        def select(rows: Tensor) -> tuple[Steps, Tensor]:
            rows = rows.to(code.device, non_blocking=True)
            return batch.rows(rows), self._network.encoder(code[rows])

        return self._ppo.train(orders, select)
