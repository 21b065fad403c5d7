"""Log-probabilities of given actions with derivatives by hand."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.functional import categorical, gaussian


class Scores(Protocol):
    """Log-probabilities l of given actions for n tasks x M steps, with derivatives by hand.

    With o the outputs, and c, dc one number for each step:

        vjp          c -> c dl/do
        jvp          do -> dl
        vjp_tangent  c, dc, do -> dc dl/do + c d(dl/do)

    Attributes:
        log_prob: (n, M) [nats].
    """

    log_prob: Tensor

    def vjp(self, cotangent: Tensor) -> tuple[Tensor, Params]:
        """Maps a cotangent (n, M, 1) of log_prob to those of the output (n, M, A) and of params."""

    def jvp(self, output_tangent: Tensor, params_tangent: Params) -> tuple[Tensor, Any]:
        """Maps a tangent (n, M, A) of the output and one of params to the tangent of log_prob.

        Returns:
            The tangent (n, M), and what `vjp_tangent` needs of the direction.
        """

    def vjp_tangent(
        self, cotangent: Tensor, cotangent_tangent: Tensor, direction: Any
    ) -> tuple[Tensor, Params]:
        """Differentiates `vjp` along a direction of `jvp`; the cotangents are (n, M, 1)."""


class GaussianScores:
    """Scores of a Gaussian; "log_std" is the same for all steps of a task.

        z = (a - mu) / sigma,    dl/dmu = z / sigma,    dl/dlog sigma = z^2 - 1

    Args:
        action: (n, M, A).
        mean: (n, M, A).
        log_std: (n, 1, A).
        free: (n, 1, A), 0 where log_std is held by its clamp, else 1.
    """

    def __init__(self, action: Tensor, mean: Tensor, log_std: Tensor, free: Tensor):
        self._free, self._precision = free, (-log_std).exp()
        self._scaled = (action - mean) * self._precision
        self.log_prob = gaussian.log_prob_of_noise(self._scaled, log_std)

    def vjp(self, cotangent: Tensor) -> tuple[Tensor, Params]:
        """See `Scores`."""
        score = cotangent * self._scaled
        own = (score * self._scaled).sum(dim=1) - cotangent.sum(dim=1)
        return score * self._precision, {"log_std": own * self._free.squeeze(1)}

    def jvp(
        self, output_tangent: Tensor, params_tangent: Params
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See `Scores`; the direction holds the tangents of z and of log sigma."""
        log_std = params_tangent["log_std"].unsqueeze(1) * self._free
        scaled = -torch.addcmul(self._scaled * log_std, output_tangent, self._precision)
        return -(self._scaled * scaled).sum(dim=-1) - log_std.sum(dim=-1), (scaled, log_std)

    def vjp_tangent(
        self, cotangent: Tensor, cotangent_tangent: Tensor, direction: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Params]:
        """See `Scores`."""
        scaled, log_std = direction
        score = cotangent_tangent * self._scaled + cotangent * scaled
        output = (score - cotangent * self._scaled * log_std) * self._precision
        own = ((score + cotangent * scaled) * self._scaled - cotangent_tangent).sum(dim=1)
        return output, {"log_std": own * self._free.squeeze(1)}


class CategoricalScores:
    """Scores of a categorical distribution, without parameters of its own.

        dl/do = a - p,    p = softmax(o),    dp = p (do - p.do)

    Args:
        action: One-hot (n, M, A).
        logits: (n, M, A).
    """

    def __init__(self, action: Tensor, logits: Tensor):
        self.log_prob = categorical.log_prob(action, logits)
        self._logits = logits
        self._residual = action - logits.softmax(dim=-1)

    def vjp(self, cotangent: Tensor) -> tuple[Tensor, Params]:
        """See `Scores`."""
        return cotangent * self._residual, {}

    def jvp(self, output_tangent: Tensor, params_tangent: Params) -> tuple[Tensor, Tensor]:
        """See `Scores`; the direction is the tangent of p."""
        del params_tangent
        tangent = (self._residual * output_tangent).sum(dim=-1)
        return tangent, categorical.fisher_product(output_tangent, self._logits)

    def vjp_tangent(
        self, cotangent: Tensor, cotangent_tangent: Tensor, direction: Tensor
    ) -> tuple[Tensor, Params]:
        """See `Scores`."""
        residual = cotangent_tangent * self._residual
        return torch.addcmul(residual, cotangent, direction, value=-1.0), {}
