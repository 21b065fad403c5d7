"""A causal transformer as a memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.networks.layers import Linear
from metarl.networks.memories.memory import State


class AttentionMemory(nn.Module):
    """A causal transformer over the trial (Vaswani et al. 2017), normalised before each block.

    A penalty on the attention grows linearly with the distance in steps, at a different rate for
    each head (Press et al. 2022, ALiBi), so a trial may be longer than those of training. Keys and
    values of past steps are stored, so acting computes only the newest step.

    Args:
        input_size: I.
        size: H, a multiple of num_heads.
        num_layers: Blocks.
        num_heads: Attention heads.
        window: Steps that a step attends to, itself included; 0 means the whole trial so far. It
            bounds the time and memory of acting; each layer reaches back another window.
    """

    rows_per_shard = 8
    least_shards = 2
    num_gates = 1
    penalty_rates: Tensor

    def __init__(
        self,
        input_size: int,
        size: int,
        num_layers: int = 2,
        num_heads: int = 4,
        window: int = 0,
    ):
        super().__init__()
        self.size, self.num_heads, self.window = size, num_heads, window
        self.embed = Linear(input_size, size)
        self.blocks = [_Block(size, num_heads) for _ in range(num_layers)]
        for i, block in enumerate(self.blocks):  # a ModuleList would lose their type
            self.add_module(f"block{i}", block)
        self.last = nn.LayerNorm(size)
        rates = 2.0 ** (-8.0 * torch.arange(1, num_heads + 1) / num_heads)
        self.register_buffer("penalty_rates", rates, persistent=False)  # moves with the module

    def initial(self, num_rows: int) -> State:
        """Returns an empty cache (M, layers, 2, heads, capacity, H / heads) and two lengths 0 (M,).

        The third axis holds keys and values. The first lengths are those of this state, the second
        ones how far the cache is written, by this state or by those that followed on it.
        """
        shape = (num_rows, len(self.blocks), 2, self.num_heads, 64, self.size // self.num_heads)
        length = torch.zeros(num_rows, dtype=torch.long)
        return (torch.zeros(shape), length, length.clone())

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps inputs (M, I) of one step to features (M, H) and the next state.

        The state is a value. States that follow on each other share a cache, whose entries behind
        its length a state never reads; where another one has written them, the cache is copied. So
        is that of a window, in which a step takes the place of an older one.
        """
        cache, length, written = state
        if self.window or not torch.equal(written, length):
            cache, written = cache.clone(), length.clone()
        used, slot = int(length.max()) + 1, length
        if self.window:  # the newest step replaces the oldest
            used, slot = min(used, self.window), length % self.window
        if used > cache.shape[4]:
            cache = functional.pad(cache, (0, 0, 0, cache.shape[4]))
            written = length.clone()
        rows, slots = torch.arange(len(length)), torch.arange(used)
        distance = length.unsqueeze(1) - slots  # (M, used)
        is_empty = distance < 0
        if self.window:
            distance %= self.window
        penalty = -self.penalty_rates[:, None] * distance[:, None].float()
        bias = penalty.masked_fill(is_empty[:, None], -math.inf).unsqueeze(2)
        x = self.embed(inputs).unsqueeze(1)
        for i, block in enumerate(self.blocks):
            query, key, value = block.project(x)
            cache[rows, i, 0, :, slot] = key.squeeze(2)
            cache[rows, i, 1, :, slot] = value.squeeze(2)
            keys, values = cache[:, i, 0, :, :used], cache[:, i, 1, :, :used]
            x = block.combine(x, query, keys, values, bias)
        written.copy_(length + 1)
        return self.last(x).squeeze(1), (cache, length + 1, written)

    def keep(self, before: State, after: State, alive: Tensor) -> State:
        """Returns the state `after` where alive (M,), else `before`.

        Lengths suffice: entries of the cache behind them are never read. The result takes over the
        cache of `after`, which must not be stepped from again.
        """
        if alive.all():
            return after
        length = torch.where(alive, after[1], before[1])
        return (after[0], length, length.clone())

    def unroll(self, inputs: Tensor, truncation: int = 0) -> Tensor:
        """Maps inputs (L, M, I) of whole trials to features (L, M, H).

        Raises:
            ValueError: truncation is not 0, since attention has no recurrent state to cut.
        """
        if truncation:
            raise ValueError(f"truncation = {truncation}: must be 0, attention cannot be truncated")
        steps = torch.arange(len(inputs), device=inputs.device)
        distance = (steps.unsqueeze(1) - steps).float()
        bias = -self.penalty_rates[:, None, None] * distance
        is_hidden = distance < 0
        if self.window:
            is_hidden |= distance >= self.window
        bias = bias.masked_fill(is_hidden, -math.inf)
        x = self.embed(inputs).transpose(0, 1)
        # only for a mask of four axes does torch choose its fused kernel, twice as fast
        bias = bias.expand(len(x), -1, -1, -1)
        for block in self.blocks:
            x = block.combine(x, *block.project(x), bias)
        return self.last(x).transpose(0, 1)


class _Block(nn.Module):
    """Attention and a two-layer network, each added to its input."""

    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.before_attention, self.before_network = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query_key_value, self.out = Linear(size, 3 * size), Linear(size, size)
        self.network = nn.Sequential(Linear(size, 2 * size), nn.GELU(), Linear(2 * size, size))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps x (M, L, H) to query, key and value (M, heads, L, H / heads)."""
        parts = self.query_key_value(self.before_attention(x)).chunk(3, dim=-1)
        return tuple(p.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in parts)

    def combine(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Adds attention and the network to x (M, L, H); bias broadcasts to (M, heads, L, keys)."""
        bias = bias.to(query.dtype)  # torch misreads a mask of another dtype
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.network(self.before_network(x))
