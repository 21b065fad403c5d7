"""The networks of RL^2 over whole trials, without gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.core.machine.parallel import Group, map_in_group
from metarl.learners.rl2.config import Rl2Config
from metarl.networks.actor_critic import MemoryActorCritic


def evaluate_trials(
    policy: MemoryActorCritic,
    config: Rl2Config,
    split: Callable[[Tensor], list[Tensor]],
    inputs: Tensor,
    lengths: Tensor,
    num_threads: int,
    group: Group,
) -> tuple[Tensor, Tensor]:
    """Returns the actor's outputs (L, M, A) and scaled values (L, M), without gradients.

    Args:
        policy: The networks, on their device.
        config: Settings.
        split: Splits rows (B,) into those that are unrolled at once.
        inputs: Of the memory (L, M, S + A + 2).
        lengths: Steps of each trial that are needed (M,), on the CPU.
        num_threads: Threads on a CPU.
        group: Processes that divide the trials.
    """
    action_size = policy.action_size
    size = inputs.shape[-1] - action_size - 2
    output, value = torch.zeros_like(inputs[..., :action_size]), torch.zeros_like(inputs[..., 0])
    rows = torch.arange(inputs.shape[1])
    parts = rows.tensor_split(min(config.minibatches, len(rows)))  # bounds the memory

    @torch.no_grad()  # the setting is local to a thread
    def evaluate(rows: Tensor) -> tuple[Tensor, Tensor]:
        length, index = int(lengths[rows].max()), rows.to(inputs.device, non_blocking=True)
        own = inputs[:length, index]
        return policy.unroll(own, own[..., :size], config.truncation)

    shards = [shard for part in parts for shard in split(part)]
    evaluated = map_in_group(evaluate, shards, num_threads, group)
    for rows, found in zip(shards, evaluated, strict=True):
        rows = rows.to(inputs.device, non_blocking=True)
        for whole, part in zip((output, value), found, strict=True):
            whole[: len(part), rows] = part
    return output, value
