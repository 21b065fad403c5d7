"""A ReLU network as a function of its parameters, for N tasks at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.fewshot.tasks import Problem
from metarl.networks.mlp import TanhMLP


@dataclass(frozen=True)
class ReluMLP:
    """A ReLU network with any number of derivatives, by autograd.

    The parameters are named and drawn as those of `TanhMLP`, whose derivatives by hand are for
    tanh alone.

    Attributes:
        input_size: S.
        output_size: A.
        hidden_sizes: Units of each hidden layer, at least one layer.
    """

    input_size: int
    output_size: int
    hidden_sizes: tuple[int, ...]

    @classmethod
    def of(cls, problem: Problem) -> ReluMLP:
        """Returns a network of the size that a problem asks for."""
        return cls(problem.input_size, problem.output_size, problem.hidden_sizes)

    def initial(self, rng: np.random.Generator) -> Params:
        """Draws weight0, bias0, ...: Xavier uniform, and zero."""
        return TanhMLP(self.input_size, self.output_size, self.hidden_sizes).initial(rng)

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns the last hidden layer (N, M, H) for inputs (N, M, S), parameters (N, *shape)."""
        for i in range(len(self.hidden_sizes)):
            inputs = affine(params, i, inputs).relu()
        return inputs

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns outputs (N, M, A) for inputs (N, M, S) and parameters (N, *shape)."""
        return affine(params, len(self.hidden_sizes), self.features(params, inputs))

    def embed(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns outputs (N, M, A) with the same parameters (*shape) for all tasks."""
        same = {name: value.unsqueeze(0) for name, value in params.items()}
        return self.outputs(same, inputs.flatten(0, 1).unsqueeze(0)).view(*inputs.shape[:2], -1)


def affine(params: Params, layer: int, inputs: Tensor) -> Tensor:
    """Returns the layer's weight and bias applied to inputs (N, M, I)."""
    bias = params[f"bias{layer}"].unsqueeze(-2)
    return torch.baddbmm(bias, inputs, params[f"weight{layer}"])


def draw_matrix(rng: np.random.Generator, fan_in: int, fan_out: int) -> Tensor:
    """Draws a matrix (I, O), Xavier uniform, float32."""
    return TanhMLP(fan_in, fan_out, ()).initial(rng)["weight0"]
