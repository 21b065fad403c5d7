"""An external memory: reading by content, and writing to the least recently used slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot, softplus


@dataclass(frozen=True)
class Slots:
    """State of N memories of L slots, W numbers wide, with R heads.

    Attributes:
        memory: (N, L, W).
        usage: (N, L), how much each slot was read and written lately.
        weights: Of the last reading (N, R, L).
    """

    memory: Tensor
    usage: Tensor
    weights: Tensor


def squash(heads: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Splits outputs of a network (N, R, W + 2) into keys, gates and strengths.

    Returns:
        Keys (N, R, W) in (-1, 1), gates (N, R, 1) in (0, 1), strengths (N, R, 1) > 1.
    """
    key, gate, strength = heads.split([width, 1, 1], dim=2)
    return key.tanh(), gate.sigmoid(), 1.0 + softplus(strength)


def access(
    slots: Slots, key: Tensor, gate: Tensor, strength: Tensor, decay: float
) -> tuple[Slots, Tensor]:
    """Writes and reads once with every head.

        w_write = gate w_read(previous) + (1 - gate) w_least-used
        w_read = softmax(strength * cosine(key, memory)),    usage = decay usage + w_read + w_write

    Each head writes its key, to the place that it read before or to a slot of its own among the R
    least used, which are emptied first.

    Args:
        slots: Before.
        key: (N, R, W).
        gate: (N, R, 1).
        strength: (N, R, 1).
        decay: Of the usage in a step, in (0, 1).

    Returns:
        The slots after it, and the numbers that were read (N, R * W).

    Source: Santoro et al. 2016 (arXiv:1605.06065); the strength is that of Graves et al. 2014
    (arXiv:1410.5401).
    """
    count, num_slots = slots.weights.shape[1:]
    least = slots.usage.argsort(dim=1, stable=True)[:, :count]
    free = one_hot(least, num_slots).to(key.dtype)  # (N, R, L)
    write = gate * slots.weights + (1.0 - gate) * free
    memory = slots.memory * (1.0 - free.sum(dim=1)).unsqueeze(2)
    memory = memory + torch.bmm(write.mT, key)
    cosine = torch.bmm(normalize(key, dim=2), normalize(memory, dim=2, eps=1e-6).mT)
    weights = (strength * cosine).softmax(dim=2)
    read = torch.bmm(weights, memory).flatten(1)
    usage = decay * slots.usage + weights.sum(dim=1) + write.sum(dim=1)
    return Slots(memory, usage, weights), read
