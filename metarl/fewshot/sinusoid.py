"""Regression of sinusoids, the first example of MAML."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metarl.fewshot.tasks import Tasks

TEST_QUERIES = 100
"""Query points of a test task: the error of a task is that of its curve."""


@dataclass(frozen=True)
class Sinusoid:
    """Tasks y = a sin(x - p), a uniform in [0.1, 5], p in [0, pi], x in [-5, 5].

    A training task has as many query points as shots, as in the authors' program. Test tasks are
    new draws.

    Attributes:
        shots: M, points to adapt to.

    Source: Finn et al. 2017 (arXiv:1703.03400), section 5.1.
    """

    shots: int

    is_classification = False
    input_size = 1
    output_size = 1
    hidden_sizes = (40, 40)

    def sample(self, rng: np.random.Generator, num_tasks: int, *, is_test: bool = False) -> Tasks:
        """See `Problem`."""
        count = self.shots + (TEST_QUERIES if is_test else self.shots)
        amplitude = rng.uniform(0.1, 5.0, (num_tasks, 1, 1))
        phase = rng.uniform(0.0, np.pi, (num_tasks, 1, 1))
        x = rng.uniform(-5.0, 5.0, (num_tasks, count, 1))
        y = amplitude * np.sin(x - phase)
        inputs, targets = torch.from_numpy(x).float(), torch.from_numpy(y).float()
        shots = self.shots
        return Tasks(inputs[:, :shots], targets[:, :shots], inputs[:, shots:], targets[:, shots:])
