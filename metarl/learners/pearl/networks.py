"""The networks of PEARL as functions of their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from metarl.core.rollout import Params
from metarl.learners.pearl import squashed_gaussian
from metarl.learners.pearl.config import PearlConfig
from metarl.learners.pearl.posterior import Posterior
from metarl.networks.layers import linear
from metarl.sampling.replay_buffer import Transitions

MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0
"""Bounds on the log of the action noise before the squashing (Haarnoja et al. 2018)."""

CRITICS = "critic0", "critic1"
"""Names of the critics."""

DECODER = "decoder"
"""Name of the network that predicts rewards."""


@dataclass(frozen=True)
class Networks:
    """Encoder, actor, critics and perhaps a decoder as functions.

    Parameters are "NETWORK/LAYER/weight" (O, I) and "NETWORK/LAYER/bias" (O,).

    Attributes:
        config: Sizes and scales.
        obs_size: S.
        action_size: A.
    """

    config: PearlConfig
    obs_size: int
    action_size: int

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Returns the widths of the layers of each network, inputs first."""
        config, obs, action = self.config, self.obs_size, self.action_size
        features = obs + action + 1 + (obs if config.encode_next_obs else 0)
        critic = obs + action + config.latent_size, *config.hidden_sizes, 1
        decoder = features - 1 + config.latent_size, *config.encoder_sizes, 1
        return {
            **({DECODER: decoder} if config.decoder_weight else {}),
            "encoder": (features, *config.encoder_sizes, 2 * config.latent_size),
            "actor": (obs + config.latent_size, *config.hidden_sizes, 2 * action),
            **{name: critic for name in CRITICS},
        }

    def initial(self, rng: np.random.Generator) -> Params:
        """Draws weights uniformly in +-1 / sqrt(I), as torch does; biases are zero."""
        params: Params = {}
        for name, sizes in self.sizes().items():
            for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
                drawn = rng.uniform(-1.0, 1.0, (outputs, inputs)) / math.sqrt(inputs)
                params[f"{name}/{i}/weight"] = torch.from_numpy(drawn).float()
                params[f"{name}/{i}/bias"] = torch.zeros(outputs)
        return params

    def run(self, params: Mapping[str, Tensor], name: str, inputs: Tensor) -> Tensor:
        """Maps inputs (..., I) to the outputs (..., O) of a network."""
        last = len(self.sizes()[name]) - 2
        for i in range(last + 1):
            own = params[f"{name}/{i}/weight"], params[f"{name}/{i}/bias"]
            inputs = linear(inputs, *own)
            if i < last:
                inputs = functional.relu(inputs)
        return inputs

    def observe(
        self,
        params: Mapping[str, Tensor],
        posterior: Posterior,
        steps: Transitions,
        valid: Tensor | None = None,
    ) -> Posterior:
        """Returns the posterior after transitions (N, C); only those of the mask (N, C) count."""
        obs, action, *after = self._transition_inputs(steps)
        reward = steps.reward.unsqueeze(-1) * self.config.reward_scale
        read = torch.cat([obs, action, reward, *after], dim=-1)
        mean, raw = self.run(params, "encoder", read).chunk(2, dim=-1)
        return posterior.observe(mean, functional.softplus(raw), valid)

    def predict_rewards(
        self, params: Mapping[str, Tensor], steps: Transitions, latent: Tensor
    ) -> Tensor:
        """Maps transitions (N, C) and z (N, C, Z) to expected rewards (N, C), standardised."""
        read = torch.cat([*self._transition_inputs(steps), latent], dim=-1)
        return self.run(params, DECODER, read).squeeze(-1)

    def _transition_inputs(self, steps: Transitions) -> list[Tensor]:
        """Returns what encoder and decoder read of transitions beside the reward."""
        inputs = [steps.obs, steps.action / self.config.action_limit]
        return [*inputs, steps.next_obs] if self.config.encode_next_obs else inputs

    def policy(
        self, params: Mapping[str, Tensor], obs: Tensor, latent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Maps obs (..., S) and z (..., Z) to mean and log-std (..., A) before the squashing."""
        outputs = self.run(params, "actor", torch.cat([obs, latent], dim=-1))
        mean, raw = outputs.chunk(2, dim=-1)
        return mean, raw.clamp(MIN_LOG_STD, MAX_LOG_STD)

    def draw(
        self, params: Mapping[str, Tensor], obs: Tensor, latent: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draws scaled actions (..., A) in (-1, 1); returns them and log-densities (..., A)."""
        return squashed_gaussian.sample(*self.policy(params, obs, latent), noise)

    def values(self, params: Mapping[str, Tensor], *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps obs (..., S), scaled actions (..., A) and z (..., Z) to both critics' values."""
        joined = torch.cat(inputs, dim=-1)
        one, other = (self.run(params, name, joined).squeeze(-1) for name in CRITICS)
        return one, other
