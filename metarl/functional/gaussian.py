"""The diagonal Gaussian distribution. Log-densities are sums over action dimensions."""

from __future__ import annotations

import math

from torch import Tensor

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Returns the log-density of actions.

    Args:
        action: (..., A).
        mean: (..., A).
        log_std: Logarithm of the standard deviation, broadcast to (..., A).

    Returns:
        (...) [nats], summed over the action dimensions.
    """
    scaled = (action - mean) * (-log_std).exp()
    return (-0.5 * scaled.square() - log_std - LOG_SQRT_2PI).sum(dim=-1)


def log_prob_of_noise(noise: Tensor, log_std: Tensor) -> Tensor:
    """Returns the log-density of mean + exp(log_std) * noise without computing this action.

    Args:
        noise: Standard normal (..., A).
        log_std: Broadcast to (..., A).

    Returns:
        (...) [nats].
    """
    return (-0.5 * noise.square() - log_std - LOG_SQRT_2PI).sum(dim=-1)


def kl_divergence(mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor) -> Tensor:
    """Returns KL(p || q) of two diagonal Gaussians.

        sum_a log(sigma_q / sigma_p) + (sigma_p^2 + (mu_p - mu_q)^2) / (2 sigma_q^2) - 1/2

    Args:
        mean_p: (..., A).
        log_std_p: Broadcast to (..., A).
        mean_q: (..., A).
        log_std_q: Broadcast to (..., A).

    Returns:
        (...) [nats], summed over the action dimensions.
    """
    difference = log_std_p - log_std_q
    distance = ((mean_p - mean_q) * (-log_std_q).exp()).square()
    return (-difference + 0.5 * ((2.0 * difference).exp() + distance - 1.0)).sum(dim=-1)


def entropy(log_std: Tensor) -> Tensor:
    """Returns the differential entropy (...) [nats] of log_std (..., A), summed over dimensions."""
    return (log_std + LOG_SQRT_2PI + 0.5).sum(dim=-1)


def fisher_product(
    mean_tangent: Tensor, log_std_tangent: Tensor, log_std: Tensor
) -> tuple[Tensor, Tensor]:
    """Multiplies a tangent of (mean, log_std) by the Fisher information.

    It is diagonal: 1 / sigma^2 for the mean and 2 for log sigma.

    Args:
        mean_tangent: (..., A).
        log_std_tangent: (..., A).
        log_std: Broadcast to (..., A).

    Returns:
        Cotangents of the mean and of log_std, each the shape of its tangent.
    """
    return mean_tangent * (-2.0 * log_std).exp(), 2.0 * log_std_tangent
