"""Few-shot tasks: the record of a meta-batch, the protocol of a family of tasks, and losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Tasks:
    """N tasks, each with M examples to adapt to and Q examples to be measured on.

    Attributes:
        support_x: (N, M, S) inputs to adapt to.
        support_y: (N, M, A) their targets: numbers, or one-hot rows of A classes.
        query_x: (N, Q, S) inputs that are not in the support.
        query_y: (N, Q, A) their targets.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    def __len__(self) -> int:
        return len(self.support_x)


class Problem(Protocol):
    """A distribution of tasks.

    Attributes:
        is_classification: Targets are one-hot rows.
        input_size: S.
        output_size: A.
        hidden_sizes: Units of each hidden layer of a network for it.
    """

    @property
    def is_classification(self) -> bool: ...  # noqa: D102

    @property
    def input_size(self) -> int: ...  # noqa: D102

    @property
    def output_size(self) -> int: ...  # noqa: D102

    @property
    def hidden_sizes(self) -> tuple[int, ...]: ...  # noqa: D102

    def sample(self, rng: np.random.Generator, num_tasks: int, *, is_test: bool = False) -> Tasks:
        """Draws tasks of the training, or held-out tasks with more queries."""
        ...


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared error (N,) of outputs (N, M, A)."""
    return (output - target).square().mean(dim=(1, 2))


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the mean cross-entropy (N,) [nats] of logits (N, M, A) with one-hot rows."""
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=1)


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the fraction (N,) of rows (N, M, A) whose largest logit is that of the class."""
    return (logits.argmax(dim=-1) == target.argmax(dim=-1)).to(logits.dtype).mean(dim=1)


def loss(problem: Problem, output: Tensor, target: Tensor) -> Tensor:
    """Returns the loss (N,) of a problem: the squared error or the cross-entropy."""
    return (cross_entropy if problem.is_classification else squared_error)(output, target)


def score(problem: Problem, output: Tensor, target: Tensor) -> Tensor:
    """Returns what a table shows (N,): the squared error or the accuracy."""
    return (accuracy if problem.is_classification else squared_error)(output, target)
