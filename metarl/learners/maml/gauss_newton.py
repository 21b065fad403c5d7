"""Gauss-Newton products with the curvature of the adapted policies.

G v = mean_i J_i^T F_i J_i v,    J_i = d theta_i' / d theta,    F_i = Fisher matrix at theta_i'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.machine.parallel import ALONE, Group, map_chunks
from metarl.core.rollout import Params
from metarl.functional.params import flatten, repeat, total, unflatten
from metarl.learners.maml.inner_loop import Linearised
from metarl.learners.maml.surrogates import Batch
from metarl.networks.policies import MLPPolicy


@dataclass(frozen=True)
class States:
    """States after adaptation, as the Fisher matrix needs them.

    Attributes:
        weight: Of each state in the mean over its task (n, M, 1).
        activations: Of the network at the adapted parameters.
    """

    weight: Tensor
    activations: list[Tensor]


@dataclass(frozen=True)
class AdaptedTasks:
    """A chunk of the tasks, linearised.

    Attributes:
        tape: Their adaptation, for products with J_i.
        blocks: Blocks of states after adaptation, for products with F_i.
    """

    tape: Linearised
    blocks: list[States]

    @staticmethod
    @torch.no_grad()
    def of(policy: MLPPolicy, tape: Linearised, final: Batch) -> AdaptedTasks:
        """Runs the network at the adapted parameters on the states of the last rollout."""
        point, blocks = tape.points[-1], []
        for block in final.split_blocks():
            activations = policy.network.activations(point, block.obs.flatten(1, 2))
            blocks.append(States(block.weight.flatten(1).unsqueeze(-1), activations))
        return AdaptedTasks(tape, blocks)


def gauss_newton(
    policy: MLPPolicy,
    params: Params,
    chunks: Sequence[AdaptedTasks],
    num_tasks: int,
    *,
    num_threads: int = 1,
    group: Group = ALONE,
) -> Callable[[Tensor], Tensor]:
    """Returns the product v -> G v of flat vectors (P,), a mean over the tasks of all chunks.

    At the sampling parameters G is the Hessian of the mean KL divergence, because the residual term
    is zero there. G is positive semi-definite by construction and needs no third derivatives.

    Args:
        policy: The policy.
        params: theta; gives the order and the shapes of the flat vectors.
        chunks: The tasks of this process.
        num_tasks: Tasks of all processes.
        num_threads: Threads over the chunks; the product does not depend on it.
        group: The processes that have the chunks of all tasks.
    """

    def product(vector: Tensor) -> Tensor:
        direction = unflatten(vector, params)

        def sum_chunk(chunk: AdaptedTasks) -> Tensor:
            return flatten(_sum_products(policy, chunk, direction))

        gathered = group.gather(lambda: map_chunks(sum_chunk, chunks, num_threads))
        sums = [each for own in gathered for each in own]
        return torch.stack(sums).sum(dim=0) / num_tasks

    return product


@torch.no_grad()
def _sum_products(policy: MLPPolicy, chunk: AdaptedTasks, direction: Params) -> Params:
    """Returns the sum over a chunk's tasks of J_i^T F_i J_i v, v with the shapes of theta."""
    network, distribution = policy.network, policy.distribution
    point = chunk.tape.points[-1]
    tangent = chunk.tape.jvp(repeat(direction, _num_tasks(chunk)))

    def multiply_fisher(block: States) -> Params:
        output_tangent = network.jvp(point, tangent, block.activations)[-1]
        cotangent, own = distribution.fisher_product(
            point, block.activations[-1], tangent, output_tangent, block.weight
        )
        gradient, _ = network.vjp(point, block.activations, cotangent)
        return {**gradient, **own}

    product = total(map(multiply_fisher, chunk.blocks))
    product = chunk.tape.pull_back({n: product[n] for n in point}, direction)
    return {n: v.sum(dim=0) for n, v in product.items()}


def _num_tasks(chunk: AdaptedTasks) -> int:
    return len(next(iter(chunk.tape.points[-1].values())))
