"""Siamese networks: a class is that of the most similar examples."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from metarl.core.rollout import Params
from metarl.fewshot.learner import Outer
from metarl.fewshot.network import ReluMLP
from metarl.fewshot.tasks import Problem, Tasks


@dataclass(frozen=True)
class Siamese:
    """Learns whether two examples have the same class, and classifies by the answers.

        p(same) = sigmoid(b + sum_i w_i |sigmoid(f(x))_i - sigmoid(f(x'))_i|)

    Training knows pairs alone: every query with every example of the support. A new query has the
    class whose examples have the largest mean probability; with one shot that is the paper's rule.

    Attributes:
        problem: A classification.
        embedding_size: Numbers of an embedding.
        outer: The outer step.

    Source: Koch et al. 2015, Siamese neural networks for one-shot image recognition.
    """

    problem: Problem
    embedding_size: int = 64
    outer: Outer = field(default_factory=Outer)

    @property
    def network(self) -> ReluMLP:
        """f."""
        return replace(ReluMLP.of(self.problem), output_size=self.embedding_size)

    def initial(self, rng: np.random.Generator) -> Params:
        """See `FewShotLearner`."""
        # a large distance means another class from the start
        weight = torch.full((self.embedding_size,), -1.0 / self.embedding_size**0.5)
        return {**self.network.initial(rng), "similarity": weight, "offset": torch.zeros(())}

    def similarity(self, params: Params, tasks: Tasks) -> Tensor:
        """Returns the logit (N, Q, M) that query and example of the support have one class."""
        own = {n: v for n, v in params.items() if n not in ("similarity", "offset")}
        support = self.network.embed(own, tasks.support_x).sigmoid()
        query = self.network.embed(own, tasks.query_x).sigmoid()
        distance = (query.unsqueeze(2) - support.unsqueeze(1)).abs()
        return distance @ params["similarity"] + params["offset"]

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns the mean cross-entropy of all pairs; both kinds of pairs weigh the same."""
        is_same = torch.bmm(tasks.query_y, tasks.support_y.mT)
        ways = tasks.query_y.shape[-1]
        weight = is_same * (ways - 1) + (1.0 - is_same)
        logits = self.similarity(params, tasks)
        pairs = binary_cross_entropy_with_logits(logits, is_same, reduction="none")
        return (weight * pairs).sum() / weight.sum()

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """Returns the mean probability (N, Q, A) of the examples of each class."""
        members = tasks.support_y / tasks.support_y.sum(dim=1, keepdim=True)
        return [torch.bmm(self.similarity(params, tasks).sigmoid(), members)]
