"""Memories: what turns the steps of a trial into features, one step at a time and whole trials at once.

Both ways compute the same function: `step` where the robot acts, `unroll` where the learner learns. M rows are M
trials; a trial of L steps is time-major, (L, M, ...).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.functional import categorical, gaussian

State = tuple[Tensor, ...]
"""What a memory keeps of M trials; every tensor has the row first."""


class Memory(Protocol):
    """A causal map from the inputs of a trial to features."""

    size: int

    def initial(self, num_rows: int) -> State:
        """The state at the start of a trial."""

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps inputs (M, I) of one step to features (M, H) and the next state."""

    def keep(self, before: State, after: State, alive: Tensor) -> State:
        """The state `after` where alive (M,), else `before`."""

    def unroll(self, inputs: Tensor, truncation: int = 0) -> Tensor:
        """Maps inputs (L, M, I) of whole trials to features (L, M, H).

        Gradients go back through `truncation` steps, 0 for all of them.
        """


class GruMemory(nn.Module):
    """A gated recurrent unit (Cho et al. 2014).

    Args:
        input_size: I.
        size: H.
    """

    def __init__(self, input_size: int, size: int):
        super().__init__()
        self.size = size
        self.cell = nn.GRU(input_size, size)

    def initial(self, num_rows: int) -> State:
        """Zeros (M, H)."""
        return (torch.zeros(num_rows, self.size),)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps inputs (M, I) of one step to features (M, H) and the next state."""
        hidden = torch.gru_cell(inputs, state[0], *self.cell.parameters())
        return hidden, (hidden,)

    def keep(self, before: State, after: State, alive: Tensor) -> State:
        """The state `after` where alive (M,), else `before`."""
        return _keep(before, after, alive)

    def unroll(self, inputs: Tensor, truncation: int = 0) -> Tensor:
        """Maps inputs (L, M, I) of whole trials to features (L, M, H)."""
        return _unroll(self.cell, inputs, truncation)


class LstmMemory(nn.Module):
    """A long short-term memory (Hochreiter & Schmidhuber 1997).

    Args:
        input_size: I.
        size: H.
    """

    def __init__(self, input_size: int, size: int):
        super().__init__()
        self.size = size
        self.cell = nn.LSTM(input_size, size)

    def initial(self, num_rows: int) -> State:
        """Zeros (M, H), twice."""
        return (torch.zeros(num_rows, self.size), torch.zeros(num_rows, self.size))

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps inputs (M, I) of one step to features (M, H) and the next state."""
        hidden, inner = torch.lstm_cell(inputs, state, *self.cell.parameters())
        return hidden, (hidden, inner)

    def keep(self, before: State, after: State, alive: Tensor) -> State:
        """The state `after` where alive (M,), else `before`."""
        return _keep(before, after, alive)

    def unroll(self, inputs: Tensor, truncation: int = 0) -> Tensor:
        """Maps inputs (L, M, I) of whole trials to features (L, M, H)."""
        return _unroll(self.cell, inputs, truncation)


def _keep(before: State, after: State, alive: Tensor) -> State:
    if alive.all():
        return after
    chosen = alive.unsqueeze(-1)
    return tuple(torch.where(chosen, new, old) for new, old in zip(after, before, strict=True))


def joined(states: Sequence[State]) -> State:
    """The state of all rows from those of neighbouring shares."""
    return tuple(torch.cat(_as_long(parts)) for parts in zip(*states, strict=True))


def _as_long(parts: Sequence[Tensor]) -> list[Tensor]:
    """Makes caches (M, layers, 2, heads, capacity, H / heads) as long as the longest; they grow where robots live on."""
    if parts[0].ndim < 6:
        return list(parts)
    longest = max(part.shape[4] for part in parts)
    return [functional.pad(part, (0, 0, 0, longest - part.shape[4])) for part in parts]


def _unroll(cell: nn.RNNBase, inputs: Tensor, truncation: int) -> Tensor:
    features, state = [], None
    for part in inputs.split(truncation or len(inputs)):
        out, state = cell(part, state)
        features.append(out)
        state = state.detach() if isinstance(state, Tensor) else tuple(s.detach() for s in state)
    return features[0] if len(features) == 1 else torch.cat(features)


# --------------------------------------------------------------------------------------- attention


