"""The gradient of RL^2's PPO loss over a minibatch of whole trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metarl.core.machine.parallel import map_chunks
from metarl.learners.ppo_passes import Steps, ppo_loss
from metarl.learners.rl2.config import Rl2Config
from metarl.networks.actor_critic import MemoryActorCritic
from metarl.sampling.sequences import Sequences

HEAD_STEPS = 2048
"""Steps whose loss a thread computes at once on a CPU: few enough to stay in its cache."""

STATISTICS = ("kl", "update/clipped", "update/policy_loss", "update/value_loss")
"""Means over the steps of a minibatch."""


@dataclass(frozen=True)
class Batch:
    """Trials with the quantities that PPO needs.

    Their lengths are known on the CPU, because the host waits for a GPU when it asks for a number.

    Attributes:
        steps: The trials.
        inputs: Of the memory (L, M, S + A + 2).
        advantage: (L, M) [standard deviations of the batch].
        target: Of the value (L, M) [scaled].
        lengths: Steps of each trial in which the policy acted (M,), on the CPU.
        counts: Valid steps of each trial (M,), on the CPU.
    """

    steps: Sequences
    inputs: Tensor
    advantage: Tensor
    target: Tensor
    lengths: Tensor
    counts: Tensor

    @staticmethod
    def of(steps: Sequences, inputs: Tensor, on_cpu: Sequences | None = None) -> Batch:
        """Returns trials whose advantages and targets are not known yet.

        Args:
            steps: The trials.
            inputs: Of the memory (L, M, S + A + 2).
            on_cpu: The same trials on the CPU; by default steps, which are there.
        """
        known = on_cpu or steps
        numbers = known.acted.sum(dim=0), known.valid.sum(dim=0)
        return Batch(steps, inputs, *(torch.zeros_like(steps.reward) for _ in range(2)), *numbers)

    @cached_property
    def is_full(self) -> bool:
        """All steps of all trials are valid."""
        return int(self.counts.min()) == len(self.inputs)

    def rows(self, index: Tensor) -> Batch:
        """Returns the trials of the rows index (B,), on the CPU, up to the end of the longest."""
        numbers = self.lengths[index], self.counts[index]
        length = len(self.inputs) if self.is_full else int(numbers[0].max())
        index = index.to(self.inputs.device, non_blocking=True)
        own = (part[:length, index] for part in (self.inputs, self.advantage, self.target))
        return Batch(self.steps.rows(index).first_steps(length), *own, *numbers)

    def select(self, values: Tensor) -> Tensor:
        """Maps values (L, M, ...) to those of the P valid steps (P, ...)."""
        if self.is_full:
            return values.flatten(0, 1)
        if values.device.type == "cpu":
            return values[self.steps.valid]
        return values.flatten(0, 1).index_select(0, self._valid_steps)

    @cached_property
    def _valid_steps(self) -> Tensor:
        """Returns the places (P,) of the valid steps among all; P is known, so nothing waits."""
        order = (~self.steps.valid).flatten().int().argsort(stable=True)
        return order[: int(self.counts.sum())]


def _select_steps(batch: Batch) -> Steps:
    """Returns the P valid steps of a batch."""
    obs = batch.inputs[..., : batch.steps.obs.shape[-1]]
    steps = batch.steps
    own = (obs, steps.action, steps.log_prob, batch.advantage, batch.target)
    return Steps(*map(batch.select, own))


def _join(parts: Sequence[Steps]) -> Steps:
    """Returns the steps of all parts."""
    if len(parts) == 1:
        return parts[0]
    return Steps(*map(torch.cat, zip(*(vars(part).values() for part in parts), strict=True)))


class MinibatchGradient:
    """Computes the gradient of the PPO loss on minibatches, in three stages on a pool of threads.

    The memories unroll shards of the rows; the heads and the loss take slices of the valid steps;
    the memories go back through time. Shards and slices do not depend on the number of threads,
    and their contributions are summed in order, so the result does not depend on it either. On a
    GPU there is one shard and one slice.

    Args:
        policy: The networks, on their device.
        config: Settings of the loss.
        num_threads: Threads on a CPU.
    """

    def __init__(self, policy: MemoryActorCritic, config: Rl2Config, num_threads: int):
        self._policy, self._config, self._num_threads = policy, config, num_threads
        self._on_cpu = next(policy.parameters()).device.type == "cpu"
        named = dict(policy.named_parameters())
        is_memory = {name: "memory." in name for name in named}
        self._memory = [value for name, value in named.items() if is_memory[name]]
        self._heads = [value for name, value in named.items() if not is_memory[name]]
        self.parameters = [*self._memory, *self._heads]

    def shards(self, rows: Tensor) -> list[Tensor]:
        """Splits rows (B,) into those that are unrolled at once."""
        memory = self._policy.memory
        size, number = memory.rows_per_shard, 1
        if size and self._on_cpu:
            number = max(-(-len(rows) // size), min(memory.least_shards, len(rows)))
        return list(rows.tensor_split(number))

    def __call__(self, batch: Batch, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns the gradients of `parameters`, and the STATISTICS of the rows (B,), on the CPU.

        The gradients and the statistics are on the policy's device.
        """
        if not batch.is_full:
            rows = rows[batch.lengths[rows].argsort(descending=True, stable=True)]
        unrolled = map_chunks(
            lambda own: self._unroll(batch.rows(own)), self.shards(rows), self._num_threads
        )
        return self._finish(unrolled)

    def of_all(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Returns the same of all rows, as one shard; on a GPU it does not involve the host."""
        return self._finish([self._unroll(batch)])

    def _finish(
        self, unrolled: Sequence[tuple[Steps, tuple[Tensor, ...]]]
    ) -> tuple[list[Tensor], Tensor]:
        """Returns the gradients and the STATISTICS of the shards that `_unroll` returned."""
        steps = _join([own for own, _ in unrolled])
        kept = [features for _, features in unrolled]
        joined = [torch.cat([f.detach() for f in each]) for each in zip(*kept, strict=True)]
        cotangents, heads, statistics = self._differentiate_heads(steps, joined)

        def go_back(index: int) -> Sequence[Tensor]:
            return torch.autograd.grad(kept[index], self._memory, cotangents[index])

        starts = [0]
        for features in kept:
            starts.append(starts[-1] + len(features[0]))
        cotangents = [
            [cotangent[start:stop] for cotangent in cotangents]
            for start, stop in zip(starts, starts[1:], strict=False)
        ]
        memory = map_chunks(go_back, range(len(kept)), self._num_threads)
        return [*_sum(memory), *heads], statistics

    def _unroll(self, batch: Batch) -> tuple[Steps, tuple[Tensor, ...]]:
        """Returns the valid steps, and the features (P, H) of the memories there."""
        features = self._policy.unroll_memories(batch.inputs, self._config.truncation)
        return _select_steps(batch), tuple(map(batch.select, features))

    def _differentiate_heads(
        self, steps: Steps, features: Sequence[Tensor]
    ) -> tuple[list[Tensor], Sequence[Tensor], Tensor]:
        """Returns the gradients of the features (P, H) and of the heads, and the STATISTICS."""
        count = len(steps.log_prob)
        number = -(-count // HEAD_STEPS) if self._on_cpu else 1
        cuts = [count * i // number for i in range(number + 1)]
        cotangents = [torch.empty_like(each) for each in features]

        def differentiate(own: slice) -> tuple[Sequence[Tensor], Tensor]:
            leaves = [each[own].requires_grad_() for each in features]
            loss, statistics = self._loss(steps.rows(own), leaves, count)
            found = torch.autograd.grad(loss, [*leaves, *self._heads])
            for cotangent, value in zip(cotangents, found, strict=False):
                cotangent[own] = value
            return found[len(leaves) :], statistics

        slices = [slice(*cut) for cut in zip(cuts, cuts[1:], strict=False)]
        results = map_chunks(differentiate, slices, self._num_threads)
        heads, statistics = zip(*results, strict=True)
        return cotangents, _sum(heads), torch.stack(statistics).sum(dim=0)

    def _loss(self, steps: Steps, features: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
        """Returns a slice's contribution to the loss and to the STATISTICS, means over count."""
        policy = self._policy
        output, value = policy.heads(features, steps.obs)
        own = policy.distribution, policy.distribution_params(), self._config
        return ppo_loss(steps, output, value, count, *own)


def _sum(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Adds the tensors of all parts, in order."""
    if len(parts) == 1:
        return list(parts[0])
    return [torch.stack(each).sum(dim=0) for each in zip(*parts, strict=True)]
