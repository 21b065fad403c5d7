"""A network whose last layer is decoded from a small latent code of the task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.networks.mlp import TanhMLP

LATENT = "latent"
"""Name of the code: Z numbers for each output (A, Z)."""

DECODE = "decode"
"""Name of the decoder's matrix (Z, H + 1), the same for all outputs."""

OFFSET = "decode_bias"
"""Name of the decoder's offset (H + 1,)."""


def decode_layer(latent: Tensor, matrix: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weight (N, H, A) and bias (N, 1, A) of a layer from the codes of its outputs.

    Args:
        latent: (N, A, Z).
        matrix: (Z, H + 1), or (N, Z, H + 1).
        offset: (H + 1,), or (N, 1, H + 1).

    Source: Rusu et al. 2019, LEO (arXiv:1807.05960), without its distribution over weights.
    """
    rows = latent @ matrix + offset
    return rows[..., :-1].mT, rows[..., -1:].mT


@dataclass(frozen=True)
class LatentNetwork:
    """The network of LEO: a tanh network whose last layer is decoded, see `decode_layer`.

    Attributes:
        inner: The network.
        latent_size: Z.
    """

    inner: TanhMLP
    latent_size: int

    @property
    def input_size(self) -> int:
        """S."""
        return self.inner.input_size

    @property
    def output_size(self) -> int:
        """A."""
        return self.inner.output_size

    def initial(self, rng: np.random.Generator, output_gain: float = 1.0) -> Params:
        """Draws the parameters; the decoded weights have the variance of a usual layer."""
        params = self.inner.initial(rng, output_gain)
        weight, bias = self._last
        hidden, outputs = params.pop(weight).shape
        del params[bias]
        bound = output_gain * math.sqrt(6.0 / (hidden + outputs) / self.latent_size)
        code = rng.standard_normal((outputs, self.latent_size))
        matrix = rng.uniform(-bound, bound, (self.latent_size, hidden + 1))
        own = {LATENT: code, DECODE: matrix, OFFSET: np.zeros(hidden + 1)}
        return {**params, **{n: torch.from_numpy(v.astype(np.float32)) for n, v in own.items()}}

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """See `Network`."""
        return self.inner.outputs(self.fold(params), inputs)

    def activations(self, params: Params, inputs: Tensor) -> list[Tensor]:
        """See `Network`."""
        return self.inner.activations(self.fold(params), inputs)

    def jvp(self, params: Params, tangent: Params, activations: Sequence[Tensor]) -> list[Tensor]:
        """See `Network`."""
        return self.inner.jvp(self.fold(params), self._push(params, tangent), activations)

    def vjp(
        self, params: Params, activations: Sequence[Tensor], cotangent: Tensor
    ) -> tuple[Params, Any]:
        """See `Network`."""
        gradient, cotangents = self.inner.vjp(self.fold(params), activations, cotangent)
        rows, rest = self._split(gradient)
        own = {
            LATENT: torch.bmm(rows, params[DECODE].mT),
            DECODE: torch.bmm(params[LATENT].mT, rows),
            OFFSET: rows.sum(dim=1),
        }
        return {**rest, **own}, (cotangents, rows)

    def vjp_tangent(
        self,
        params: Params,
        tangent: Params,
        activations: Sequence[Tensor],
        tangents: Sequence[Tensor],
        cotangents: Any,
        cotangent_tangent: Tensor,
    ) -> Params:
        """See `Network`."""
        inner, rows = cotangents
        point, direction = self.fold(params), self._push(params, tangent)
        inputs = point, direction, activations, tangents, inner, cotangent_tangent
        change, rest = self._split(self.inner.vjp_tangent(*inputs))
        code = torch.bmm(change, params[DECODE].mT)
        matrix = torch.bmm(params[LATENT].mT, change)
        own = {
            LATENT: torch.baddbmm(code, rows, tangent[DECODE].mT),
            DECODE: torch.baddbmm(matrix, tangent[LATENT].mT, rows),
            OFFSET: change.sum(dim=1),
        }
        return {**rest, **own}

    def fold(self, params: Params) -> Params:
        """Returns the parameters (N, *shape) of the inner network."""
        layer = decode_layer(params[LATENT], params[DECODE], params[OFFSET].unsqueeze(1))
        return self._with_last(params, *layer)

    @property
    def _last(self) -> tuple[str, str]:
        number = len(self.inner.hidden_sizes)
        return f"weight{number}", f"bias{number}"

    def _with_last(self, params: Params, weight: Tensor, bias: Tensor) -> Params:
        """Puts weight (N, H, A) and bias (N, 1, A) of the last layer in the place of the code's."""
        rest = {n: v for n, v in params.items() if n not in (LATENT, DECODE, OFFSET)}
        return {**rest, self._last[0]: weight.contiguous(), self._last[1]: bias.squeeze(1)}

    def _split(self, gradient: Params) -> tuple[Tensor, Params]:
        """Returns the last layer's gradient as rows (N, A, H + 1), and the other gradients."""
        rest = dict(gradient)
        weight, bias = (rest.pop(name) for name in self._last)
        return torch.cat([weight.mT, bias.unsqueeze(-1)], dim=-1), rest

    def _push(self, params: Params, tangent: Params) -> Params:
        """Returns the tangent of the inner network's parameters."""
        fixed = torch.baddbmm(tangent[OFFSET].unsqueeze(1), params[LATENT], tangent[DECODE])
        layer = decode_layer(tangent[LATENT], params[DECODE], fixed)
        return self._with_last(tangent, *layer)
