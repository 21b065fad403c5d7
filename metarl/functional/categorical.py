"""The categorical distribution over A actions, each a one-hot row (..., A)."""

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
    # a product, not an index: it has derivatives of any order, and A is small
    return (action * logits.log_softmax(dim=-1)).sum(dim=-1)


def mode(logits: Tensor) -> Tensor:
    """Returns the likeliest action, one-hot (..., A)."""
    return one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)


def sample(logits: Tensor, noise: Tensor) -> Tensor:
    """Draws actions by the Gumbel-max trick.

        g = -log(-log Phi(noise)),    action = argmax(logits + g)

    Phi is the normal distribution function, so that g has the Gumbel distribution. An action
    depends on its own noise only, not on the other draws.

    Args:
        logits: (..., A).
        noise: Standard normal (..., A).

    Returns:
        One-hot (..., A).
    """
    # float64, because in float32 Phi is 1 above 5.4, and its logarithm 0
    gumbel = -torch.log(-torch.special.log_ndtr(noise.double()))
    return mode(logits.double() + gumbel).to(logits.dtype)


def kl_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Returns KL(p || q) (...) [nats] of logits (..., A)."""
    log_p, log_q = logits_p.log_softmax(dim=-1), logits_q.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Returns the entropy (...) [nats] of logits (..., A)."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def fisher_product(logits_tangent: Tensor, logits: Tensor) -> Tensor:
    """Multiplies a tangent of the logits by the Fisher information diag(p) - p p^T.

    Args:
        logits_tangent: (..., A).
        logits: (..., A).

    Returns:
        A cotangent of the logits (..., A).
    """
    p = logits.softmax(dim=-1)
    return p * (logits_tangent - (p * logits_tangent).sum(dim=-1, keepdim=True))
