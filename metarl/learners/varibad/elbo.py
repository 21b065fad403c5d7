"""The evidence lower bound that trains encoder and decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.core.machine.parallel import ALONE, Group, map_in_group
from metarl.functional.gaussian import kl_divergence
from metarl.functional.running_moments import Moments, normalize
from metarl.learners.varibad.config import VaribadConfig
from metarl.learners.varibad.networks import VaribadNetwork, read_belief
from metarl.learners.varibad.trial_buffer import TrialBuffer

SHARD_TRIALS = 10
"""Trials whose ELBO a thread computes at once on a CPU."""


@dataclass(frozen=True)
class ElboBatch:
    """B trials with the steps whose beliefs are decoded, and those that they predict.

    Attributes:
        inputs: Of the memory (L, B, S + A + 2).
        steps: Scaled obs, action and scaled next obs (B, L, 2 S + A).
        reward: (B, L) [standard deviations].
        acted: (B, L), a prefix.
        valid: (B, L) the step has a reward.
        sampled: Steps of the decoded beliefs (B, J).
        decoded: Steps that each of them predicts (B, I).
        noise: Standard normal (B, J, Z).
    """

    inputs: Tensor
    steps: Tensor
    reward: Tensor
    acted: Tensor
    valid: Tensor
    sampled: Tensor
    decoded: Tensor
    noise: Tensor

    def rows(self, own: slice) -> ElboBatch:
        """Returns some of the trials, as views."""
        rest = {name: value[own] for name, value in vars(self).items() if name != "inputs"}
        return ElboBatch(inputs=self.inputs[:, own], **rest)


def draw_batch(
    trials: TrialBuffer,
    obs_moments: Moments,
    reward_moments: Moments,
    config: VaribadConfig,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
) -> ElboBatch:
    """Draws the steps and the noise of an estimate of the ELBO of some trials.

    Args:
        trials: B trials, none of them empty, on the CPU.
        obs_moments: Of the observations.
        reward_moments: Of the rewards.
        config: Settings.
        rng: The stream.
        device: Of the batch.
    """
    sampled = draw_steps(rng, trials.lengths, config.elbo_steps)
    decoded = draw_steps(rng, trials.lengths, config.decoded_steps)
    shape = *sampled.shape, config.latent_size
    noise = torch.from_numpy(rng.standard_normal(shape, np.float32))
    trials, scale = trials.to(device), obs_moments.scale(device)
    obs, later = normalize(trials.obs, scale), normalize(trials.next_obs, scale)
    return ElboBatch(
        inputs=torch.cat([obs.transpose(0, 1), trials.previous()], dim=-1),
        steps=torch.cat([obs, trials.action, later], dim=-1),
        reward=normalize(trials.reward.unsqueeze(-1), reward_moments.scale(device)).squeeze(-1),
        acted=trials.acted,
        valid=trials.valid,
        sampled=sampled.to(device, non_blocking=True),
        decoded=decoded.to(device, non_blocking=True),
        noise=noise.to(device, non_blocking=True),
    )


def draw_steps(rng: np.random.Generator, lengths: Tensor, number: int) -> Tensor:
    """Draws steps of every trial, one from each of `number` intervals of equal length.

    Each step of a trial is drawn equally often, so that a mean over the drawn ones estimates the
    mean over all.

    Args:
        rng: The stream.
        lengths: Steps of each trial (B,), >= 1.
        number: Steps of each trial; 0, or a number from the longest trial on, takes all of them.

    Returns:
        (B, number), on the CPU; if all are taken (B, L), with steps behind the end of a trial.
    """
    known = lengths.cpu().numpy()[:, None]
    if number == 0 or number >= known.max():
        return torch.arange(int(known.max())).expand(len(known), -1)
    places = (np.arange(number) + rng.random((len(known), number))) / number
    return torch.from_numpy(np.minimum((places * known).astype(np.int64), known - 1))


def kl_to_previous(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Returns the divergence of every belief from the previous one, the first one's from N(0, 1).

        KL(q_t || q_{t-1}), q_{-1} = N(0, 1)

    Args:
        mean: Of the beliefs, time first (L, B, Z).
        log_variance: (L, B, Z).

    Returns:
        (L, B) [nats], summed over the Z numbers.
    """
    before = torch.cat([torch.zeros_like(mean[:1]), mean[:-1]])
    before_log = torch.cat([torch.zeros_like(mean[:1]), log_variance[:-1]])
    return kl_divergence(mean, 0.5 * log_variance, before, 0.5 * before_log)


