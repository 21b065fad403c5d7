"""Fully connected layers that are fast on a CPU, and their first values.

On an AMD EPYC with AVX-512, one thread multiplies 2000 x 128 by 128 x 256 in 0.55 ms with oneDNN
and in 1.22 ms with MKL, which torch uses for dense layers; NumPy's tanh of 2000 x 128 numbers takes
0.04 ms and torch's 0.54 ms.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_FOR_MKL = 16
"""Rows up to which MKL's product of matrices is the faster one, for its calls cost less."""

CACHED_ROWS = 1024
"""Rows of a part of a sum over rows, which stays in the processor's cache."""

for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    # oneDNN and torch keep 1,024 kernels each, one for every shape. Where trials differ in length,
    # every minibatch has shapes of its own: the memory of a process grew from 430 to 1,230 MB in 80
    # updates. With 64 kernels it is 535 MB, and the updates take as long.
    os.environ.setdefault(_name, "64")

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)


class Linear(nn.Linear):
    """`torch.nn.Linear` with the products of `linear`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Maps inputs (..., I) to outputs (..., O)."""
        return linear(input, self.weight, self.bias)


class Tanh(nn.Module):
    """`torch.nn.Tanh` with NumPy's function on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps every element of x to its hyperbolic tangent."""
        return tanh(x)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes inputs @ weight^T + bias, like torch's function of this name.

    Args:
        inputs: (..., I).
        weight: (O, I).
        bias: (O,).

    Returns:
        (..., O); differentiable once where a CPU has many rows.
    """
    rows = math.prod(inputs.shape[:-1])
    if not _has_kernel(inputs, rows) or weight.dtype != inputs.dtype or not weight.numel():
        return functional.linear(inputs, weight, bias)
    flat = inputs.reshape(rows, -1)
    return _Linear.apply(flat, weight, bias).view(*inputs.shape[:-1], len(weight))


def product(left: Tensor, right: Tensor) -> Tensor:
    """Returns left (P, K) @ right (K, N), not differentiable."""
    return _multiply(left, right.t(), None) if _has_kernel(left, len(left)) else left @ right


def gradient_of_weight(grad: Tensor, inputs: Tensor) -> Tensor:
    """Returns the sum (O, I) over all rows of the products of grad (P, O) and inputs (P, I)."""
    if not _has_kernel(grad, len(grad)):
        return grad.t() @ inputs
    # oneDNN copies the first matrix, so that should be the narrow one
    is_narrow = grad.shape[1] <= inputs.shape[1]
    first, second = (grad, inputs) if is_narrow else (inputs, grad)
    parts = zip(first.split(CACHED_ROWS), second.split(CACHED_ROWS), strict=True)
    products = [_multiply(one.t(), other.t(), None) for one, other in parts]
    total = products[0]
    for more in products[1:]:
        total += more
    return total if is_narrow else total.t().contiguous()


def tanh(x: Tensor) -> Tensor:
    """Returns the hyperbolic tangent; differentiable once."""
    is_usual = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    return _Tanh.apply(x) if is_usual and x.dim() else x.tanh()


def draw_orthogonal(rng: np.random.Generator, shape: Sequence[int]) -> Tensor:
    """Draws a matrix (R, C) with orthonormal rows or columns, whichever are fewer."""
    rows, columns = shape
    normal = rng.standard_normal((max(rows, columns), min(rows, columns)))
    basis, upper = np.linalg.qr(normal)
    basis *= np.sign(np.diag(upper))  # without it the distribution is not uniform
    return torch.from_numpy(basis if rows >= columns else basis.T).float()


def _has_kernel(matrix: Tensor, rows: int) -> bool:
    """Tells whether oneDNN multiplies such matrices here, and faster than MKL."""
    is_usual = matrix.device.type == "cpu" and matrix.dtype == torch.float32
    return is_usual and rows > MOST_FOR_MKL and _HAS_ONEDNN


def _multiply(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """Returns left (P, K) @ right (N, K)^T + bias (N,) by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise.default(left, right, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _multiply(inputs, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        needs_inputs, needs_weight, needs_bias = ctx.needs_input_grad
        by_inputs = product(grad, weight) if needs_inputs else None
        by_bias = grad.sum(dim=0) if needs_bias else None
        return by_inputs, gradient_of_weight(grad, inputs) if needs_weight else None, by_bias


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = torch.from_numpy(np.tanh(x.detach().numpy()))
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(grad, result)
