"""Bounds on the rounding errors of log-probabilities, for checks of the probability ratio.

A policy acts on the CPU, step by step, and learns from whole rollouts, perhaps on a GPU. The two
log-probabilities of an action differ by rounding only, and this rounding is no constant: it grows
with the terms of the sum, with the outputs, and with 1 / sigma.

The unit u = eps / 2 is the largest relative error of one rounding (6e-8 in float32).
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.functional.gaussian import LOG_SQRT_2PI

SUM_UNITS = 16.0
"""Units by which two sums of the same terms may differ, times the sum of the absolute terms.

A term is the result of at most five operations, and blocked sums of A terms add log2(A) / 2 + 4
roundings, each with its own sign. Measured: at most 4.7 for 1 to 2,000 dimensions."""

OUTPUT_UNITS = 512.0
"""Units by which two computations of one output may differ, times the output's magnitude.

Measured against float64, largest of 10^4 to 10^6 outputs: tanh networks 16, GRU and LSTM over 1,000
steps 25, attention over 400 steps 35 (with weights three times the initial ones). The factor is 15
times this. It is 3e-5 of the magnitude: a mean of 1 that is off by 1e-3 with sigma = 0.05 changes
the log-density by 0.02 for each standard deviation of the action, which is 30 times the bound. A
memory whose weights make it chaotic has no bound."""

TYPICAL_UNITS = 64.0
"""The same for the root mean square over outputs, which decides in a sum over many of them.

Measured: tanh networks 1.7, GRU and LSTM 3, attention 6. The factor is ten times this, enough for
the largest of 10^6 sums, which is 5 standard deviations."""


def magnitude(output: Tensor) -> Tensor:
    """Returns the largest absolute value (A,) of each output (..., A) over all states.

    A single output can be small because large terms cancel, and its error is that of the terms.
    """
    return output.abs().nan_to_num(nan=0.0, posinf=0.0).flatten(0, -2).amax(dim=0)


def unit(*values: Tensor) -> float:
    """Returns the largest relative error of one rounding in the coarsest type of the values."""
    return 0.5 * max(torch.finfo(value.dtype).eps for value in values)


def gaussian_rounding(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Bounds the difference between two computations of a Gaussian log-density.

    With z = (a - mu) / sigma and m the largest |mu| over all states,

        l = sum_a t_a,    t_a = -z_a^2 / 2 - log sigma_a - log sqrt(2 pi)
        x_a = sqrt(1 + z_a^2) (m_a / sigma_a + 1)
        |dl| <= u (SUM_UNITS sum_a |t_a| + OUTPUT_UNITS max_a x_a + TYPICAL_UNITS sqrt(sum_a x_a^2))

    An error d_a of mean and action changes l by z_a d_a / sigma_a, and z_a is noise with a sign of
    its own, independent of d_a. So the changes add up like a random walk, and their squares are
    added; one of them may be far above the others. The 1 beside z_a^2 stands for the second order,
    d_a^2 / (2 sigma_a^2), of actions near the mean. The action itself is rounded to u (m_a +
    sigma_a |z_a|), which is less than the error of m_a + sigma_a that x_a assumes.

    Args:
        action: (..., A).
        mean: (..., A).
        log_std: Broadcast to (..., A).

    Returns:
        (...) [nats].

    Source: Higham and Mary 2019, A new approach to probabilistic rounding error analysis.
    """
    u, precision = unit(action, mean), (-log_std).exp()
    squared = ((action - mean) * precision).square()
    terms = (0.5 * squared + log_std.abs() + LOG_SQRT_2PI).sum(dim=-1)
    changes = (1.0 + squared) * (magnitude(mean) * precision + 1.0).square()
    outputs = OUTPUT_UNITS * changes.amax(dim=-1).sqrt()
    outputs += TYPICAL_UNITS * changes.sum(dim=-1).sqrt()
    return u * (SUM_UNITS * terms + outputs)


def categorical_rounding(action: Tensor, logits: Tensor, log_prob: Tensor) -> Tensor:
    """Bounds the difference between two computations of a categorical log-probability.

    l = o_a - log sum_b exp(o_b) changes by do_a - sum_b p_b do_b, at most by twice the largest
    error of a logit.

    Args:
        action: One-hot (..., A).
        logits: o (..., A).
        log_prob: l (...) [nats].

    Returns:
        (...) [nats].
    """
    outputs = 2.0 * OUTPUT_UNITS * magnitude(logits).max()
    return unit(action, logits) * (SUM_UNITS * (1.0 + log_prob.abs()) + outputs)
