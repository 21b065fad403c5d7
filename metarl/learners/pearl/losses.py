"""The losses of soft actor-critic that reads a guess of the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.learners.pearl.networks import Networks
from metarl.learners.pearl.posterior import Posterior
from metarl.sampling.replay_buffer import Transitions

TEMPERATURE = "log_temperature"
"""Name of the logs of the temperatures (A,)."""


@dataclass(frozen=True)
class Batch:
    """Input of a gradient step on B tasks.

    Attributes:
        steps: Transitions (B, C) for actor and critics.
        context: Transitions (B, C') for the encoder.
        recent: (B,) the context trains the encoder.
        latent_noise: Standard normal (B, Z).
        noise: Standard normal (2, B, C, A), for the actions after and before the transitions.
        target_entropy: Of each action dimension [nats].
        valid: Transitions of the context that count (B, C'); None takes all.
        reward_moments: Mean of all rewards in the replay buffer (), and one over their
            deviation (); 0 where they do not differ.
    """

    steps: Transitions
    context: Transitions
    recent: Tensor
    latent_noise: Tensor
    noise: Tensor
    target_entropy: float
    valid: Tensor | None = None
    reward_moments: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Losses:
    """The losses of one gradient step, each with a gradient in its own parameters only.

    Attributes:
        critic: Of critics, encoder and decoder: half the squared errors of both critics, the
            weighted KL and the decoder's weighted error.
        actor: Of the actor.
        temperature: Of the temperatures.
        kl: Mean KL divergence of the guesses from the prior () [nats].
        entropy: Mean entropy of an action dimension () [nats], of actions scaled to (-1, 1).
        value: Mean value of the batch () [scaled rewards].
        error: Mean squared error of a critic () [squared scaled rewards].
        reward: That of the decoder () [variances of the rewards in the buffer]; 0 without one.
    """

    critic: Tensor
    actor: Tensor
    temperature: Tensor
    kl: Tensor
    entropy: Tensor
    value: Tensor
    error: Tensor
    reward: Tensor


def guess(networks: Networks, params: Params, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns z (B, Z) and its KL divergence from the prior (B,).

    Gradients reach the encoder from tasks of `batch.recent` alone, as contexts of old policies
    differ from those that it meets.
    """
    prior = Posterior(*(torch.ones_like(batch.latent_noise) * x for x in (1.0, 0.0)))
    posterior = networks.observe(params, prior, batch.context, batch.valid)
    latent, divergence = posterior.sample(batch.latent_noise), posterior.kl_from_prior()
    is_recent = batch.recent
    return (
        torch.where(is_recent.unsqueeze(-1), latent, latent.detach()),
        torch.where(is_recent, divergence, divergence.detach()),
    )


@torch.no_grad()
def bootstrap(
    networks: Networks, params: Params, target: Mapping[str, Tensor], batch: Batch, latent: Tensor
) -> Tensor:
    """Returns the targets (B, C) of the critics.

        y = c r + gamma (1 - terminal) (min_i Q_i'(s', a', z) - sum_d alpha_d log pi_d(a' | s', z))

    The end of an episode by the horizon, or before a failed simulation, is not terminal.
    """
    config, steps = networks.config, batch.steps
    action, log_prob = networks.draw(params, steps.next_obs, latent, batch.noise[0])
    value = torch.minimum(*networks.values(target, steps.next_obs, action, latent))
    value = value - log_prob @ params[TEMPERATURE].exp()
    later = torch.where(steps.terminal, 0.0, value)
    return config.reward_scale * steps.reward + config.discount * later


def decoder_error(networks: Networks, params: Params, batch: Batch, latent: Tensor) -> Tensor:
    """Returns the decoder's mean squared error of standardised rewards (); 0 without a decoder."""
    if not networks.config.decoder_weight:
        return torch.zeros_like(latent[0, 0, 0])
    mean, factor = batch.reward_moments
    predicted = networks.predict_rewards(params, batch.steps, latent)
    return (predicted - (batch.steps.reward - mean) * factor).square().mean()


def compute(
    networks: Networks, params: Params, target: Mapping[str, Tensor], batch: Batch
) -> Losses:
    """Computes all losses of a gradient step.

        critic       mean 1/2 sum_i (Q_i(s, a, z) - y)^2 + weight mean KL(q(z) || N(0, 1))
                     + decoder's weight mean ((r - m) / d - f(s, a, s', z))^2
        actor        mean sum_d alpha_d log pi_d(a | s, z) - min_i Q_i(s, a, z)
        temperature  mean sum_d -log alpha_d (log pi_d + target entropy)

    Args:
        networks: The networks.
        params: Of all networks, and the logs of the temperatures.
        target: Parameters of the target critics, named as the critics'.
        batch: Tasks and transitions.

    m and d are mean and deviation of the rewards in the replay buffer.

    Source: Rakelly et al. 2019 (arXiv:1903.08254), algorithm 1; Haarnoja et al. 2018
    (arXiv:1812.05905). There one temperature serves the sum over the action dimensions, and there
    is no decoder.
    """
    config, steps = networks.config, batch.steps
    latent, divergence = guess(networks, params, batch)
    size = *steps.reward.shape, -1
    shared = latent.unsqueeze(1).expand(size)
    fixed = shared.detach()
    wanted = bootstrap(networks, params, target, batch, fixed)
    taken = steps.action / config.action_limit
    values = networks.values(params, steps.obs, taken, shared)
    errors = [(value - wanted).square().mean() for value in values]
    kl, decoded = divergence.mean(), decoder_error(networks, params, batch, shared)
    action, log_prob = networks.draw(params, steps.obs, fixed, batch.noise[1])
    frozen = {name: value.detach() for name, value in params.items()}
    judged = torch.minimum(*networks.values(frozen, steps.obs, action, fixed))
    surprise = log_prob.flatten(0, -2).mean(dim=0)  # of each action dimension
    actor = surprise @ frozen[TEMPERATURE].exp() - judged.mean()
    excess = surprise.detach() + batch.target_entropy
    return Losses(
        critic=0.5 * (errors[0] + errors[1])
        + config.kl_weight * kl
        + config.decoder_weight * decoded,
        actor=actor,
        temperature=-(params[TEMPERATURE] * excess).sum(),
        kl=kl.detach(),
        entropy=-surprise.detach().mean(),
        value=values[0].detach().mean(),
        error=errors[0].detach(),
        reward=decoded.detach(),
    )
