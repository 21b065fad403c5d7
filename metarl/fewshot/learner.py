"""The protocol of a few-shot learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from metarl.core.rollout import Params
from metarl.fewshot.tasks import Tasks


@dataclass(frozen=True)
class Outer:
    """The outer step of a learner.

    Attributes:
        num_tasks: N, tasks of a meta-update.
        step_size: Of the optimiser.
        is_sgd: Plain gradient descent instead of Adam.
    """

    num_tasks: int = 25
    step_size: float = 1e-3
    is_sgd: bool = False


class FewShotLearner(Protocol):
    """Meta-parameters, a loss to train them by, and predictions for new tasks."""

    @property
    def outer(self) -> Outer:
        """The outer step."""
        ...

    def initial(self, rng: np.random.Generator) -> Params:
        """Draws the meta-parameters."""
        ...

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns the number () whose gradient the outer step follows.

        Args:
            params: Meta-parameters (*shape).
            tasks: N tasks.
            rng: The stream of this meta-update, for learners that sample.
        """
        ...

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """Predicts the queries of tasks.

        Args:
            params: Meta-parameters.
            tasks: N tasks; their query targets are not used.
            num_steps: Adaptation steps.

        Returns:
            Outputs (N, Q, A) after 0 .. num_steps steps. A learner that adapts at once, without
            steps, returns two entries, before and after, or only that after.
        """
        ...
