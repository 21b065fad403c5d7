"""The clipped surrogate of proximal policy optimisation."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_loss(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Loss of every step: -min(rho A, clip(rho, 1 - clip, 1 + clip) A).

    Args:
        log_ratio: log rho, new log-probability minus the one that acted (...) [nats].
        advantage: (...).
        clip: > 0.

    Returns:
        (...).

    Source: Schulman et al. 2017 (arXiv:1707.06347), equation 7.
    """
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -torch.minimum(ratio * advantage, bounded * advantage)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Estimates KL(old || new) of every step by (rho - 1) - log rho >= 0, whose mean is the divergence (...) [nats].

    Source: Schulman 2020, Approximating KL divergence.
    """
    return log_ratio.expm1() - log_ratio


def clipped_share(log_ratio: Tensor, clip: float) -> Tensor:
    """1 where the ratio has left [1 - clip, 1 + clip], else 0 (...)."""
    return (log_ratio.expm1().abs() > clip).to(log_ratio.dtype)
