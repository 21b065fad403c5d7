"""A tanh network as a function of its parameters, with derivatives by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params

NARROW = 16
"""Columns below which MKL multiplies fastest transposed."""


@dataclass(frozen=True)
class TanhMLP:
    """A tanh network as a function of (params, inputs).

    Attributes:
        obs_size: S.
        action_size: A, the number of outputs.
        hidden_sizes: Units of each hidden layer.
    """

    obs_size: int
    action_size: int
    hidden_sizes: tuple[int, ...] = (64, 64)

    def initial_network(self, rng: np.random.Generator, output_gain: float = 1.0) -> Params:
        """Draws "weight{i}" (in, out), Xavier uniform, and "bias{i}" (out,), zero; float32.

        Args:
            rng: The stream of the initialisation.
            output_gain: Factor on the weights of the last layer; small ones start near the output zero.
        """
        sizes = [self.obs_size, *self.hidden_sizes, self.action_size]
        params: Params = {}
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            bound = math.sqrt(6.0 / (fan_in + fan_out))
            weight = rng.uniform(-bound, bound, (fan_in, fan_out)).astype(np.float32)
            gain = output_gain if i == len(self.hidden_sizes) else 1.0
            params[f"weight{i}"] = gain * torch.from_numpy(weight)
            params[f"bias{i}"] = torch.zeros(fan_out)
        return params

    def outputs(self, params: Params, obs: Tensor) -> Tensor:
        """Outputs (N, M, A) for obs (N, M, S) and parameters (N, *shape)."""
        return self.activations(params, obs)[-1]

    # --- derivatives by hand: autograd's second derivatives take twice the time, and a graph of every intermediate ---

    def activations(self, params: Params, obs: Tensor) -> list[Tensor]:
        """The input of every layer, obs (N, M, S) first, and at the end the output (N, M, A)."""
        last = len(self.hidden_sizes)
        outputs = [obs]
        for i in range(last + 1):
            value = _affine(params[f"bias{i}"], outputs[-1], params[f"weight{i}"])
            outputs.append(_tanh(value) if i < last else value)
        return outputs

    def tangents(
        self, params: Params, tangent: Params, activations: Sequence[Tensor]
    ) -> list[Tensor]:
        """Derivatives of activations[1:] along a direction in parameter space (forward mode).

        Args:
            params: (N, *shape).
            tangent: The direction, (N, *shape).
            activations: At params.
        """
        moved = [_affine(tangent["bias0"], activations[0], tangent["weight0"])]
        for i, hidden in enumerate(activations[1:-1], start=1):
            moved[-1] = _through_tanh(moved[-1], hidden)
            bias = tangent[f"bias{i}"].unsqueeze(-2)
            own = _plus_product(bias, hidden, tangent[f"weight{i}"])
            moved.append(_plus_product(own, moved[-1], params[f"weight{i}"]))
        moved[-1] = moved[-1].contiguous()
        return moved

    def pullback(
        self, params: Params, activations: Sequence[Tensor], cotangent: Tensor
    ) -> tuple[Params, Pulled]:
        """Gradient of sum(cotangent * output) (reverse mode).

        Args:
            params: (N, *shape).
            activations: At params.
            cotangent: (N, M, A).

        Returns:
            Values (N, *shape) for weights and biases, and what `pullback_tangent` reuses.
        """
        pulled = Pulled([cotangent], [])
        for i in range(len(self.hidden_sizes), 0, -1):
            below = torch.bmm(pulled.before_tanh[0], params[f"weight{i}"].mT)
            pulled.after_tanh.insert(0, below)
            pulled.before_tanh.insert(0, _through_tanh(below, activations[i]))
        slopes: Params = {}
        for i, delta in enumerate(pulled.before_tanh):
            slopes[f"weight{i}"] = _product(activations[i].mT, delta)
            slopes[f"bias{i}"] = delta.sum(dim=-2)
        return slopes, pulled

    def pullback_tangent(
        self,
        params: Params,
        tangent: Params,
        activations: Sequence[Tensor],
        moved: Sequence[Tensor],
        pulled: Pulled,
        turned: Tensor,
    ) -> Params:
        """Derivative of `pullback` along a direction in parameter space (forward over reverse mode).

        Args:
            params: (N, *shape).
            tangent: The direction, (N, *shape).
            activations: At params.
            moved: tangents(params, tangent, activations).
            pulled: From `pullback`.
            turned: Derivative (N, M, A) of its cotangent.

        Returns:
            Values (N, *shape) for weights and biases.

        Source: Pearlmutter 1994, Fast exact multiplication by the Hessian.
        """
        slopes: Params = {}
        for i in range(len(self.hidden_sizes), -1, -1):
            slope = _product(activations[i].mT, turned)
            slopes[f"bias{i}"] = turned.sum(dim=-2)
            if i > 0:
                delta, hidden = pulled.before_tanh[i], activations[i]
                slope = _plus_product(slope, moved[i - 1].mT, delta)
                below = torch.bmm(turned, params[f"weight{i}"].mT)
                below = torch.baddbmm(below, delta, tangent[f"weight{i}"].mT)
                # tanh'' = -2 tanh tanh'; moved is already behind the tanh
                bend = pulled.after_tanh[i - 1] * hidden
                turned = _through_tanh(below, hidden).addcmul_(bend, moved[i - 1], value=-2.0)
            slopes[f"weight{i}"] = slope
        return slopes


@dataclass(frozen=True)
class Pulled:
    """Cotangents inside the network, layer by layer.

    Attributes:
        before_tanh: Of the affine outputs, the mean last.
        after_tanh: Of the hidden activations.
    """

    before_tanh: list[Tensor]
    after_tanh: list[Tensor]


def _affine(bias: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    return torch.baddbmm(bias.unsqueeze(-2), inputs, weight)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Left @ right; as (right^T left^T)^T where the result is narrow: 20 us for 64 x 1000 by 1000 x 8, not 60."""
    if right.shape[-1] < NARROW:
        return torch.bmm(right.mT, left.mT).mT
    return torch.bmm(left, right)


def _plus_product(start: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Start + left @ right, likewise."""
    if right.shape[-1] < NARROW:
        return torch.baddbmm(start.mT, right.mT, left.mT).mT
    return torch.baddbmm(start, left, right)


def _tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent, in place where no gradient is wanted."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return x.tanh()
    np.tanh(x.numpy(), out=x.numpy())  # 48 us for 4000 x 64 in float32, torch 609 us
    return x


def _through_tanh(cotangent: Tensor, output: Tensor) -> Tensor:
    """cotangent * (1 - output^2), in one pass."""
    return torch.ops.aten.tanh_backward(cotangent, output)
