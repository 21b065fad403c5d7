"""The adaptation of tasks as a value, and that by gradient steps of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from metarl.core.rollout import Params
from metarl.functional.params import repeat
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.inner_loop import RATE, Linearised, Rate, Tape, inner_steps, linearise
from metarl.learners.maml.surrogates import Batch
from metarl.networks.latent import LATENT
from metarl.networks.mlp import CONTEXT
from metarl.networks.policies import MLPPolicy


class Adaptation(Protocol):
    """Maps meta-parameters to those of each task, step by step.

    The meta-parameters are those of the policy, and others by which tasks adapt.

    Attributes:
        policy: The policy.
        config: Settings.
    """

    @property
    def policy(self) -> MLPPolicy: ...  # noqa: D102

    @property
    def config(self) -> MamlConfig: ...  # noqa: D102

    def initial(self, params: Params, rng: np.random.Generator) -> Params:
        """Returns the first meta-parameters from the first parameters of the policy."""

    def start(self, params: Params, num_tasks: int) -> Params:
        """Returns theta_0 of every task, each value (N, *shape), as views."""

    def moves(self, name: str) -> bool:
        """Returns whether an adaptation changes the parameter of this name."""

    def learns(self, name: str) -> bool:
        """Returns whether an update changes the meta-parameter of this name."""

    def steps(self, params: Params, start: Params, batches: Sequence[Batch]) -> Tape:
        """Adapts theta_0 to batches, each sampled with the parameters before its step.

        Args:
            params: Meta-parameters.
            start: theta_0, each value (n, *shape).
            batches: One for each step.

        Returns:
            A tape without losses, whose points are theta_0 .. theta_K.
        """

    def step(
        self, params: Params, points: Sequence[Params], batches: Sequence[Batch]
    ) -> Linearised:
        """Takes only the last step.

        Args:
            params: Meta-parameters.
            points: theta_0 .. theta_k, each value (n, *shape).
            batches: k + 1 of them; batch j was sampled with theta_j.

        Returns:
            A tape without losses, whose last point is theta_{k+1}.
        """

    def tape(
        self, params: Params, points: Sequence[Params], batches: Sequence[Batch]
    ) -> Linearised:
        """Linearises the adaptation at known points theta_0 .. theta_K."""


@dataclass(frozen=True)
class GradientSteps:
    """Gradient steps of MAML and of its relatives.

    The meta-parameters are those of the policy and, if step sizes are learned, one for each of
    them, named RATE + name.

    Attributes:
        policy: The policy.
        config: Settings.
    """

    policy: MLPPolicy
    config: MamlConfig

    def initial(self, params: Params, rng: np.random.Generator) -> Params:
        """See `Adaptation`."""
        del rng
        if not self.config.learn_rates:
            return params
        rates = {RATE + n: torch.full_like(params[n], self.config.inner_lr) for n in params}
        return {**params, **rates}

    def start(self, params: Params, num_tasks: int) -> Params:
        """See `Adaptation`."""
        own = {n: v for n, v in params.items() if not n.startswith(RATE)}
        return repeat(own, num_tasks)

    def factors(self, num_steps: int) -> list[float]:
        """Returns the factor on the step size of each step.

        1, then later_lr, then later_decay times the previous one.
        """
        later, decay = self.config.later_lr, self.config.later_decay
        return [1.0, *(later * decay**k for k in range(num_steps - 1))][:num_steps]

    def rates(self, params: Params, num_steps: int) -> list[Rate]:
        """Returns alpha of each step."""
        first = self.config.inner_lr
        moved = [n for n in params if self.moves(n)]
        if self.config.learn_rates:
            return [
                {n: factor * params[RATE + n].detach().unsqueeze(0) for n in moved}
                for factor in self.factors(num_steps)
            ]
        sizes = [first * factor for factor in self.factors(num_steps)]
        if self.config.adapts == "all":
            return list(sizes)
        one = next(iter(params.values()))
        return [{n: one.new_full((), size) for n in moved} for size in sizes]

    def moves(self, name: str) -> bool:
        """See `Adaptation`."""
        if name.startswith(RATE):
            return False
        if self.config.adapts == "context":
            return name == CONTEXT
        if self.config.adapts == "latent":
            return name == LATENT
        if self.config.adapts == "head":
            last = len(self.config.hidden_sizes)
            return name in (f"weight{last}", f"bias{last}", "log_std")
        return True

    def learns(self, name: str) -> bool:
        """See `Adaptation`."""
        if name.startswith(RATE):
            return self.moves(name.removeprefix(RATE))
        return name != CONTEXT  # every task starts from the same context, zero

    def steps(self, params: Params, start: Params, batches: Sequence[Batch]) -> Tape:
        """See `Adaptation`."""
        rates = self.rates(params, len(batches))
        return inner_steps(self.policy, self.config.surrogate, start, batches, rates)

    def step(self, params: Params, points: Sequence[Params], batches: Sequence[Batch]) -> Tape:
        """See `Adaptation`."""
        rates = self.rates(params, len(batches))[-1:]
        last = points[-1], batches[-1:]
        return inner_steps(self.policy, self.config.surrogate, *last, rates)

    def tape(self, params: Params, points: Sequence[Params], batches: Sequence[Batch]) -> Tape:
        """See `Adaptation`; its Jacobian is the identity for first-order learners."""
        steps = [] if self.config.first_order else batches
        count = len(steps)
        learned = self.factors(count) if self.config.learn_rates else ()
        rates = self.rates(params, count)
        return linearise(self.policy, self.config.surrogate, points, steps, rates, learned)
