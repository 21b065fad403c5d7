"""An actor and a critic on a memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from metarl.core.rollout import Params
from metarl.networks.distributions import Distribution
from metarl.networks.hypernetwork import HyperActor
from metarl.networks.layers import Linear, Tanh, draw_orthogonal
from metarl.networks.memories.mann import MannMemory
from metarl.networks.memories.memory import GruMemory, LstmMemory, Memory
from metarl.networks.memories.mingru import MinGruMemory
from metarl.networks.memories.transformer import AttentionMemory

MEMORIES = {
    "gru": GruMemory,
    "lstm": LstmMemory,
    "mann": MannMemory,
    "mingru": MinGruMemory,
    "transformer": AttentionMemory,
}
"""Memories by the name that a config gives."""


@dataclass(frozen=True)
class Architecture:
    """Kind and sizes of an actor-critic on a memory.

    Attributes:
        memory: A name of MEMORIES.
        memory_size: H.
        hidden_size: Units of the tanh layers.
        attention_window: Steps that a transformer's step attends to; 0 means the whole trial.
        own_value_memory: Give the value a second memory of the same kind and size; otherwise it
            reads the policy's.
        hypernetwork: Generate the actor's weights from the memory, see `HyperActor`.
    """

    memory: str
    memory_size: int
    hidden_size: int
    attention_window: int = 0
    own_value_memory: bool = False
    hypernetwork: bool = False

    def build_memory(self, input_size: int) -> Memory:
        """Builds a memory for inputs of input_size numbers."""
        sizes = input_size, self.memory_size
        if self.memory == "transformer":
            return AttentionMemory(*sizes, window=self.attention_window)
        return MEMORIES[self.memory](*sizes)


def draw_parameters(
    network: nn.Module,
    memory: Memory | None,
    rng: np.random.Generator,
    *,
    last: str,
    skipped: tuple[str, ...] = (),
) -> None:
    """Draws orthogonal matrices, the actor's last one scaled by 0.01; biases become zero.

    Args:
        network: The network.
        memory: Its memory, whose gates are drawn one by one; None if it has none.
        rng: The stream.
        last: Name of the actor's last matrix.
        skipped: Beginnings of the names of parameters that stay as they are.

    Source: Huang et al. 2022, The 37 implementation details of PPO.
    """
    for name, value in network.named_parameters():
        if name.startswith(skipped):
            continue
        if value.dim() == 2:
            gates = memory.num_gates if memory is not None and "memory." in name else 1
            is_gated = memory is not None and value.shape[0] == gates * memory.size
            blocks = value.chunk(gates if is_gated else 1)
            drawn = torch.cat([draw_orthogonal(rng, block.shape) for block in blocks])
            value.data.copy_((0.01 if name == last else 1.0) * drawn)
        elif name.endswith("bias") or ".bias_" in name:
            value.data.zero_()


class MemoryActorCritic(nn.Module):
    """Tanh networks for action and value, which read the memory's features and the observation.

    Args:
        architecture: Kind and sizes.
        distribution: Over actions, given the actor's output.
        obs_size: S.
        action_size: A.
    """

    def __init__(
        self,
        architecture: Architecture,
        distribution: Distribution,
        obs_size: int,
        action_size: int,
    ):
        super().__init__()
        self.distribution, self.action_size = distribution, action_size
        features, hidden = architecture.memory_size, architecture.hidden_size
        input_size = obs_size + action_size + 2
        self.memory: Memory = architecture.build_memory(input_size)
        # torch lists the parameters of one module under two names once
        is_own = architecture.own_value_memory
        self.value_memory = architecture.build_memory(input_size) if is_own else self.memory
        sizes = features + obs_size, hidden
        if architecture.hypernetwork:
            self.actor: nn.Module = HyperActor(features, obs_size, hidden, action_size)
        else:
            self.actor = nn.Sequential(Linear(*sizes), Tanh(), Linear(hidden, action_size))
        self.critic = nn.Sequential(Linear(*sizes), Tanh(), Linear(hidden, 1))
        for name, value in distribution.initial(action_size).items():
            self.register_parameter(name, nn.Parameter(value))

    def initialise(self, rng: np.random.Generator) -> None:
        """Draws the first parameters, see `draw_parameters`."""
        if isinstance(self.actor, HyperActor):
            self.actor.initialise(rng)
        skipped = ("actor.generate",)
        draw_parameters(self, self.memory, rng, last="actor.2.weight", skipped=skipped)

    def unroll(self, inputs: Tensor, obs: Tensor, truncation: int = 0) -> tuple[Tensor, Tensor]:
        """Maps whole trials to the actor's outputs (L, M, A) and scaled values (L, M).

        Args:
            inputs: Of the memory (L, M, I).
            obs: Scaled (L, M, S).
            truncation: Steps that gradients go back in time; 0 means all.
        """
        return self.heads(self.unroll_memories(inputs, truncation), obs)

    def unroll_memories(self, inputs: Tensor, truncation: int = 0) -> tuple[Tensor, ...]:
        """Maps inputs (L, M, I) to the features (L, M, H) of the policy's and the value's memory.

        There is one tensor if both read the same memory.
        """
        features = self.memory.unroll(inputs, truncation)
        if self.value_memory is self.memory:
            return (features,)
        return features, self.value_memory.unroll(inputs, truncation)

    def output(self, features: Tensor, obs: Tensor) -> Tensor:
        """Maps features (..., H) and scaled obs (..., S) to the distribution's inputs (..., A)."""
        return self.actor(torch.cat([features, obs], dim=-1))

    def heads(self, features: Sequence[Tensor], obs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the features of `unroll_memories` and scaled obs (..., S) to output and value.

        Returns:
            The actor's outputs (..., A) and scaled values (...).
        """
        inputs = [torch.cat([each, obs], dim=-1) for each in features]
        return self.actor(inputs[0]), self.critic(inputs[-1]).squeeze(-1)

    def distribution_params(self) -> Params:
        """Returns the distribution's own parameters, by name: the only ones of no submodule."""
        return {name: value for name, value in self.named_parameters(recurse=False)}
