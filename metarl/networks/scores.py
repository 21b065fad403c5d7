"""Log-probabilities of given actions as functions of a network's output: first and second derivatives by hand.

With l the log-probabilities, o the outputs and s, b numbers a step (the slope of a loss in l, and how it changes),

    pull        s -> s dl/do                                     moves a slope from l to o
    move        do -> dl                                         and keeps what `pull_moved` needs of the direction
    pull_moved  s, b, direction -> b dl/do + s d(dl/do)          the derivative of `pull` along the direction
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.functional import categorical, gaussian


class Scores(Protocol):
    """Of n tasks x M steps."""

    log_prob: Tensor
    """(n, M) [nats]."""

    def pull(self, slope: Tensor) -> tuple[Tensor, Params]:
        """Maps a slope (n, M, 1) to a cotangent (n, M, A) of the output and slopes of the other parameters."""

    def move(self, moved: Tensor, vector: Params) -> tuple[Tensor, Any]:
        """Maps a tangent (n, M, A) of the output and one of all parameters to the tangent (n, M) of log_prob."""

    def pull_moved(self, slope: Tensor, bent: Tensor, direction: Any) -> tuple[Tensor, Params]:
        """The derivative of `pull` as the slope changes by bent (n, M, 1) and the output in a direction of `move`."""


class GaussianScores:
    """The output is the mean; the other parameter "log_std" is the same for all steps of a task.

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

    def pull(self, slope: Tensor) -> tuple[Tensor, Params]:
        """See `Scores`."""
        score = slope * self._scaled
        own = (score * self._scaled).sum(dim=1) - slope.sum(dim=1)
        return score * self._precision, {"log_std": own * self._free.squeeze(1)}

    def move(self, moved: Tensor, vector: Params) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See `Scores`; the direction is that of z and of log sigma."""
        log_std = vector["log_std"].unsqueeze(1) * self._free
        scaled = -torch.addcmul(self._scaled * log_std, moved, self._precision)
        return -(self._scaled * scaled).sum(dim=-1) - log_std.sum(dim=-1), (scaled, log_std)

    def pull_moved(
        self, slope: Tensor, bent: Tensor, direction: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Params]:
        """See `Scores`."""
        scaled, log_std = direction
        turned = bent * self._scaled + slope * scaled
        cotangent = (turned - slope * self._scaled * log_std) * self._precision
        own = ((turned + slope * scaled) * self._scaled - bent).sum(dim=1)
        return cotangent, {"log_std": own * self._free.squeeze(1)}


class CategoricalScores:
    """The output are logits; there are no other parameters.

        dl/do = a - p,    p = softmax(o),    dp = p (do - p.do)

    Args:
        action: One-hot (n, M, A).
        logits: (n, M, A).
    """

    def __init__(self, action: Tensor, logits: Tensor):
        self.log_prob = categorical.log_prob(action, logits)
        self._logits = logits
        self._residual = action - logits.softmax(dim=-1)

    def pull(self, slope: Tensor) -> tuple[Tensor, Params]:
        """See `Scores`."""
        return slope * self._residual, {}

    def move(self, moved: Tensor, vector: Params) -> tuple[Tensor, Tensor]:
        """See `Scores`; the direction is that of p."""
        del vector
        return (self._residual * moved).sum(dim=-1), categorical.fisher_product(moved, self._logits)

    def pull_moved(self, slope: Tensor, bent: Tensor, direction: Tensor) -> tuple[Tensor, Params]:
        """See `Scores`."""
        return torch.addcmul(bent * self._residual, slope, direction, value=-1.0), {}
