"""Memories: causal maps from the steps of a trial to features.

`step` maps one step, when the robot acts; `unroll` maps whole trials, when the learner learns.
Both compute the same function. M rows are M trials; a trial of L steps is time-major, (L, M, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.memories.recurrence import unroll_gru

State = tuple[Tensor, ...]
"""The state of a memory in M trials; every tensor has the row axis first."""


class Memory(Protocol):
    """A causal map from the inputs of a trial to features.

    Attributes:
        size: H.
        rows_per_shard: Trials that a thread unrolls at once on a CPU; 0 means all, for a memory
            whose steps cost the interpreter's time and not the processor's.
        least_shards: Shards into which few trials are split, so that as many threads have work;
            more than 1 where the time of a step grows with the trials.
        num_gates: Blocks of rows in a weight matrix whose row count is num_gates * H.
    """

    size: int
    rows_per_shard: int
    least_shards: int
    num_gates: int

    def initial(self, num_rows: int) -> State:
        """Returns the state at the start of a trial."""

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps inputs (M, I) of one step to features (M, H) and the next state."""

    def keep(self, before: State, after: State, alive: Tensor) -> State:
        """Returns the state `after` where alive (M,), else `before`."""

    def unroll(self, inputs: Tensor, truncation: int = 0) -> Tensor:
        """Maps inputs (L, M, I) of whole trials to features (L, M, H).

        Gradients go back through `truncation` steps; 0 means all.
        """


class GruMemory(nn.Module):
    """A gated recurrent unit (Cho et al. 2014).

    Args:
        input_size: I.
        size: H.
    """

    rows_per_shard = 0
    least_shards = 1
    num_gates = 3

    def __init__(self, input_size: int, size: int):
        super().__init__()
        self.size = size
        self.cell = nn.GRU(input_size, size)

    def initial(self, num_rows: int) -> State:
        """Returns zeros (M, H)."""
        return (torch.zeros(num_rows, self.size),)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps inputs (M, I) of one step to features (M, H) and the next state."""
        hidden = torch.gru_cell(inputs, state[0], *self.cell.parameters())
        return hidden, (hidden,)

    def keep(self, before: State, after: State, alive: Tensor) -> State:
        """Returns the state `after` where alive (M,), else `before`."""
        return keep_rows(before, after, alive)

    def unroll(self, inputs: Tensor, truncation: int = 0) -> Tensor:
        """Maps inputs (L, M, I) of whole trials to features (L, M, H)."""
        if inputs.device.type != "cpu":
            return _unroll(self.cell, inputs, truncation)
        hidden, features = inputs.new_zeros(inputs.shape[1], self.size), []
        for part in inputs.split(truncation or len(inputs)):
            features.append(unroll_gru(part, hidden, *self.cell.parameters()))
            hidden = features[-1][-1].detach()
        return features[0] if len(features) == 1 else torch.cat(features)


class LstmMemory(nn.Module):
    """A long short-term memory (Hochreiter & Schmidhuber 1997).

    Args:
        input_size: I.
        size: H.
    """

    rows_per_shard = 8  # oneDNN runs all steps of a shard in one call
    least_shards = 1
    num_gates = 4

    def __init__(self, input_size: int, size: int):
        super().__init__()
        self.size = size
        self.cell = nn.LSTM(input_size, size)

    def initial(self, num_rows: int) -> State:
        """Returns zeros (M, H), twice."""
        return (torch.zeros(num_rows, self.size), torch.zeros(num_rows, self.size))

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps inputs (M, I) of one step to features (M, H) and the next state."""
        hidden, inner = torch.lstm_cell(inputs, state, *self.cell.parameters())
        return hidden, (hidden, inner)

    def keep(self, before: State, after: State, alive: Tensor) -> State:
        """Returns the state `after` where alive (M,), else `before`."""
        return keep_rows(before, after, alive)

    def unroll(self, inputs: Tensor, truncation: int = 0) -> Tensor:
        """Maps inputs (L, M, I) of whole trials to features (L, M, H)."""
        return _unroll(self.cell, inputs, truncation)


def keep_rows(before: State, after: State, alive: Tensor) -> State:
    """Returns the state `after` where alive (M,), else `before`, for tensors with rows first."""
    if alive.all():
        return after
    mask = alive.unsqueeze(-1)
    return tuple(torch.where(mask, new, old) for new, old in zip(after, before, strict=True))


def join_states(states: Sequence[State]) -> State:
    """Returns the state of all rows from those of neighbouring slices of the rows."""
    return tuple(torch.cat(_pad_caches(parts)) for parts in zip(*states, strict=True))


def _pad_caches(parts: Sequence[Tensor]) -> list[Tensor]:
    """Pads caches (M, layers, 2, heads, capacity, H / heads) to the longest; returns others as is.

    Slices differ in capacity, because a cache grows with the longest episode of its slice.
    """
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
