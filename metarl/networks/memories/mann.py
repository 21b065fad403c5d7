"""A network with an external memory, which it reads by content."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarl.networks.layers import Linear
from metarl.networks.memories.external_memory import Slots, access, squash
from metarl.networks.memories.memory import State, keep_rows
from metarl.networks.memories.slot_recurrence import unroll_slots

EMPTY = 1e-3
"""Numbers of a slot before the first step: a cosine with zeros would have no derivative."""

DECAY = 0.95
"""Of the usage of a slot in a step."""


class MannMemory(nn.Module):
    """A memory-augmented network (Santoro et al. 2016, arXiv:1605.06065).

    An LSTM reads the input and what the memory gave last; its heads write into the least recently
    used slots and read by content, see `access`.

        h_t, c_t = LSTM([x_t, r_{t-1}], h_{t-1}, c_{t-1}),    feature_t = h_t + P r_t

    It computes in double precision whatever the type of its parameters: which slot is the least
    used is a choice, and rounding may turn one between slots of nearly the same usage; the policy
    that learns would then not be the policy that acted. Learning and acting get the same inputs bit
    for bit, so in double precision the usages would have to agree to 15 digits.

    Args:
        input_size: I.
        size: H.
        num_slots: L.
        width: W, numbers of a slot.
        num_heads: R.
    """

    rows_per_shard = 16
    least_shards = 1
    num_gates = 4

    def __init__(
        self,
        input_size: int,
        size: int,
        num_slots: int = 32,
        width: int = 16,
        num_heads: int = 2,
    ):
        super().__init__()
        self.size, self.num_slots, self.width, self.num_heads = size, num_slots, width, num_heads
        self.cell = nn.LSTM(input_size + num_heads * width, size)
        self.heads = Linear(size, num_heads * (width + 2))
        self.read = Linear(num_heads * width, size, bias=False)

    def initial(self, num_rows: int) -> State:
        """Returns zeros, in float64.

        They are hidden and cell (M, H), slots (M, L W) less EMPTY, usage (M, L), weights of the
        last reading (M, R L), and what was read (M, R W).
        """
        return self._zeros(num_rows, "cpu")

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps inputs (M, I) of one step to features (M, H) and the next state."""
        features, after = self._advance(self._doubles(), inputs.double(), state)
        return features.to(inputs.dtype), after

    def keep(self, before: State, after: State, alive: Tensor) -> State:
        """Returns the state `after` where alive (M,), else `before`."""
        return keep_rows(before, after, alive)

    def unroll(self, inputs: Tensor, truncation: int = 0) -> Tensor:
        """Maps inputs (L, M, I) of whole trials to features (L, M, H)."""
        state, features = self._zeros(inputs.shape[1], inputs.device), []
        weights = self._doubles()
        for part in inputs.double().split(truncation or len(inputs)):
            run = self._unroll_by_hand if inputs.device.type == "cpu" else self._unroll_by_autograd
            out, state = run(weights, part, tuple(each.detach() for each in state))
            features.append(out)
        return torch.cat(features).to(inputs.dtype)

    def _unroll_by_hand(
        self, weights: list[Tensor], inputs: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Maps inputs (L, M, I) to features (L, M, H) and the last state."""
        hidden, cell, memory, usage, reading, read = state
        slots = memory.unflatten(1, (self.num_slots, self.width)) + EMPTY
        own = hidden, cell, slots, usage, reading.unflatten(1, (self.num_heads, -1)), read
        features, after = unroll_slots(inputs, own, DECAY, *weights)
        hidden, cell, slots, usage, reading, read = after
        kept = (slots - EMPTY).flatten(1), usage, reading.flatten(1), read
        return features, (hidden, cell, *kept)

    def _unroll_by_autograd(
        self, weights: list[Tensor], inputs: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Maps inputs (L, M, I) to features (L, M, H) and the last state, on any device."""
        features = []
        for x in inputs:
            out, state = self._advance(weights, x, state)
            features.append(out)
        return torch.stack(features), state

    def _zeros(self, num_rows: int, device: torch.device | str) -> State:
        heads, slots, width = self.num_heads, self.num_slots, self.width
        sizes = (self.size, self.size, slots * width, slots, heads * slots, heads * width)
        return tuple(
            torch.zeros(num_rows, size, dtype=torch.float64, device=device) for size in sizes
        )

    def _doubles(self) -> list[Tensor]:
        """Returns the weights of the LSTM, the heads' and that of reading, in double precision."""
        own = (*self.cell.parameters(), self.heads.weight, self.heads.bias, self.read.weight)
        return [value.double() for value in own]

    def _advance(self, weights: list[Tensor], x: Tensor, state: State) -> tuple[Tensor, State]:
        """Takes one step in double precision; see `step`."""
        *cell_weights, by_hidden, bias, by_read = weights
        hidden, cell, memory, usage, reading, read = state
        hidden, cell = torch.lstm_cell(torch.cat([x, read], dim=1), (hidden, cell), *cell_weights)
        heads = torch.addmm(bias, hidden, by_hidden.t()).unflatten(1, (self.num_heads, -1))
        shape = (self.num_slots, self.width)
        reading = reading.unflatten(1, (self.num_heads, -1))
        slots = Slots(memory.unflatten(1, shape) + EMPTY, usage, reading)
        slots, read = access(slots, *squash(heads, self.width), DECAY)
        kept = (slots.memory - EMPTY).flatten(1), slots.usage, slots.weights.flatten(1), read
        return torch.addmm(hidden, read, by_read.t()), (hidden, cell, *kept)
