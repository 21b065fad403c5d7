"""A gated memory without products between its states, which trains in parallel over time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metarl.functional.scan import gated_scan
from metarl.networks.layers import Linear, linear, tanh
from metarl.networks.memories.memory import State, keep_rows

SHORTEST = 1.1
"""Fastest time constant at the start [steps]."""

LONGEST = 512.0
"""Slowest time constant at the start [steps], the order of a trial's length."""


class MinGruMemory(nn.Module):
    """A minimal gated recurrent unit (Feng et al. 2024, arXiv:2410.01201) on embedded inputs.

        u_t = tanh(W x_t + b),    a_t = sigmoid(W_a u_t + b_a),    c_t = W_c u_t + b_c
        h_t = a_t h_{t-1} + (1 - a_t) c_t

    Gates and candidates depend on the inputs alone, so those of a whole trial are one product, and
    the states are a scan. Acting takes constant time and memory. Half the units start with a time
    constant 1 / (1 - a) of SHORTEST steps, which makes them a layer on the present input; those of
    the others run from 2 to LONGEST steps, evenly in the logarithm. On half-cheetah-dir (seed 0,
    1.2 M steps) that had 668, and time constants from 2 steps on for all units 628.

    Args:
        input_size: I.
        size: H.
    """

    rows_per_shard = 8
    least_shards = 1
    num_gates = 2

    def __init__(self, input_size: int, size: int):
        super().__init__()
        self.size = size
        self.embed = Linear(input_size, size)
        self.gates = nn.Linear(size, 2 * size, bias=False)
        fast = torch.full((size // 2,), SHORTEST)
        slow = torch.logspace(math.log10(2.0), math.log10(LONGEST), size - size // 2)
        times = torch.cat([fast, slow])
        self.offset = nn.Parameter(torch.cat([(times - 1.0).log(), torch.zeros(size)]))

    def initial(self, num_rows: int) -> State:
        """Returns zeros (M, H)."""
        return (torch.zeros(num_rows, self.size),)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps inputs (M, I) of one step to features (M, H) and the next state."""
        decay, candidate = self._gates(inputs).chunk(2, dim=-1)
        hidden = torch.lerp(candidate, state[0], decay.sigmoid())
        return hidden, (hidden,)

    def keep(self, before: State, after: State, alive: Tensor) -> State:
        """Returns the state `after` where alive (M,), else `before`."""
        return keep_rows(before, after, alive)

    def unroll(self, inputs: Tensor, truncation: int = 0) -> Tensor:
        """Maps inputs (L, M, I) of whole trials to features (L, M, H).

        Raises:
            ValueError: truncation is not 0: the scan runs over whole trials.
        """
        if truncation:
            raise ValueError(f"truncation = {truncation}: must be 0, a scan has no truncation")
        return gated_scan(self._gates(inputs))

    def _gates(self, inputs: Tensor) -> Tensor:
        """Returns the logits of the decays and the candidates (..., 2 H)."""
        embedded = tanh(self.embed(inputs))
        return linear(embedded, self.gates.weight, self.offset)
