"""Actor and critic on a memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from metarl.functional import categorical, gaussian
from metarl.networks.memory import GruMemory, LstmMemory, Memory
from metarl.networks.transformer import AttentionMemory

MEMORIES = {"gru": GruMemory, "lstm": LstmMemory, "transformer": AttentionMemory}
"""By the name that a config gives."""


class MemoryActorCritic(nn.Module):
    """Memory, and beside it the observation, feed a tanh layer each for the mean action and for the value.

    Args:
        memory: A name of MEMORIES.
        obs_size: S.
        action_size: A.
        memory_size: H.
        hidden_size: Units of the tanh layers.
        log_std: First and least log standard deviation of every action dimension.
        discrete: Actions are one-hot rows of A alternatives, and the mean their logits.
        own_value_memory: The value has a memory of its own, of the same kind and size, else it reads the policy's.
    """

    def __init__(
        self,
        memory: str,
        obs_size: int,
        action_size: int,
        memory_size: int,
        hidden_size: int,
        log_std: tuple[float, float] = (0.0, -3.0),
        discrete: bool = False,
        own_value_memory: bool = False,
    ):
        super().__init__()
        self.discrete, self._min_log_std = discrete, log_std[1]
        input_size = obs_size + action_size + 2
        self.memory: Memory = MEMORIES[memory](input_size, memory_size)
        # one module under two names has its parameters once
        own = MEMORIES[memory](input_size, memory_size) if own_value_memory else self.memory
        self.value_memory: Memory = own
        sizes = memory_size + obs_size, hidden_size
        self.actor = nn.Sequential(
            nn.Linear(*sizes), nn.Tanh(), nn.Linear(hidden_size, action_size)
        )
        self.critic = nn.Sequential(nn.Linear(*sizes), nn.Tanh(), nn.Linear(hidden_size, 1))
        if not discrete:
            self.log_std = nn.Parameter(torch.full((action_size,), float(log_std[0])))

    def initialise(self, rng: np.random.Generator) -> None:
        """Draws every matrix orthogonal, the last one of the actor a hundredth of it; biases are zero.

        Source: Huang et al. 2022, The 37 implementation details of PPO.
        """
        for name, value in self.named_parameters():
            if value.dim() == 2:
                gates = value.shape[0] // self.memory.size if ".weight_" in name else 1
                parts = [_orthogonal(rng, block.shape) for block in value.chunk(gates)]
                gain = 0.01 if name == "actor.2.weight" else 1.0
                value.data.copy_(gain * torch.cat(parts))
            elif name.endswith("bias") or ".bias_" in name:
                value.data.zero_()

    def unroll(self, inputs: Tensor, obs: Tensor, truncation: int = 0) -> tuple[Tensor, Tensor]:
        """Maps inputs (L, M, I) and scaled observations (L, M, S) of whole trials to means (L, M, A) and values (L, M).

        Gradients go back through `truncation` steps, 0 for all of them.
        """
        features = self.memory.unroll(inputs, truncation)
        judged = features
        if self.value_memory is not self.memory:
            judged = self.value_memory.unroll(inputs, truncation)
        return self.mean(features, obs), self.value(judged, obs)

    def mean(self, features: Tensor, obs: Tensor) -> Tensor:
        """Mean actions, or logits (..., A), for features (..., H) and scaled observations (..., S)."""
        return self.actor(torch.cat([features, obs], dim=-1))

    def value(self, features: Tensor, obs: Tensor) -> Tensor:
        """Scaled values (...) for features (..., H) of the value's memory and scaled observations (..., S)."""
        return self.critic(torch.cat([features, obs], dim=-1)).squeeze(-1)

    # --- the distribution over actions -------------------------------------------------------------------------------

    def clamped_log_std(self) -> Tensor:
        """Clamped log standard deviations (A,)."""
        return self.log_std.clamp(min=self._min_log_std)

    def draw(self, mean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws actions (..., A) and their log-probabilities (...) with standard normal noise (..., A)."""
        if self.discrete:
            action = categorical.sample(mean, noise)
            return action, categorical.log_prob(action, mean)
        log_std = self.clamped_log_std()
        action = torch.addcmul(mean, log_std.exp(), noise)
        return action, gaussian.log_prob_of_noise(noise, log_std)

    def mode(self, mean: Tensor) -> Tensor:
        """The likeliest actions (..., A)."""
        return categorical.mode(mean) if self.discrete else mean

    def log_prob(self, mean: Tensor, action: Tensor) -> Tensor:
        """Log-probabilities (...) of actions (..., A) [nats]."""
        if self.discrete:
            return categorical.log_prob(action, mean)
        return gaussian.log_prob(action, mean, self.clamped_log_std())

    def entropy(self, mean: Tensor) -> Tensor:
        """Entropy (...) [nats]."""
        if self.discrete:
            return categorical.entropy(mean)
        return gaussian.entropy(self.clamped_log_std()).expand(mean.shape[:-1])


def _orthogonal(rng: np.random.Generator, shape: torch.Size) -> Tensor:
    """A matrix with orthonormal rows or columns, whichever are fewer."""
    rows, columns = shape
    drawn = rng.standard_normal((max(rows, columns), min(rows, columns)))
    basis, upper = np.linalg.qr(drawn)
    basis *= np.sign(np.diag(upper))  # without it the distribution is not uniform
    return torch.from_numpy(basis if rows >= columns else basis.T).float()
