"""A policy as a function of its parameters: a network with a distribution over actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metarl.core.rollout import Params
from metarl.networks.distributions import Distribution
from metarl.networks.mlp import TanhMLP


@dataclass(frozen=True)
class MLPPolicy:
    """A tanh network whose outputs (N, M, A) are those that a distribution needs.

    Attributes:
        network: Maps observations to outputs.
        distribution: Over actions, given the outputs.
    """

    network: TanhMLP
    distribution: Distribution

    def initial(self, rng: np.random.Generator, output_gain: float = 1.0) -> Params:
        """Draws the network's parameters and adds the distribution's own.

        Args:
            rng: The stream of the initialisation.
            output_gain: See `TanhMLP.initial`.
        """
        own = self.distribution.initial(self.network.output_size)
        return {**self.network.initial(rng, output_gain), **own}
