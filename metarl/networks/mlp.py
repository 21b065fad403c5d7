"""Tanh networks as functions of their parameters, with hand-written derivatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params

NARROW = 16
"""Number of columns below which MKL multiplies transposed matrices faster."""


@dataclass(frozen=True)
class TanhMLP:
    """A tanh network as a function of (params, inputs).

    Attributes:
        input_size: S.
        output_size: A.
        hidden_sizes: Units of each hidden layer.
    """

    input_size: int
    output_size: int
    hidden_sizes: tuple[int, ...] = (64, 64)

    def initial(self, rng: np.random.Generator, output_gain: float = 1.0) -> Params:
        """Draws "weight{i}" (in, out), Xavier uniform, and "bias{i}" (out,), zero; float32.

        Args:
            rng: The stream of the initialisation.
            output_gain: Factor on the weights of the last layer; a small one starts with
                outputs near zero.
        """
        sizes = [self.input_size, *self.hidden_sizes, self.output_size]
        params: Params = {}
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            bound = math.sqrt(6.0 / (fan_in + fan_out))
            weight = rng.uniform(-bound, bound, (fan_in, fan_out)).astype(np.float32)
            gain = output_gain if i == len(self.hidden_sizes) else 1.0
            params[f"weight{i}"] = gain * torch.from_numpy(weight)
            params[f"bias{i}"] = torch.zeros(fan_out)
        return params

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns outputs (N, M, A) for inputs (N, M, S) and parameters (N, *shape)."""
        return self.activations(params, inputs)[-1]

    # --- derivatives by hand: autograd's second derivatives take twice the time, and store a graph

    def activations(self, params: Params, inputs: Tensor) -> list[Tensor]:
        """Returns the input of every layer, first inputs (N, M, S), and last the output."""
        last = len(self.hidden_sizes)
        outputs = [inputs]
        for i in range(last + 1):
            value = _affine(params[f"bias{i}"], outputs[-1], params[f"weight{i}"])
            outputs.append(_tanh(value) if i < last else value)
        return outputs

    def jvp(self, params: Params, tangent: Params, activations: Sequence[Tensor]) -> list[Tensor]:
        """Returns the tangents of activations[1:] along a direction in parameter space.

        Args:
            params: (N, *shape).
            tangent: The direction, (N, *shape).
            activations: At params.
        """
        tangents = [_affine(tangent["bias0"], activations[0], tangent["weight0"])]
        for i, hidden in enumerate(activations[1:-1], start=1):
            tangents[-1] = _through_tanh(tangents[-1], hidden)
            bias = tangent[f"bias{i}"].unsqueeze(-2)
            own = _plus_product(bias, hidden, tangent[f"weight{i}"])
            tangents.append(_plus_product(own, tangents[-1], params[f"weight{i}"]))
        tangents[-1] = tangents[-1].contiguous()
        return tangents

    def vjp(
        self, params: Params, activations: Sequence[Tensor], cotangent: Tensor
    ) -> tuple[Params, Cotangents]:
        """Returns the gradient of sum(cotangent * output).

        Args:
            params: (N, *shape).
            activations: At params.
            cotangent: (N, M, A).

        Returns:
            Gradients (N, *shape) of weights and biases, and what `vjp_tangent` reuses.
        """
        cotangents = Cotangents([cotangent], [])
        for i in range(len(self.hidden_sizes), 0, -1):
            below = torch.bmm(cotangents.before_tanh[0], params[f"weight{i}"].mT)
            cotangents.after_tanh.insert(0, below)
            cotangents.before_tanh.insert(0, _through_tanh(below, activations[i]))
        gradient: Params = {}
        for i, delta in enumerate(cotangents.before_tanh):
            gradient[f"weight{i}"] = _product(activations[i].mT, delta)
            gradient[f"bias{i}"] = delta.sum(dim=-2)
        return gradient, cotangents

    def vjp_tangent(
        self,
        params: Params,
        tangent: Params,
        activations: Sequence[Tensor],
        tangents: Sequence[Tensor],
        cotangents: Cotangents,
        cotangent_tangent: Tensor,
    ) -> Params:
        """Differentiates `vjp` along a direction in parameter space (forward over reverse mode).

        Args:
            params: (N, *shape).
            tangent: The direction, (N, *shape).
            activations: At params.
            tangents: jvp(params, tangent, activations).
            cotangents: From `vjp`.
            cotangent_tangent: Tangent (N, M, A) of the cotangent that `vjp` was given.

        Returns:
            Values (N, *shape) for weights and biases.

        Source: Pearlmutter 1994, Fast exact multiplication by the Hessian.
        """
        result: Params = {}
        above = cotangent_tangent
        for i in range(len(self.hidden_sizes), -1, -1):
            weight = _product(activations[i].mT, above)
            result[f"bias{i}"] = above.sum(dim=-2)
            if i > 0:
                delta, hidden = cotangents.before_tanh[i], activations[i]
                weight = _plus_product(weight, tangents[i - 1].mT, delta)
                below = torch.bmm(above, params[f"weight{i}"].mT)
                below = torch.baddbmm(below, delta, tangent[f"weight{i}"].mT)
                # tanh'' = -2 tanh tanh', and tangents[i - 1] contains tanh' already
                factor = cotangents.after_tanh[i - 1] * hidden
                above = _through_tanh(below, hidden).addcmul_(factor, tangents[i - 1], value=-2.0)
            result[f"weight{i}"] = weight
        return result


