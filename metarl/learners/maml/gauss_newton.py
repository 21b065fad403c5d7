"""The curvature of the return after adaptation: Gauss-Newton products, as functions of the adapted policy.

G v = mean_i J_i^T F_i J_i v,    J_i = d theta_i' / d theta,    F_i the Fisher matrix of the adapted policy of task i
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.parallel import map_chunks
from metarl.core.rollout import Params
from metarl.functional.params import flatten, repeat, total, unflatten
from metarl.learners.maml.inner_loop import Tape
from metarl.learners.maml.surrogates import AnyPolicy, Batch


@dataclass(frozen=True)
class States:
    """What the Fisher matrix reads of a block of states after adaptation.

    Attributes:
        weight: (n, M, 1), each state's share of its task.
        activations: Of the network at the adapted parameters.
    """

    weight: Tensor
    activations: list[Tensor]


@dataclass(frozen=True)
class AdaptedTasks:
    """Some tasks, as the product reads them.

    Attributes:
        tape: Their adaptation, linearised: J_i.
        blocks: The states after it: F_i.
    """

    tape: Tape
    blocks: list[States]

    @staticmethod
    @torch.no_grad()
    def of(policy: AnyPolicy, tape: Tape, final: Batch) -> AdaptedTasks:
        """Runs the network at the adapted parameters on the states of the rollout after adaptation."""
        point, blocks = tape.points[-1], []
        for block in final.blocks():
            activations = policy.activations(point, block.obs.flatten(1, 2))
            blocks.append(States(block.weight.flatten(1).unsqueeze(-1), activations))
        return AdaptedTasks(tape, blocks)


def gauss_newton(
    policy: AnyPolicy, params: Params, parts: Sequence[AdaptedTasks], *, num_threads: int = 1
) -> Callable[[Tensor], Tensor]:
    """Returns the product v -> G v of flat vectors (P,), the mean over the tasks of all parts.

    At the sampling parameters G is the Hessian of the mean KL divergence (the residual term is zero there), positive
    semi-definite by construction, and needs no third derivatives.

    Args:
        policy: The policy.
        params: theta; gives order and shapes of the flat vectors.
        parts: The tasks, in pieces that are worked on one at a time.
        num_threads: Threads over the parts; the product does not depend on it.
    """
    num_tasks = sum(_num_tasks(part) for part in parts)

    def product(vector: Tensor) -> Tensor:
        direction = unflatten(vector, params)

        def one(part: AdaptedTasks) -> Tensor:
            return flatten(_summed_product(policy, part, direction))

        return torch.stack(map_chunks(one, parts, num_threads)).sum(dim=0) / num_tasks

    return product


@torch.no_grad()
def _summed_product(policy: AnyPolicy, part: AdaptedTasks, direction: Params) -> Params:
    """Sum over a part's tasks of J_i^T F_i J_i v, v with the shapes of theta."""
    point = part.tape.points[-1]
    moved = part.tape.jacobian(repeat(direction, _num_tasks(part)))

    def pulled(block: States) -> Params:
        output = block.activations[-1]
        tangent = policy.tangents(point, moved, block.activations)[-1]
        cotangent, others = policy.fisher_pull(point, moved, output, tangent, block.weight)
        slopes, _ = policy.pullback(point, block.activations, cotangent)
        return {**slopes, **others}

    whole = total(map(pulled, part.blocks))
    whole = part.tape.transposed({n: whole[n] for n in direction})
    return {n: v.sum(dim=0) for n, v in whole.items()}


def _num_tasks(part: AdaptedTasks) -> int:
    return len(part.tape.points[-1]["weight0"])
