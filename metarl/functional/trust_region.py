"""Conjugate gradients and the backtracking line search of TRPO, on flat vectors (P,)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

MARGIN = 0.95
"""Fraction of the trust region that a step aims at. The quadratic model is accurate to a few per
cent, so a step that aims at the edge is outside every other time, and the next, shorter try loses a
third of the divergence."""


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Returns the inner product (), computed in float64."""
    return torch.dot(x.double(), y.double())


def conjugate_gradient(
    product: Product, target: Tensor, iterations: int, tolerance: float = 1e-10
) -> Tensor:
    """Solves F x = b approximately for a positive definite F.

    A CPU ends at the first iteration that cannot improve x. A GPU makes all of them, and those
    after it leave x as it is: to ask it costs more than a product.

    Args:
        product: v -> F v.
        target: b (P,).
        iterations: Largest number of products.
        tolerance: Stops when the squared residual is below tolerance times that of b.

    Returns:
        x (P,), the dtype of target.
    """
    solution = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    first = squared = dot(residual, residual)
    can_read, is_active = target.device.type == "cpu", torch.ones_like(first, dtype=torch.bool)
    for _ in range(iterations):
        is_active = is_active & ~(squared <= tolerance * first)
        if can_read and not is_active:
            break
        image = product(direction)
        curvature = dot(direction, image)
        is_active = is_active & (curvature > 0.0)  # not if NaN, or if F is singular along it
        if can_read and not is_active:
            break
        step = squared / curvature
        solution = torch.where(is_active, solution + step * direction, solution)
        residual = residual - step * image
        previous, squared = squared, dot(residual, residual)
        direction = residual + (squared / previous) * direction
    return solution


@dataclass(frozen=True)
class Proposal:
    """The longest step that the quadratic model allows.

    Attributes:
        step: (P,), to be added to the parameters; None if the model allows none.
        predicted_gain: First-order change of the objective for the whole step.
    """

    step: Tensor | None
    predicted_gain: float


def natural_step(
    product: Product, gradient: Tensor, max_kl: float, *, iterations: int, damping: float
) -> Proposal:
    """Computes the step along F^-1 g with KL = MARGIN * max_kl under the quadratic model.

    Args:
        product: v -> F v, F the Hessian of the KL divergence.
        gradient: g (P,) of the objective to be increased.
        max_kl: Trust region radius [nats].
        iterations: Conjugate gradient iterations.
        damping: Added to the diagonal of F.

    Returns:
        The proposal; its step is None if g is zero or not finite, or x^T F x is not positive.
    """

    def damped(v: Tensor) -> Tensor:
        return product(v) + damping * v

    direction = conjugate_gradient(damped, gradient, iterations)
    length = dot(direction, damped(direction))
    step = (2.0 * MARGIN * max_kl / length).sqrt() * direction
    found = dot(gradient, gradient), gradient.abs().max().double(), length, dot(gradient, step)
    size, largest, length, gain = torch.stack(found).tolist()  # the one wait for a GPU
    is_usable = math.isfinite(size) and largest > 0.0 and math.isfinite(length) and length > 0.0
    return Proposal(step, gain) if is_usable else Proposal(None, 0.0)


@dataclass(frozen=True)
class SearchResult:
    """Result of a line search.

    Attributes:
        scale: Accepted fraction of the step, 0 if none was accepted.
        gain: Change of the objective at the accepted point.
        kl: KL divergence at the accepted point [nats].
        tried: Number of points evaluated.
    """

    scale: float
    gain: float
    kl: float
    tried: int


def line_search(
    evaluate: Callable[[float], tuple[float, float]],
    start: float,
    max_kl: float,
    *,
    decay: float,
    max_tries: int,
) -> SearchResult:
    """Shortens a step until it improves the objective inside the trust region.

    Args:
        evaluate: fraction of the step -> (objective, KL) at that point.
        start: The objective before the step.
        max_kl: Trust region radius [nats].
        decay: Factor between tries, in (0, 1).
        max_tries: Largest number of points to evaluate.

    Returns:
        The first point that is finite, better than start and within max_kl; scale 0 if none is.
    """
    for tried in range(max_tries):
        scale = decay**tried
        objective, kl = evaluate(scale)
        if math.isfinite(objective) and math.isfinite(kl) and objective > start and kl <= max_kl:
            return SearchResult(scale, objective - start, kl, tried + 1)
    return SearchResult(0.0, 0.0, 0.0, max_tries)
