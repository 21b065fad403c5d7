"""The networks of VariBAD."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from metarl.core.rollout import Params
from metarl.learners.varibad.config import VaribadConfig
from metarl.networks.actor_critic import Architecture, draw_parameters
from metarl.networks.distributions import Distribution
from metarl.networks.layers import Linear, Tanh
from metarl.networks.memories.memory import Memory

POLICY = ("actor.", "critic.")
"""Beginnings of the names of PPO's parameters, beside those of the distribution."""


class Decoder(nn.Module):
    """Predicts something of every step of a trial from every sample of a latent task.

    Sample and step enter the first layer as a sum, so each is multiplied by its matrix once, and
    not once for each pair.

    Args:
        latent_size: Z.
        step_size: X, numbers that describe a step.
        hidden_size: Units of the first tanh layer; the second has half as many.
        output_size: O.
    """

    def __init__(self, latent_size: int, step_size: int, hidden_size: int, output_size: int):
        super().__init__()
        half = max(1, hidden_size // 2)
        self.from_latent = Linear(latent_size, hidden_size)
        self.from_step = Linear(step_size, hidden_size, bias=False)
        self.rest = nn.Sequential(Tanh(), Linear(hidden_size, half), Tanh())
        self.output = Linear(half, output_size)

    def forward(self, latent: Tensor, steps: Tensor) -> Tensor:
        """Maps latent (B, J, Z) and steps (B, I, X) of B trials to predictions (B, J, I, O)."""
        hidden = self.from_latent(latent).unsqueeze(2) + self.from_step(steps).unsqueeze(1)
        return self.output(self.rest(hidden))


class VaribadNetwork(nn.Module):
    """An encoder of trials, decoders of their steps, and an actor and a critic that read a belief.

    Args:
        config: Sizes.
        distribution: Over actions, given the actor's output.
        obs_size: S.
        action_size: A.
    """

    def __init__(
        self, config: VaribadConfig, distribution: Distribution, obs_size: int, action_size: int
    ):
        super().__init__()
        latent, hidden, units = config.latent_size, config.hidden_size, config.decoder_size
        architecture = Architecture(config.memory, config.memory_size, hidden)
        self.memory: Memory = architecture.build_memory(obs_size + action_size + 2)
        self.belief = Linear(config.memory_size, 2 * latent)
        self.actor = _network(obs_size + 2 * latent, hidden, action_size)
        self.critic = _network(obs_size + 2 * latent, hidden, 1)
        self.rewards = Decoder(latent, 2 * obs_size + action_size, units, 1)
        self.transitions: Decoder | None = None
        if config.transition_weight:
            self.transitions = Decoder(latent, obs_size + action_size, units, obs_size)
        for name, value in distribution.initial(action_size).items():
            self.register_parameter(name, nn.Parameter(value))

    def initialise(self, rng: np.random.Generator) -> None:
        """Draws the first parameters, see `draw_parameters`."""
        draw_parameters(self, self.memory, rng, last="actor.4.weight")

    def output(self, inputs: Tensor) -> Tensor:
        """Maps scaled obs and belief (..., S + 2 Z) to the distribution's inputs (..., A)."""
        return self.actor(inputs)

    def value(self, inputs: Tensor) -> Tensor:
        """Maps scaled obs and belief (..., S + 2 Z) to scaled values (...)."""
        return self.critic(inputs).squeeze(-1)

    def heads(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps scaled obs and belief (..., S + 2 Z) to output (..., A) and scaled value (...)."""
        return self.output(inputs), self.value(inputs)

    def policy_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that PPO trains."""
        own = self.distribution_params()
        named = self.named_parameters()
        return [value for name, value in named if name.startswith(POLICY) or name in own]

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that the ELBO trains: those of encoder and decoders."""
        own = self.distribution_params()
        named = self.named_parameters()
        return [v for name, v in named if not name.startswith(POLICY) and name not in own]

    def distribution_params(self) -> Params:
        """Returns the distribution's own parameters, by name: the only ones of no submodule."""
        return dict(self.named_parameters(recurse=False))


def read_belief(network: VaribadNetwork, features: Tensor) -> tuple[Tensor, Tensor]:
    """Maps the memory's features (..., H) to mean and log-variance of the task (..., Z)."""
    mean, log_variance = network.belief(features).chunk(2, dim=-1)
    return mean, log_variance


def policy_inputs(obs: Tensor, belief: Tensor) -> Tensor:
    """Joins scaled obs (..., S) and a belief (..., 2 Z), through which no gradient goes back."""
    return torch.cat([obs, belief.detach()], dim=-1)


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers = Linear(inputs, hidden), Tanh(), Linear(hidden, hidden), Tanh()
    return nn.Sequential(*layers, Linear(hidden, outputs))
