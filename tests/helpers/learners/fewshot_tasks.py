"""Small few-shot problems in double precision, and every learner on them."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from metarl.fewshot.tasks import Tasks

NUM_TASKS, NUM_CLASSES, NUM_INPUTS = 3, 3, 4


@dataclass(frozen=True)
class Small:
    """Random regressions with 2 targets, or classifications of 3 clouds; 6 + 6 examples."""

    is_classification: bool
    output_size: int
    input_size: int = NUM_INPUTS
    hidden_sizes: tuple[int, ...] = (5, 4)

    def sample(self, rng, num_tasks, *, is_test=False):
        rows = (num_tasks, 6)
        x = rng.normal(size=(*rows, self.input_size)), rng.normal(size=(*rows, self.input_size))
        if self.is_classification:
            way = np.arange(6) % NUM_CLASSES
            y = [np.broadcast_to(np.eye(NUM_CLASSES)[way], (*rows, NUM_CLASSES))] * 2
        else:
            y = [rng.normal(size=(*rows, self.output_size)) for _ in range(2)]
        parts = (x[0], y[0], x[1], y[1])
        return Tasks(*(torch.from_numpy(np.array(part)) for part in parts))


REGRESSION = Small(False, 2)
SINGLE = Small(False, 1)
CLASSIFICATION = Small(True, NUM_CLASSES)


def tasks_of(problem, num_tasks=NUM_TASKS, seed=0):
    return problem.sample(np.random.default_rng(seed), num_tasks)


def double_params(learner, seed=1):
    """Draws parameters with no zeros among them, so that no derivative vanishes by chance."""
    rng = np.random.default_rng(seed)
    params = learner.initial(np.random.default_rng(seed))
    return {
        n: v.double() + 0.1 * torch.from_numpy(np.array(rng.normal(size=v.shape)))
        for n, v in params.items()
    }


def _load(*, return_X_y):  # noqa: N803 (scikit-learn's name)
    assert return_X_y
    labels = np.arange(400) % 10
    images = np.random.default_rng(0).integers(0, 17, (400, 64)).astype(float)
    images[:, 0] = labels
    return images, labels


FAKE_SKLEARN = SimpleNamespace(load_digits=_load)
"""A stand-in for sklearn.datasets: the first pixel of an image is its label."""
