"""The categorical policy distribution over A actions, which are one-hot rows (..., A): one of them is 1, the others 0."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def log_prob(action: Tensor, logits: Tensor) -> Tensor:
    """Log-probability of actions.

    Args:
        action: One-hot (..., A).
        logits: Unnormalised log-probabilities (..., A).

    Returns:
        (...) [nats].
    """
    # a product and no selection: derivatives of any order go through it, and A is small
    return (action * logits.log_softmax(dim=-1)).sum(dim=-1)


def mode(logits: Tensor) -> Tensor:
    """The likeliest action, one-hot (..., A)."""
    return one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)


def sample(logits: Tensor, noise: Tensor) -> Tensor:
    """Draws actions by the Gumbel-max trick.

        g = -log(-log Phi(noise)),    action = argmax(logits + g)

    Phi is the normal distribution function, so that g has the Gumbel distribution. The noise of one step decides alone,
    whatever else is drawn.

    Args:
        logits: (..., A).
        noise: Standard normal (..., A).

    Returns:
        One-hot (..., A).
    """
    # in float64: in float32 Phi is 1 from 5.4 on, and its logarithm 0
    gumbel = -torch.log(-torch.special.log_ndtr(noise.double()))
    return mode(logits.double() + gumbel).to(logits.dtype)


def kl_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(p || q) [nats] of logits (..., A)."""
    log_p, log_q = logits_p.log_softmax(dim=-1), logits_q.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy [nats] of logits (..., A)."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def fisher_product(logits_tangent: Tensor, logits: Tensor) -> Tensor:
    """Multiplies a tangent of the logits (..., A) by the Fisher information diag(p) - p p^T: a cotangent (..., A)."""
    p = logits.softmax(dim=-1)
    return p * (logits_tangent - (p * logits_tangent).sum(dim=-1, keepdim=True))
