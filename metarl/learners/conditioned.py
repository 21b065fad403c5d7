"""A policy that reads numbers about the task, and its update by PPO."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metarl.core.rollout import Action, Metrics, Params, Rollout, require_steps
from metarl.functional.running_moments import Moments, normalize
from metarl.learners.ppo_passes import draw_orders
from metarl.learners.ppo_settings import PpoSettings
from metarl.learners.teacher_student.ppo import ConditionedPpo
from metarl.learners.training_state import TrainingState
from metarl.networks.distributions import Distribution, choose
from metarl.networks.layers import Linear, Tanh


class ConditionedActorCritic(nn.Module):
    """Tanh networks for action and value, which read an observation and Z numbers of the task.

    Args:
        distribution: Over actions, given the actor's output.
        obs_size: S.
        action_size: A.
        latent_size: Z.
        hidden_size: Units of each of the two hidden layers.
    """

    def __init__(
        self,
        distribution: Distribution,
        obs_size: int,
        action_size: int,
        latent_size: int,
        hidden_size: int,
    ):
        super().__init__()
        self.encoder = nn.Identity()
        self.actor = build_mlp(obs_size + latent_size, hidden_size, action_size)
        self.critic = build_mlp(obs_size + latent_size, hidden_size, 1)
        for name, value in distribution.initial(action_size).items():
            self.register_parameter(name, nn.Parameter(value))

    def output(self, obs: Tensor, latent: Tensor) -> Tensor:
        """Maps scaled obs (..., S) and latent (..., Z) to the distribution's inputs (..., A)."""
        return self.actor(torch.cat([obs, latent], dim=-1))

    def value(self, obs: Tensor, latent: Tensor) -> Tensor:
        """Maps scaled obs (..., S) and latent (..., Z) to scaled values (...)."""
        return self.critic(torch.cat([obs, latent], dim=-1)).squeeze(-1)

    def distribution_params(self) -> Params:
        """Returns the distribution's own parameters, by name: the only ones of no submodule."""
        return dict(self.named_parameters(recurse=False))


def build_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Builds a network with two hidden tanh layers."""
    layers = Linear(inputs, hidden), Tanh(), Linear(hidden, hidden), Tanh()
    return nn.Sequential(*layers, Linear(hidden, outputs))


def initial_moments(obs_size: int) -> dict[str, Moments]:
    """Returns the running moments that `train_policy` uses."""
    return {"obs": Moments.initial(obs_size), "value": Moments.initial(1)}


def act(
    policy: ConditionedActorCritic,
    distribution: Distribution,
    moments: Moments,
    latent: Tensor,
    obs: Tensor,
    noise: Tensor | None,
) -> Action:
    """Draws actions with noise (N, E, A), or takes the likeliest without noise.

    Args:
        policy: On the CPU.
        distribution: Over actions.
        moments: Of the observations.
        latent: Numbers of the task (N, E, Z).
        obs: (N, E, S).
        noise: Standard normal.
    """
    output = policy.output(normalize(obs, moments.scale()), latent)
    return choose(distribution, policy.distribution_params(), output, noise)


def train_policy(
    state: TrainingState,
    policy: ConditionedActorCritic,
    distribution: Distribution,
    config: PpoSettings,
    rollouts: Sequence[Rollout],
    latents: Sequence[Tensor],
    seed: int,
) -> Metrics:
    """Makes passes of PPO over the valid steps of rollouts, and updates the running moments.

    Args:
        state: With an optimiser "policy" and `initial_moments`.
        policy: Of its network, on the device.
        distribution: Over actions.
        config: Settings.
        rollouts: On the CPU.
        latents: The policy's numbers of the task in each of them (N, E, Z) or (N, 1, Z).
        seed: Of the order of minibatches.

    Raises:
        FloatingPointError: A gradient is not finite, or the recomputed policy is not the one that
            sampled.
        ValueError: No step is valid.
    """
    require_steps(rollouts)
    state.reward_unit = state.reward_unit.measure(rollouts)
    device, moments = latents[0].device, state.moments
    obs = torch.cat([rollout.obs[rollout.valid] for rollout in rollouts])
    own = [rollout.to(device) for rollout in state.reward_unit.scale(rollouts)]
    learner = ConditionedPpo(policy, distribution, state.adams["policy"], config)
    checked = learner.check(own, latents, moments["obs"])
    is_first = not moments["obs"].count
    if is_first:  # an untrained actor hardly reads its inputs, so it may learn at another scale
        moments["obs"] = moments["obs"].merge(obs)
    batch, inputs, moments["value"], explained = learner.batch(
        own, latents, moments["obs"], moments["value"]
    )
    orders = draw_orders(seed, state.updates, len(inputs), config.epochs)
    metrics = learner.train(batch, inputs, orders)
    if not is_first:
        moments["obs"] = moments["obs"].merge(obs)
    return {**metrics, **checked, "baseline/explained": explained}
