"""Passes of PPO over single steps, for learners whose policy reads no memory inside the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.core.machine.parallel import map_chunks
from metarl.core.rng import stream
from metarl.core.rollout import Metrics, Params
from metarl.functional.ppo import adapt_lr, approximate_kl, clip_indicator, clipped_loss
from metarl.learners.ppo_settings import PpoSettings
from metarl.networks.distributions import Distribution

SLICE_STEPS = 1024
"""Steps whose gradient a thread computes at once on a CPU."""


@dataclass(frozen=True)
class Steps:
    """P valid steps.

    Attributes:
        obs: Inputs of actor and critic, scaled (P, S).
        action: (P, A).
        log_prob: Of the sampling policy (P,) [nats].
        advantage: (P,) [standard deviations].
        target: Of the value (P,) [scaled].
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor

    def rows(self, index: Tensor | slice) -> Steps:
        """Returns the steps index (B,), or those of a slice, as views."""
        return Steps(*(part[index] for part in vars(self).values()))


def ppo_loss(
    own: Steps,
    output: Tensor,
    value: Tensor,
    count: int,
    distribution: Distribution,
    params: Params,
    config: PpoSettings,
) -> tuple[Tensor, Tensor]:
    """Returns the contribution of some steps to means over a minibatch.

    Args:
        own: P steps.
        output: Of the actor in them (P, A).
        value: Of the critic (P,) [scaled].
        count: Steps of the minibatch, >= P.
        distribution: Over actions.
        params: Its own parameters.
        config: Settings.

    Returns:
        The loss (), and KL divergence, clipped fraction, policy loss and value loss (4,), float64.
    """
    log_ratio = distribution.log_prob(params, output, own.action) - own.log_prob
    policy_loss = clipped_loss(log_ratio, own.advantage, config.clip).sum()
    value_loss = (value - own.target).square().sum()
    loss = policy_loss + config.value_weight * value_loss
    if config.entropy_weight:
        loss = loss - config.entropy_weight * distribution.entropy(params, output).sum()
    with torch.no_grad():
        kl = approximate_kl(log_ratio).sum()
        clipped = clip_indicator(log_ratio, config.clip).sum()
        found = torch.stack([kl, clipped, policy_loss, value_loss]).double()
    return loss / count, found / count


def ppo_gradient(
    own: Steps,
    heads: Callable[[Tensor], tuple[Tensor, Tensor]],
    parameters: Sequence[Tensor],
    distribution: Distribution,
    params: Params,
    config: PpoSettings,
    num_threads: int,
) -> tuple[list[Tensor], Tensor]:
    """Returns the gradient of the loss on a minibatch, computed in slices on a CPU.

    Slices do not depend on the number of threads and are summed in order.

    Args:
        own: B steps.
        heads: Maps inputs (P, S) to outputs of the actor (P, A) and scaled values (P,).
        parameters: Of the gradient.
        distribution: Over actions.
        params: Its own parameters.
        config: Settings.
        num_threads: Threads on a CPU.

    Returns:
        The gradient, and what `ppo_loss` returns beside the loss, over the minibatch.
    """
    count = len(own.target)

    def differentiate(index: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        part = own.rows(index)
        loss, found = ppo_loss(part, *heads(part.obs), count, distribution, params, config)
        return torch.autograd.grad(loss, parameters), found

    on_cpu = own.target.device.type == "cpu"
    slices = torch.arange(count, device=own.target.device)
    slices = slices.tensor_split(-(-count // SLICE_STEPS) if on_cpu else 1)
    gradients, found = zip(*map_chunks(differentiate, slices, num_threads), strict=True)
    gradient = [torch.stack(each).sum(dim=0) for each in zip(*gradients, strict=True)]
    return gradient, torch.stack(found).sum(dim=0)


def take_step(
    adam: torch.optim.Optimizer, gradient: Sequence[Tensor | None], max_gradient: float
) -> Tensor:
    """Takes a step down a gradient of the optimiser's parameters; returns the gradient's norm.

    Raises:
        FloatingPointError: The gradient is not finite.
    """
    parameters = adam.param_groups[0]["params"]
    for parameter, value in zip(parameters, gradient, strict=True):
        parameter.grad = value
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_gradient)
    if not norm.isfinite():
        raise FloatingPointError(f"a gradient's norm is not finite: {float(norm):.3g}")
    adam.step()
    return norm


def draw_orders(seed: int, update: int, rows: int, epochs: int) -> Iterator[np.ndarray]:
    """Yields the order (P,) of the rows in each pass of an update.

    Args:
        seed: Of the learner.
        update: Number of the update, from 0.
        rows: P.
        epochs: Passes.
    """
    for epoch in range(epochs):
        yield stream(seed, "minibatches", update, epoch).permutation(rows)


def split(
    order: np.ndarray, minibatches: int, count: Callable[[Tensor], int] = len
) -> list[Tensor]:
    """Splits rows (P,) into so many minibatches, without those that have no step.

    Args:
        order: Of the rows.
        minibatches: Their number, if there are as many rows.
        count: Returns the number of the steps of rows (B,); by default one each.
    """
    parts = torch.from_numpy(order).tensor_split(max(1, min(minibatches, len(order))))
    return [part for part in parts if count(part)]


def make_passes(
    orders: Iterable[np.ndarray],
    step: Callable[[Tensor], Tensor],
    adam: torch.optim.Optimizer,
    config: PpoSettings,
    count: Callable[[Tensor], int] = len,
) -> Metrics:
    """Makes a pass for each order of the rows, in minibatches, and adapts the step size.

    Args:
        orders: Of the rows (P,), one for each pass.
        step: Takes a step on the rows (B,); returns those of `ppo_loss` and the gradient's norm.
        adam: The optimiser.
        config: Settings.
        count: Returns the number of the steps of rows (B,); by default one each.
    """
    group, kl, totals, rounds = adam.param_groups[0], 0.0, torch.zeros(5, dtype=torch.float64), 0
    for order in orders:
        parts = split(order, config.minibatches, count)
        found = torch.stack([step(part) for part in parts]).cpu()
        kl = float(found[:, 0].mean())
        totals, rounds = totals + found.sum(dim=0), rounds + len(found)
        group["lr"] = adapt_lr(group["lr"], config.lr, kl, config.target_kl)
    means = (totals / rounds).tolist()
    names = "clipped", "policy_loss", "value_loss", "gradient_norm"
    named = {f"update/{name}": v for name, v in zip(names, means[1:], strict=True)}
    return {"kl": kl, "update/lr": group["lr"], **named}
