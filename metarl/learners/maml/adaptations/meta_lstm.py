"""Meta-LSTM: an LSTM takes the place of the gradient step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.functional.params import leaves, repeat
from metarl.learners.maml.adaptations.learned_optimiser import (
    OptimiserState,
    from_rows,
    initial_optimiser,
    optimise,
    to_rows,
)
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.inner_loop import Tape, gradient
from metarl.learners.maml.surrogates import Batch
from metarl.networks.policies import MLPPolicy

OWN = "optimiser/"
"""Beginning of the names of the optimiser's parameters among the meta-parameters."""


@dataclass(frozen=True)
class LearnedSteps:
    """Steps of a learned optimiser, see `optimise`, with a state of its own for every parameter.

    As in the paper, gradients count as constants, so there is no second derivative: J is that of
    theta_K in theta_0 and in the optimiser's parameters, by autograd. The paper's LSTM also reads
    the loss. The surrogate loss is zero at the policy that acted, so here it reads zero.

    Attributes:
        policy: The policy.
        config: Settings.

    Source: Ravi & Larochelle 2017, Optimization as a model for few-shot learning.
    """

    policy: MLPPolicy
    config: MamlConfig

    def initial(self, params: Params, rng: np.random.Generator) -> Params:
        """See `Adaptation`."""
        one = next(iter(params.values()))
        own = initial_optimiser(rng, self.config.optimiser_size, self.config.inner_lr)
        return {**params, **{OWN + n: v.to(one) for n, v in own.items()}}

    def start(self, params: Params, num_tasks: int) -> Params:
        """See `Adaptation`."""
        return repeat({n: v for n, v in params.items() if self.moves(n)}, num_tasks)

    def moves(self, name: str) -> bool:
        """See `Adaptation`."""
        return not name.startswith(OWN)

    def learns(self, name: str) -> bool:
        """See `Adaptation`."""
        del name
        return True

    @torch.no_grad()
    def steps(self, params: Params, start: Params, batches: Sequence[Batch]) -> Tape:
        """See `Adaptation`."""
        own, points, found = _optimiser(params), [leaves(start)], []
        theta, state = to_rows(start), self._begin(start)
        for batch in batches:
            found.append(self._gradient(points[-1], batch))
            theta, state = self._move(own, state, theta, found[-1], points[0])
            points.append(leaves(_from_rows(theta, points[0])))
        return Tape(points, found, (), (), ())

    @torch.no_grad()
    def step(self, params: Params, points: Sequence[Params], batches: Sequence[Batch]) -> Tape:
        """See `Adaptation`; repeats the earlier steps, for the state of the optimiser."""
        tape = self.steps(params, points[0], batches)
        return Tape(tape.points[-2:], tape.gradients[-1:], (), (), ())

    def tape(
        self, params: Params, points: Sequence[Params], batches: Sequence[Batch]
    ) -> LearnedTape:
        """See `Adaptation`."""
        found = [self._gradient(p, b) for p, b in zip(points, batches, strict=False)]
        count = len(next(iter(points[0].values())))
        with torch.enable_grad():
            start = to_rows(points[0]).detach().clone().requires_grad_()
            own = leaves(repeat({n: v for n, v in params.items() if not self.moves(n)}, count))
            batched = {n: v if v.dim() == 3 else v.unsqueeze(1) for n, v in _optimiser(own).items()}
            theta, state = start.clone(), self._begin(points[0])
            for each in found:
                theta, state = self._move(batched, state, theta, each, points[0])
        return LearnedTape(points, found, start, own, theta)

    def _begin(self, start: Params) -> OptimiserState:
        return OptimiserState.initial(to_rows(start).detach(), self.config.optimiser_size)

    def _gradient(self, point: Params, batch: Batch) -> Params:
        inside = {n: v.detach() for n, v in point.items()}
        inside |= self.policy.distribution.clamp(inside)
        return gradient(self.policy, self.config.surrogate, inside, batch)

    def _move(
        self, own: Params, state: OptimiserState, theta: Tensor, step: Params, like: Params
    ) -> tuple[Tensor, OptimiserState]:
        """Moves theta (n, P) into the bounds of the distribution and takes a step."""
        point = _from_rows(theta, like)
        inside = to_rows({**point, **self.policy.distribution.clamp(point)})
        rows = to_rows({n: step[n] for n in point})
        return optimise(own, state, inside, rows, theta.new_zeros(len(theta), 1))


@dataclass(frozen=True)
class LearnedTape:
    """Steps of a learned optimiser as a graph, for products with its Jacobian.

    Attributes:
        points: See `Linearised`.
        gradients: See `Linearised`.
        start: theta_0, a leaf (n, P).
        own: The optimiser's parameters of each task, leaves (n, *shape).
        last: theta_K, computed from the leaves (n, P).
    """

    points: Sequence[Params]
    gradients: Sequence[Params]
    start: Tensor
    own: Params
    last: Tensor

    def pull_back(self, cotangent: Params, params: Params) -> Params:
        """See `Linearised`."""
        rows = to_rows({n: cotangent[n] for n in self.points[0]})
        with torch.enable_grad():
            found = self._vjp(rows, create_graph=False)
        start, *own = (v.detach() for v in found)
        parts = _from_rows(start, self.points[0]) | dict(zip(self.own, own, strict=True))
        return {n: parts[n] for n in params}

    def jvp(self, vector: Params) -> Params:
        """See `Linearised`; the derivative of J^T u in u, along v."""
        with torch.enable_grad():
            rows = torch.zeros_like(self.last, requires_grad=True)
            found = self._vjp(rows, create_graph=True)
            along = [to_rows({n: vector[n] for n in self.points[0]})]
            along += [vector[n] for n in self.own]
            inner = rows.sum() * 0.0  # without a step the optimiser has no influence
            for each, direction in zip(found, along, strict=True):
                inner = inner + (each * direction).sum()
            (product,) = torch.autograd.grad(inner, rows)
        return _from_rows(product, self.points[0])

    def _vjp(self, rows: Tensor, *, create_graph: bool) -> list[Tensor]:
        """Returns J^T u for rows u (n, P): of theta_0, then of the optimiser's parameters."""
        inputs = [self.start, *self.own.values()]
        options = {"create_graph": create_graph, "retain_graph": True, "allow_unused": True}
        found = torch.autograd.grad(self.last, inputs, rows, **options)
        pairs = zip(found, inputs, strict=True)
        return [torch.zeros_like(v) if g is None else g for g, v in pairs]


def _optimiser(params: Params) -> Params:
    return {n.removeprefix(OWN): v for n, v in params.items() if n.startswith(OWN)}


def _from_rows(rows: Tensor, like: Params) -> Params:
    """Returns rows (n, P) in the shapes of other values (n, *shape)."""
    return from_rows(rows, {n: v[0] for n, v in like.items()})
