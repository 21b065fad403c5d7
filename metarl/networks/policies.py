"""A policy as a function of its parameters: a network with a distribution over actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from metarl.core.rollout import Params
from metarl.networks.distributions import Distribution


class Network(Protocol):
    """A network as a function of (params, inputs), with the derivatives that MAML needs.

    Parameters have the task axis first. It owns no values, and several threads may use it.

    Attributes:
        input_size: S.
        output_size: A.
    """

    @property
    def input_size(self) -> int: ...  # noqa: D102

    @property
    def output_size(self) -> int: ...  # noqa: D102

    def initial(self, rng: np.random.Generator, output_gain: float = 1.0) -> Params:
        """Draws the parameters (*shape) of one task; output_gain scales the last layer's."""

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns outputs (N, M, A) for inputs (N, M, S) and parameters (N, *shape)."""

    def activations(self, params: Params, inputs: Tensor) -> list[Tensor]:
        """Returns what the derivatives at params need; the last one is the output (N, M, A)."""

    def jvp(self, params: Params, tangent: Params, activations: Sequence[Tensor]) -> list[Tensor]:
        """Returns tangents along a direction (N, *shape), that of the output (N, M, A) last."""

    def vjp(
        self, params: Params, activations: Sequence[Tensor], cotangent: Tensor
    ) -> tuple[Params, Any]:
        """Returns the gradient of sum(cotangent * output), and what `vjp_tangent` reuses."""

    def vjp_tangent(
        self,
        params: Params,
        tangent: Params,
        activations: Sequence[Tensor],
        tangents: Sequence[Tensor],
        cotangents: Any,
        cotangent_tangent: Tensor,
    ) -> Params:
        """Differentiates `vjp` along a direction.

        Args:
            params: (N, *shape).
            tangent: The direction, (N, *shape).
            activations: At params.
            tangents: From `jvp` along the direction.
            cotangents: From `vjp`.
            cotangent_tangent: Tangent (N, M, A) of the cotangent that `vjp` was given.
        """


@dataclass(frozen=True)
class MLPPolicy:
    """A network whose outputs (N, M, A) are those that a distribution needs.

    Attributes:
        network: Maps observations to outputs.
        distribution: Over actions, given the outputs.
    """

    network: Network
    distribution: Distribution

    def initial(self, rng: np.random.Generator, output_gain: float = 1.0) -> Params:
        """Draws the network's parameters and adds the distribution's own.

        Args:
            rng: The stream of the initialisation.
            output_gain: See `Network.initial`.

        Raises:
            ValueError: Network and distribution have a parameter of the same name.
        """
        own = self.distribution.initial(self.network.output_size)
        params = self.network.initial(rng, output_gain)
        if both := own.keys() & params.keys():
            raise ValueError(f"the network has a parameter {both.pop()!r}, as the distribution has")
        return {**params, **own}
