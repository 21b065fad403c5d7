"""Transitions, sets of them, and losses that tell tasks apart by the mean embedding of a set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Rollout
from metarl.learners.metric.config import MetricConfig

MIN_SQUARE = 0.1
"""Added to squared distances that are divided by (FOCAL's epsilon)."""


def read_transitions(rollout: Rollout) -> Tensor:
    """Returns observation, action, reward and next observation (N, E, T, 2 S + A + 1)."""
    length = rollout.valid.sum(dim=2)
    after = torch.cat([rollout.obs[:, :, 1:], rollout.last_obs.unsqueeze(2)], dim=2)
    steps = torch.arange(rollout.valid.shape[2], device=length.device)
    is_last = steps == length.unsqueeze(-1) - 1
    after = torch.where(is_last.unsqueeze(-1), rollout.last_obs.unsqueeze(2), after)
    parts = rollout.obs, rollout.action, rollout.reward.unsqueeze(-1), after
    return torch.cat(parts, dim=-1)


def sum_embeddings(
    encoder: Callable[[Tensor], Tensor], inputs: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the sum of the embeddings of valid transitions (N, Z), and their number (N, 1).

    Args:
        encoder: Maps scaled transitions (..., I) to embeddings (..., Z).
        inputs: (N, E, T, I).
        valid: (N, E, T).
    """
    embedded = torch.where(valid.unsqueeze(-1), encoder(inputs), 0.0)
    return embedded.sum(dim=(1, 2)), valid.sum(dim=(1, 2)).unsqueeze(-1)


def draw_sets(inputs: Tensor, valid: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Draws transitions (N, B, I) of one episode of every task, with replacement.

    Args:
        inputs: (N, T, I).
        valid: (N, T), at least one in each row.
        size: B.
        rng: The stream.
    """
    order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)  # valid transitions first
    uniform = torch.from_numpy(rng.random((len(valid), size)))
    uniform = uniform.to(inputs.device, non_blocking=True)
    index = order.gather(1, (uniform * valid.sum(dim=1, keepdim=True)).long())
    return inputs.gather(1, index.unsqueeze(-1).expand(-1, -1, inputs.shape[-1]))


def find_same(tasks: np.ndarray) -> Tensor:
    """Returns the mask (N, N) of pairs of rows of tasks (N, D) that are one task."""
    return torch.from_numpy((tasks[:, None] == tasks[None]).all(axis=-1))


def square_distances(query: Tensor, prototype: Tensor) -> Tensor:
    """Returns |q_i - c_j|^2 (N, N) of queries (N, Z) and prototypes (N, Z)."""
    return (query.unsqueeze(1) - prototype.unsqueeze(0)).square().sum(dim=-1)


def prototypical_loss(query: Tensor, prototype: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Returns -mean_i log p(task of i | q_i) [nats], p the sum of p(j | q_i) over sets j of a task.

        p(j | q) proportional to exp(-|q - c_j|^2 / tau)

    Args:
        query: Embedding q of a set of each row (N, Z).
        prototype: Embedding c of another set of each row (N, Z).
        same: Pairs of rows of one task (N, N), see `find_same`.
        temperature: tau > 0.

    Source: Snell et al. 2017 (arXiv:1703.05175), with a task in place of a class.
    """
    log_prob = (-square_distances(query, prototype) / temperature).log_softmax(dim=1)
    return -log_prob.masked_fill(~same, -torch.inf).logsumexp(dim=1).mean()


def siamese_loss(query: Tensor, prototype: Tensor, same: Tensor, repulsion: float) -> Tensor:
    """Returns mean |q_i - c_j|^2 over pairs of one task + beta mean 1 / (|q_i - c_j|^2 + 0.1).

    The second mean is over pairs of different tasks.

    Args:
        query: Embedding q of a set of each row (N, Z).
        prototype: Embedding c of another set of each row (N, Z).
        same: Pairs of rows of one task (N, N), see `find_same`.
        repulsion: beta >= 0.

    Source: Li et al. 2021, FOCAL (arXiv:2010.01112), equation 13 with n = 2.
    """
    square = square_distances(query, prototype)
    inverse = 1.0 / (square[~same] + MIN_SQUARE)
    apart = inverse.sum() / max(1, len(inverse))
    return square[same].mean() + repulsion * apart


def metric_loss(config: MetricConfig, query: Tensor, prototype: Tensor, same: Tensor) -> Tensor:
    """Returns the loss that the config names."""
    if config.loss == "siamese":
        return siamese_loss(query, prototype, same, config.repulsion)
    return prototypical_loss(query, prototype, same, config.temperature)
