"""Prototypical networks: a class is the mean of its embedded examples."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.fewshot.learner import Outer
from metarl.fewshot.network import ReluMLP
from metarl.fewshot.tasks import Problem, Tasks, loss


@dataclass(frozen=True)
class Prototypical:
    """Classifies by the squared distance to the mean of each class, in a learned space.

        c_k = mean of f(x) over the support of class k,    logit_k = -|f(x) - c_k|^2

    Attributes:
        problem: A classification.
        embedding_size: Numbers of an embedding.
        outer: The outer step.

    Source: Snell et al. 2017 (arXiv:1703.05175).
    """

    problem: Problem
    embedding_size: int = 32
    outer: Outer = field(default_factory=Outer)

    @property
    def network(self) -> ReluMLP:
        """f."""
        return replace(ReluMLP.of(self.problem), output_size=self.embedding_size)

    def initial(self, rng: np.random.Generator) -> Params:
        """See `FewShotLearner`."""
        return self.network.initial(rng)

    def logits(self, params: Params, tasks: Tasks) -> Tensor:
        """Returns the logits (N, Q, A) of the queries."""
        support = self.network.embed(params, tasks.support_x)
        query = self.network.embed(params, tasks.query_x)
        members = tasks.support_y / tasks.support_y.sum(dim=1, keepdim=True)
        centres = torch.bmm(members.mT, support)  # (N, A, Z)
        return -(query.unsqueeze(2) - centres.unsqueeze(1)).square().sum(dim=-1)

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns the mean cross-entropy of the queries."""
        return loss(self.problem, self.logits(params, tasks), tasks.query_y).mean()

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """Returns the logits after reading the support; there are none before."""
        return [self.logits(params, tasks)]
