"""The diagonal Gaussian distribution behind a hyperbolic tangent, over actions in (-1, 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from metarl.functional.gaussian import LOG_SQRT_2PI


def sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draws actions tanh(u), u = mean + exp(log_std) * noise, and returns their log-densities.

        log p(a) = log N(u; mean, std) - log(1 - tanh(u)^2)

    The second term is 2 (log 2 - u - softplus(-2 u)), which does not overflow.

    Args:
        mean: (..., A).
        log_std: (..., A).
        noise: Standard normal (..., A).

    Returns:
        Actions (..., A), and the log-density of each of their numbers (..., A) [nats]. The numbers
        are independent, so their sum is the log-density of the action.

    Source: Haarnoja et al. 2018 (arXiv:1812.05905), appendix C.
    """
    raw = torch.addcmul(mean, log_std.exp(), noise)
    gaussian = -0.5 * noise.square() - log_std - LOG_SQRT_2PI
    return raw.tanh(), gaussian - log_derivative(raw)


def log_derivative(raw: Tensor) -> Tensor:
    """Returns log(1 - tanh(raw)^2), element by element."""
    return 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
