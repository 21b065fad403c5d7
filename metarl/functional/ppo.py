"""The clipped surrogate of proximal policy optimisation, and checks of the probability ratio."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.functional.rounding import unit


def clipped_loss(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Returns the loss of every step: -min(rho A, clip(rho, 1 - clip, 1 + clip) A).

    Args:
        log_ratio: log rho, the new log-probability minus that of sampling (...) [nats].
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
    """Estimates KL(old || new) of every step by (rho - 1) - log rho >= 0.

    Args:
        log_ratio: (...) [nats].

    Returns:
        (...) [nats]; its mean over actions of the old policy is the divergence.

    Source: Schulman 2020, Approximating KL divergence.
    """
    return log_ratio.expm1() - log_ratio


def clip_indicator(log_ratio: Tensor, clip: float) -> Tensor:
    """Returns 1 where the ratio is outside [1 - clip, 1 + clip], else 0 (...)."""
    return (log_ratio.expm1().abs() > clip).to(log_ratio.dtype)


def adapt_lr(lr: float, first: float, kl: float, target: float) -> float:
    """Returns the step size that aims at a KL divergence of the next pass, or lr without a target.

    It is divided by 1.5 after a pass with more than twice the target and multiplied by 1.5 after
    one with less than half.

    Args:
        lr: The present step size.
        first: The first one; the step size stays within a factor of 100 of it.
        kl: Of the last pass [nats].
        target: Wanted [nats]; 0 is none.

    Source: Schwarke et al. 2025, rsl_rl (arXiv:2509.10771).
    """
    if target and kl > 2.0 * target:
        return max(lr / 1.5, first / 100.0)
    if target and kl < 0.5 * target:
        return min(lr * 1.5, first * 100.0)
    return lr


def ratio_error(log_ratio: Tensor, valid: Tensor) -> float:
    """Returns the largest |ratio - 1| at valid steps; infinite if one is NaN.

    Args:
        log_ratio: (...) [nats].
        valid: (...), bool.
    """
    return float(_largest_error(log_ratio, valid))


def _largest_error(log_ratio: Tensor, valid: Tensor) -> Tensor:
    error = torch.where(valid, log_ratio.detach().expm1().abs(), 0.0).max()
    return error.nan_to_num(nan=float("inf"))


NUDGE = 256.0
"""Units by which inputs are changed to see how much a memory multiplies roundings.

Roundings of all operations and steps add up to more than those of the inputs alone. Measured at the
187 steps beyond their bound of a GRU that multiplied errors by 8,000 in 200 steps: 5.9 units of the
inputs. Memories in which every error grows to the size of the state within some steps need 100."""

NUDGE_FACTOR = 4.0
"""How many times that change roundings may explain."""


def check_ratio(
    log_ratio: Tensor,
    rounding: Tensor,
    valid: Tensor,
    nudged: Callable[[], Tensor] | None = None,
) -> float:
    """Returns the largest |ratio - 1| before an update, if rounding explains it at every step.

    The weights of a memory can make it chaotic: then it multiplies every rounding from step to
    step, and no bound is known beforehand. So where the bound is exceeded, the ratio is computed
    again from inputs that are changed by NUDGE units, and what that changes, up to the step, times
    NUDGE_FACTOR is added to the bound.

    Args:
        log_ratio: (L, ...) [nats]; time is first if `nudged` is given.
        rounding: Bound on |log_ratio| (L, ...) [nats], from `Distribution.log_prob_rounding`.
        valid: (L, ...), bool.
        nudged: Computes log_ratio from changed inputs, see `nudge`.

    Raises:
        FloatingPointError: A ratio is further from 1, so the recomputed policy is not the one that
            sampled; the message has the ratio furthest beyond its bound.
    """
    excess = torch.where(valid, log_ratio.detach().abs() / rounding, 0.0)
    excess = excess.nan_to_num(nan=float("inf")).flatten()
    found = excess.max(), _largest_error(log_ratio, valid)
    largest, ratio = torch.stack(found).tolist()  # the one wait for a GPU
    if not largest <= 1.0 and nudged is not None and bool(log_ratio.isfinite().all()):
        change = torch.where(valid, (nudged() - log_ratio).detach().abs(), 0.0)
        return check_ratio(log_ratio, rounding + NUDGE_FACTOR * change.cummax(dim=0).values, valid)
    if not largest <= 1.0:
        worst = excess.argmax()
        error = float(log_ratio.detach().flatten()[worst].expm1().abs())
        raise FloatingPointError(
            "the policy that learns is not the policy that acted: "
            f"|ratio - 1| = {error:.2g}, rounding explains {float(rounding.flatten()[worst]):.2g}"
        )
    return ratio


def nudge(inputs: Tensor) -> Tensor:
    """Returns inputs that are larger by NUDGE units."""
    return inputs * (1.0 + NUDGE * unit(inputs))