class AttentionMemory(nn.Module):
    """A causal transformer over the trial (Vaswani et al. 2017), normalised before each block.

    Distances enter as a penalty on the attention, linear in the number of steps and of another slope for each head
    (Press et al. 2022, ALiBi), so a trial may be longer than those trained on. Keys and values of the steps so far
    are kept, so acting takes one pass for the newest step.

    Args:
        input_size: I.
        size: H, a multiple of num_heads.
        num_layers: Blocks.
        num_heads: Attention heads.
    """

    def __init__(self, input_size: int, size: int, num_layers: int = 2, num_heads: int = 4):
        super().__init__()
        self.size, self.num_heads = size, num_heads
        self.embed = nn.Linear(input_size, size)
        self.blocks = [_Block(size, num_heads) for _ in range(num_layers)]
        for i, block in enumerate(self.blocks):  # a ModuleList would forget their type
            self.add_module(f"block{i}", block)
        self.last = nn.LayerNorm(size)
        self.slopes = 2.0 ** (-8.0 * torch.arange(1, num_heads + 1) / num_heads)

    def initial(self, num_rows: int) -> State:
        """No steps yet: keys and values (M, layers, 2, heads, capacity, H / heads) and their number (M,)."""
        shape = (num_rows, len(self.blocks), 2, self.num_heads, 64, self.size // self.num_heads)
        return (torch.zeros(shape), torch.zeros(num_rows, dtype=torch.long))

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps inputs (M, I) of one step to features (M, H) and the next state.

        The cache is written in place behind the steps of `state`, which stays what it was.
        """
        cache, length = state
        used = int(length.max()) + 1
        if used > cache.shape[4]:
            cache = functional.pad(cache, (0, 0, 0, cache.shape[4]))
        rows, slots = torch.arange(len(length)), torch.arange(used)
        distance = (length.unsqueeze(1) - slots).float()  # (M, used)
        penalty = -self.slopes[:, None] * distance[:, None]
        bias = penalty.masked_fill(distance[:, None] < 0, -math.inf).unsqueeze(2)
        x = self.embed(inputs).unsqueeze(1)
        for i, block in enumerate(self.blocks):
            query, key, value = block.project(x)
            cache[rows, i, 0, :, length] = key.squeeze(2)
            cache[rows, i, 1, :, length] = value.squeeze(2)
            keys, values = cache[:, i, 0, :, :used], cache[:, i, 1, :, :used]
            x = block.combine(x, query, keys, values, bias)
        return self.last(x).squeeze(1), (cache, length + 1)

    def keep(self, before: State, after: State, alive: Tensor) -> State:
        """The state `after` where alive (M,), else `before`: what stands behind its steps is never read."""
        return (after[0], torch.where(alive, after[1], before[1]))

    def unroll(self, inputs: Tensor, truncation: int = 0) -> Tensor:
        """Maps inputs (L, M, I) of whole trials to features (L, M, H).

        Raises:
            ValueError: truncation is not 0: attention has no state to cut at.
        """
        if truncation:
            raise ValueError("attention cannot be truncated in time")
        steps = torch.arange(len(inputs), device=inputs.device)
        distance = (steps.unsqueeze(1) - steps).float()
        bias = -self.slopes.to(inputs.device)[:, None, None] * distance
        bias = bias.masked_fill(distance < 0, -math.inf)
        x = self.embed(inputs).transpose(0, 1)
        for block in self.blocks:
            x = block.combine(x, *block.project(x), bias)
        return self.last(x).transpose(0, 1)


class _Block(nn.Module):
    """Attention and a two-layer network, each added to its input."""

    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.before_attention, self.before_network = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query_key_value, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.network = nn.Sequential(
            nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)
        )

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps x (M, L, H) to query, key and value (M, heads, L, H / heads)."""
        parts = self.query_key_value(self.before_attention(x)).chunk(3, dim=-1)
        return tuple(p.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in parts)

    def combine(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Adds attention, with bias broadcast to (M, heads, L, keys), and the network to x (M, L, H)."""
        bias = bias.to(query.dtype)  # a mask of another type is read as noise
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.network(self.before_network(x))


MEMORIES = {"gru": GruMemory, "lstm": LstmMemory, "transformer": AttentionMemory}
"""By the name that a config gives."""


# ------------------------------------------------------------------------------------ actor and critic


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
