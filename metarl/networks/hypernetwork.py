"""An actor whose weights are generated from the memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from metarl.networks.layers import Linear, draw_orthogonal, tanh


class HyperActor(nn.Module):
    """A tanh network on the observation, with weights that are linear in the memory's features.

    At the start the generating matrix is zero, and its bias holds a usual first network
    (Bias-HyperInit): without it, published returns fell from 2300 to 378.

    Args:
        features_size: H.
        obs_size: S.
        hidden_size: Units of the tanh layer.
        action_size: A.

    Source: Beck et al. 2023 (arXiv:2309.14970); initialisation of Beck et al. 2022
    (arXiv:2210.11348).
    """

    def __init__(self, features_size: int, obs_size: int, hidden_size: int, action_size: int):
        super().__init__()
        self.features_size = features_size
        self.shapes = [(hidden_size, obs_size), (hidden_size, 1)]
        self.shapes += [(action_size, hidden_size), (action_size, 1)]
        self.counts = [rows * columns for rows, columns in self.shapes]
        self.generate = Linear(features_size, sum(self.counts))

    def initialise(self, rng: np.random.Generator) -> None:
        """Sets the first network: orthogonal matrices, the last scaled by 0.01, biases zero."""
        first, second = draw_orthogonal(rng, self.shapes[0]), draw_orthogonal(rng, self.shapes[2])
        zeros = [torch.zeros(self.counts[i]) for i in (1, 3)]
        network = [first.flatten(), zeros[0], 0.01 * second.flatten(), zeros[1]]
        self.generate.bias.data.copy_(torch.cat(network))
        self.generate.weight.data.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps features and scaled observations (..., H + S) to actor outputs (..., A)."""
        features, obs = inputs.flatten(0, -2).tensor_split([self.features_size], dim=-1)
        parts = self.generate(features).split(self.counts, dim=-1)
        weights = [p.unflatten(-1, shape) for p, shape in zip(parts, self.shapes, strict=True)]
        hidden = tanh(torch.baddbmm(weights[1], weights[0], obs.unsqueeze(-1)))
        output = torch.baddbmm(weights[3], weights[2], hidden).squeeze(-1)
        return output.unflatten(0, inputs.shape[:-1])
