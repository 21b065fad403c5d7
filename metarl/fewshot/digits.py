"""Classification of scikit-learn's handwritten digits, with classes held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.core.errors import require_package
from metarl.core.rng import stream
from metarl.fewshot.names import HELD_OUT
from metarl.fewshot.tasks import Tasks

TRAIN_QUERIES, TEST_QUERIES = 5, 15
"""Query images of each class."""


@dataclass(frozen=True)
class Digits:
    """Tasks of W classes in random order, with K images of each.

    Six digits are seen in training, four are held out, and the seed draws which. With ten digits
    that leaves 20 sets of three for training and 4 for the test; the digits that a split makes easy
    or hard differ between seeds. Digits are not turned to make more classes, as Omniglot's letters
    are, for a 6 upside down is a held-out 9, and 0, 1 and 8 hardly change.

    Attributes:
        images: (C, 8 * 8), from 0 to 1.
        labels: (C,), the digit of each.
        train_digits: Classes of training tasks.
        test_digits: Classes of test tasks.
        ways: W.
        shots: K.
    """

    images: Tensor
    labels: np.ndarray
    train_digits: tuple[int, ...]
    test_digits: tuple[int, ...]
    ways: int
    shots: int

    is_classification = True
    hidden_sizes = (64, 64)

    @property
    def input_size(self) -> int:
        """S."""
        return self.images.shape[1]

    @property
    def output_size(self) -> int:
        """A, the number of classes of a task."""
        return self.ways

    @classmethod
    def load(cls, ways: int, shots: int, seed: int) -> Digits:
        """Reads the 1,797 images that scikit-learn brings along.

        Raises:
            ResourceError: scikit-learn is missing; the message has the command that installs it.
        """
        package = require_package("sklearn.datasets", "fewshot", "--task digits")
        images, labels = package.load_digits(return_X_y=True)
        order = stream(seed, "digits-split").permutation(10).tolist()
        held_out, seen = tuple(order[:HELD_OUT]), tuple(order[HELD_OUT:])
        inputs = torch.from_numpy(images / 16.0).float()
        return cls(inputs, labels, seen, held_out, ways, shots)

    def sample(self, rng: np.random.Generator, num_tasks: int, *, is_test: bool = False) -> Tasks:
        """See `Problem`."""
        digits = self.test_digits if is_test else self.train_digits
        queries = TEST_QUERIES if is_test else TRAIN_QUERIES
        places = {digit: np.flatnonzero(self.labels == digit) for digit in digits}
        count = self.shots + queries
        chosen = [
            [
                rng.choice(places[digit], count, replace=False)
                for digit in rng.choice(digits, self.ways, replace=False).tolist()
            ]
            for _ in range(num_tasks)
        ]
        index = torch.from_numpy(np.array(chosen))  # (N, W, K + Q)
        support = _shuffle(index[:, :, : self.shots], rng)
        query = _shuffle(index[:, :, self.shots :], rng)
        return Tasks(*self._look_up(*support), *self._look_up(*query))

    def _look_up(self, index: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[index], one_hot(way, self.ways).float()


def _shuffle(index: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixes the classes of (N, W, M); returns images and classes (N, W * M)."""
    _, ways, count = index.shape
    order = torch.from_numpy(rng.permutation(ways * count))
    way = torch.arange(ways).repeat_interleave(count).expand(len(index), -1)
    return index.flatten(1)[:, order], way[:, order]