@dataclass(frozen=True)
class Cotangents:
    """Cotangents inside the network, layer by layer.

    Attributes:
        before_tanh: Of the affine outputs; the network's output is last.
        after_tanh: Of the hidden activations.
    """

    before_tanh: list[Tensor]
    after_tanh: list[Tensor]


def _affine(bias: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    return torch.baddbmm(bias.unsqueeze(-2), inputs, weight)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Returns left @ right, as (right^T left^T)^T where the result is narrow.

    64 x 1000 by 1000 x 8 then takes 20 us instead of 60 us.
    """
    if right.shape[-1] < NARROW:
        return torch.bmm(right.mT, left.mT).mT
    return torch.bmm(left, right)


def _plus_product(start: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Returns start + left @ right, transposed like `_product`."""
    if right.shape[-1] < NARROW:
        return torch.baddbmm(start.mT, right.mT, left.mT).mT
    return torch.baddbmm(start, left, right)


def _tanh(x: Tensor) -> Tensor:
    """Returns the hyperbolic tangent; overwrites x where no gradient is needed."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return x.tanh()
    np.tanh(x.numpy(), out=x.numpy())  # 48 us for 4000 x 64 in float32; torch takes 609 us
    return x


def _through_tanh(cotangent: Tensor, output: Tensor) -> Tensor:
    """Returns cotangent * (1 - output^2), in one pass."""
    return torch.ops.aten.tanh_backward(cotangent, output)


# --- with parameters of the task ------------------------------------------------------------------

CONTEXT = "context"
"""Name of the context parameters (C,)."""

READ = "context_weight"
"""Name of the weights (C, H) with which the first layer reads them, and start of the names of those
of later layers, which end with the number of the layer."""


@dataclass(frozen=True)
class ContextNetwork:
    """The network of CAVIA: the context follows the input of its first layer, or of every one.

    That is the same as a bias of bias{i} + context W_i, by which the derivatives are computed.

    Attributes:
        inner: The network.
        context_size: C.
        is_deep: Every layer reads the context, not only the first one.

    Source: Zintgraf et al. 2019 (arXiv:1810.03642).
    """

    inner: TanhMLP
    context_size: int
    is_deep: bool = False

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
        last, reads = len(self.inner.hidden_sizes), {}
        for i in range(last + 1 if self.is_deep else 1):
            units = len(params[f"bias{i}"])
            bound = (6.0 / (self.context_size + units)) ** 0.5
            drawn = rng.uniform(-bound, bound, (self.context_size, units)).astype(np.float32)
            gain = output_gain if i == last else 1.0
            reads[READ + (str(i) if i else "")] = gain * torch.from_numpy(drawn)
        return {**params, CONTEXT: torch.zeros(self.context_size), **reads}

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
        reads = _reads(params)
        parts = [_times(gradient[bias], params[n].mT) for n, bias in reads.items()]
        own = {n: _outer(params[CONTEXT], gradient[bias]) for n, bias in reads.items()}
        biases = {bias: gradient[bias] for bias in reads.values()}
        return {**gradient, CONTEXT: sum(parts[1:], parts[0]), **own}, (cotangents, biases)

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
        inner, biases = cotangents
        result = self.inner.vjp_tangent(
            fold_context(params),
            _push(params, tangent),
            activations,
            tangents,
            inner,
            cotangent_tangent,
        )
        parts, own = [], {}
        for name, bias in _reads(params).items():
            change, before = result[bias], biases[bias]
            parts.append(_times(change, params[name].mT) + _times(before, tangent[name].mT))
            own[name] = _outer(params[CONTEXT], change) + _outer(tangent[CONTEXT], before)
        return {**result, CONTEXT: sum(parts[1:], parts[0]), **own}


def _reads(params: Params) -> dict[str, str]:
    """Returns the names of the weights that read the context, and of the bias that each adds to."""
    names = [n for n in params if n.startswith(READ)]
    return {n: f"bias{n.removeprefix(READ) or 0}" for n in names}


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Returns the outer products (N, I, J) of rows (N, I) and (N, J)."""
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def _times(rows: Tensor, matrices: Tensor) -> Tensor:
    """Multiplies rows (N, I) by matrices (N, I, J)."""
    return torch.bmm(rows.unsqueeze(-2), matrices).squeeze(-2)


def _without_context(params: Params) -> Params:
    return {n: v for n, v in params.items() if n != CONTEXT and not n.startswith(READ)}


def fold_context(params: Params) -> Params:
    """Returns the parameters (N, *shape) of the inner network, whose biases have the context."""
    reads = _reads(params).items()
    biases = {bias: params[bias] + _times(params[CONTEXT], params[n]) for n, bias in reads}
    return _without_context(params) | biases


def _push(params: Params, tangent: Params) -> Params:
    """Returns the tangent of the inner network's parameters."""
    biases = {}
    for n, bias in _reads(params).items():
        change = _times(tangent[CONTEXT], params[n]) + _times(params[CONTEXT], tangent[n])
        biases[bias] = tangent[bias] + change
    return _without_context(tangent) | biases
