"""The gradient of RL^2's loss the obvious way: torch's networks, masks, and autograd over all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metarl.core.machine.parallel import map_chunks
from metarl.functional.ppo import approximate_kl, clip_indicator, clipped_loss
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.gradient import Batch
from metarl.networks.actor_critic import MemoryActorCritic
from metarl.networks.memories.memory import GruMemory, LstmMemory

SHARD_ROWS = 32
"""Trials of a thread. The presets' minibatches of 25 are one shard, so one core works."""


class ObviousGradient:
    """Stands in for `MinibatchGradient`, as metarl 0.1 computed it.

    Args:
        policy: The networks.
        config: Settings of the loss.
        num_threads: Threads over shards.
    """

    def __init__(self, policy: MemoryActorCritic, config: Rl2Config, num_threads: int):
        self._policy, self._config, self._num_threads = policy, config, num_threads
        self.parameters = list(policy.parameters())

    def shards(self, rows: Tensor) -> list[Tensor]:
        """Splits rows (B,) into those that a thread takes at once."""
        return list(rows.tensor_split(-(-len(rows) // SHARD_ROWS)))

    def __call__(self, batch: Batch, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns the gradients of `parameters`, and the statistics of the rows (B,)."""
        count = batch.steps.valid[:, rows].sum()

        def differentiate(own: Tensor) -> tuple[Sequence[Tensor], Tensor]:
            loss, statistics = self._loss(batch, own, count)
            return torch.autograd.grad(loss, self.parameters), statistics.detach()

        results = map_chunks(differentiate, self.shards(rows), self._num_threads)
        gradients, statistics = zip(*results, strict=True)
        gradient = [torch.stack(parts).sum(dim=0) for parts in zip(*gradients, strict=True)]
        return gradient, torch.stack(statistics).sum(dim=0)

    def _features(self, inputs: Tensor) -> Tensor:
        memory = self._policy.memory
        if isinstance(memory, GruMemory | LstmMemory):
            return memory.cell(inputs)[0]
        return _attend(memory, inputs)

    def _loss(self, batch: Batch, rows: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        policy, config = self._policy, self._config
        steps, inputs = batch.steps.rows(rows), batch.inputs[:, rows]
        obs, features = inputs[..., : steps.obs.shape[-1]], self._features(inputs)
        output, value = policy.heads((features,), obs)
        params = policy.distribution_params()
        log_ratio = policy.distribution.log_prob(params, output, steps.action) - steps.log_prob
        log_ratio = torch.where(steps.valid, log_ratio, 0.0)

        def average(values: Tensor) -> Tensor:
            return torch.where(steps.valid, values, 0.0).sum() / count

        policy_loss = average(clipped_loss(log_ratio, batch.advantage[:, rows], config.clip))
        value_loss = average((value - batch.target[:, rows]).square())
        entropy = average(policy.distribution.entropy(params, output))
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
        with torch.no_grad():
            kl, clipped = (
                average(approximate_kl(log_ratio)),
                average(clip_indicator(log_ratio, config.clip)),
            )
        return loss, torch.stack([kl, clipped, policy_loss, value_loss]).double()


def _attend(memory, inputs: Tensor) -> Tensor:
    """Unrolls a causal transformer with one mask over the whole trial."""
    steps = torch.arange(len(inputs))
    distance = (steps.unsqueeze(1) - steps).float()
    bias = -memory.penalty_rates[:, None, None] * distance
    bias = bias.masked_fill(distance < 0, -float("inf"))
    x = memory.embed(inputs).transpose(0, 1)
    for block in memory.blocks:
        query, key, value = block.project(x)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + block.out(attended.transpose(1, 2).flatten(2))
        x = x + block.network(block.before_network(x))
    return memory.last(x).transpose(0, 1)