def elbo_loss(
    network: VaribadNetwork, batch: ElboBatch, config: VaribadConfig
) -> tuple[Tensor, Tensor]:
    """Returns the mean negative ELBO of a step.

    For a trial of n valid steps, with a belief q_t at each of its steps t,

        loss = mean over t of [ 1/n sum_i e(t, i) + w/n KL(q_t || q_{t-1}) ]
        e(t, i) = 1/2 (r_i - R(z_t, s_i, a_i, s_{i+1}))^2 + v 1/2 |s_{i+1} - F(z_t, s_i, a_i)|^2 / S

    with z_t drawn from q_t, i over past and future steps, R and F the decoders. Means over t and i
    are estimated from the steps of the batch. This is the sum over a trial in VariBAD, divided by
    n, with scaled rewards and observations.

    Args:
        network: The networks.
        batch: B trials.
        config: Settings: w = kl_weight, v = transition_weight.

    Returns:
        The sum over the trials (), and the sums of reward error, transition error and the mean KL
        divergence of a step [nats] (3,), float64.

    Source: Zintgraf et al. 2020 (arXiv:1910.08348), equations 8 and 9.
    """
    mean, log_variance = read_belief(network, network.memory.unroll(batch.inputs))
    divergence = kl_to_previous(mean, log_variance).T
    length = batch.acted.sum(dim=1)
    divergence = torch.where(batch.acted, divergence, 0.0).sum(dim=1) / length
    index = batch.sampled.T.unsqueeze(-1).expand(-1, -1, mean.shape[-1])
    deviation = (0.5 * log_variance.gather(0, index)).exp()
    latent = (mean.gather(0, index) + deviation * batch.noise.transpose(0, 1)).transpose(0, 1)
    steps = _gather(batch.steps, batch.decoded)
    weight = batch.acted.gather(1, batch.sampled).unsqueeze(2)
    weight = weight & batch.valid.gather(1, batch.decoded).unsqueeze(1)
    total = weight.sum(dim=(1, 2)).clamp(min=1)

    def average(errors: Tensor) -> Tensor:
        return torch.where(weight, errors, 0.0).sum(dim=(1, 2)) / total

    target = batch.reward.gather(1, batch.decoded).unsqueeze(1)
    error = average(0.5 * (network.rewards(latent, steps).squeeze(-1) - target).square())
    loss = error + config.kl_weight * divergence / batch.valid.sum(dim=1).clamp(min=1)
    other = torch.zeros_like(error)
    if network.transitions is not None:
        size = network.transitions.output.out_features
        known, after = steps[..., :-size], steps[..., -size:].unsqueeze(1)
        found = network.transitions(latent, known)
        other = average(0.5 * (found - after).square().mean(dim=-1))
        loss = loss + config.transition_weight * other
    parts = torch.stack([each.sum() for each in (error, other, divergence)])
    return loss.sum(), parts.detach().double()


def elbo_gradient(
    network: VaribadNetwork,
    batch: ElboBatch,
    config: VaribadConfig,
    num_threads: int,
    group: Group = ALONE,
) -> tuple[list[Tensor], Tensor]:
    """Returns the gradient of the mean loss of the trials, and means of what `elbo_loss` returns.

    The trials are computed in shards, which the processes of a group divide among themselves, and
    summed in order. On a CPU the shards depend neither on threads nor on processes.
    """
    parameters, number = network.encoder_parameters(), len(batch.reward)
    on_cpu = batch.reward.device.type == "cpu"
    count = -(-number // SHARD_TRIALS) if on_cpu else min(group.size, number)

    def differentiate(own: slice) -> tuple[Sequence[Tensor], Tensor]:
        loss, parts = elbo_loss(network, batch.rows(own), config)
        return torch.autograd.grad(loss / number, parameters), parts / number

    cuts = [number * i // count for i in range(count + 1)]
    slices = [slice(*cut) for cut in zip(cuts, cuts[1:], strict=False)]
    gradients, parts = zip(*map_in_group(differentiate, slices, num_threads, group), strict=True)
    summed = [torch.stack(each).sum(dim=0) for each in zip(*gradients, strict=True)]
    return summed, torch.stack(parts).sum(dim=0)


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """Returns the values (B, L, X) at the steps index (B, I)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
