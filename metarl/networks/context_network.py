"""A tanh network whose first layer also reads parameters of the task, its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.networks.mlp import TanhMLP

CONTEXT = "context"
"""Name of the context parameters (C,)."""

READ = "context_weight"
"""Name of the weights (C, H) with which the first layer reads them."""


@dataclass(frozen=True)
class ContextNetwork:
    """The network of CAVIA: the input of its first layer is followed by the context.

    That is the same as a first bias of bias0 + context W, by which the derivatives are computed.

    Attributes:
        inner: The network.
        context_size: C.

    Source: Zintgraf et al. 2019 (arXiv:1810.03642).
    """

    inner: TanhMLP
    context_size: int

    @property
    def input_size(self) -> int:
        """S."""
        return self.inner.input_size

    @property
    def output_size(self) -> int:
        """A."""
        return self.inner.output_size

    def initial(self, rng: np.random.Generator, output_gain: float = 1.0) -> Params:
        """Draws the parameters; the context is zero."""
        params = self.inner.initial(rng, output_gain)
        hidden = self.inner.hidden_sizes[0]
        bound = (6.0 / (self.context_size + hidden)) ** 0.5
        drawn = rng.uniform(-bound, bound, (self.context_size, hidden)).astype(np.float32)
        return {**params, CONTEXT: torch.zeros(self.context_size), READ: torch.from_numpy(drawn)}

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """See `Network`."""
        return self.inner.outputs(fold_context(params), inputs)

    def activations(self, params: Params, inputs: Tensor) -> list[Tensor]:
        """See `Network`."""
        return self.inner.activations(fold_context(params), inputs)

    def jvp(self, params: Params, tangent: Params, activations: Sequence[Tensor]) -> list[Tensor]:
        """See `Network`."""
        return self.inner.jvp(fold_context(params), _push(params, tangent), activations)

    def vjp(
        self, params: Params, activations: Sequence[Tensor], cotangent: Tensor
    ) -> tuple[Params, Any]:
        """See `Network`."""
        gradient, cotangents = self.inner.vjp(fold_context(params), activations, cotangent)
        bias = gradient["bias0"]
        own = {
            CONTEXT: _times(bias, params[READ].mT),
            READ: params[CONTEXT].unsqueeze(-1) * bias.unsqueeze(-2),
        }
        return {**gradient, **own}, (cotangents, bias)

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
        inner, bias = cotangents
        result = self.inner.vjp_tangent(
            fold_context(params),
            _push(params, tangent),
            activations,
            tangents,
            inner,
            cotangent_tangent,
        )
        change = result["bias0"]
        read = params[CONTEXT].unsqueeze(-1) * change.unsqueeze(-2)
        own = {
            CONTEXT: _times(change, params[READ].mT) + _times(bias, tangent[READ].mT),
            READ: read + tangent[CONTEXT].unsqueeze(-1) * bias.unsqueeze(-2),
        }
        return {**result, **own}


def _times(rows: Tensor, matrices: Tensor) -> Tensor:
    """Multiplies rows (N, I) by matrices (N, I, J)."""
    return torch.bmm(rows.unsqueeze(-2), matrices).squeeze(-2)


def fold_context(params: Params) -> Params:
    """Returns the parameters (N, *shape) of the inner network, whose first bias has the context."""
    bias = params["bias0"] + _times(params[CONTEXT], params[READ])
    return {n: v for n, v in params.items() if n not in (CONTEXT, READ)} | {"bias0": bias}


def _push(params: Params, tangent: Params) -> Params:
    """Returns the tangent of the inner network's parameters."""
    change = _times(tangent[CONTEXT], params[READ]) + _times(params[CONTEXT], tangent[READ])
    own = {n: v for n, v in tangent.items() if n not in (CONTEXT, READ)}
    return own | {"bias0": tangent["bias0"] + change}
