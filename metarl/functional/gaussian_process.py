"""Regression by Gaussian processes with a squared-exponential kernel, exact, for N tasks at once.

    k(x, x') = a^2 exp(-|(x - x') / l|^2 / 2),    targets y = f(x) + noise of deviation s

The parameters are the logarithms "log_amplitude" (), "log_length" () or one for each input (S,),
and "log_noise" (). The mean is zero.

Source: Rasmussen & Williams 2006, Gaussian processes for machine learning, algorithm 2.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.rollout import Params


def kernel(params: Params, left: Tensor, right: Tensor) -> Tensor:
    """Returns k (N, I, J) of inputs (N, I, S) and (N, J, S)."""
    inverse = (-params["log_length"]).exp()
    left, right = left * inverse, right * inverse
    square = (left.unsqueeze(2) - right.unsqueeze(1)).square().sum(dim=-1)
    return (2.0 * params["log_amplitude"] - 0.5 * square).exp()


def factor(params: Params, inputs: Tensor, more_noise: Tensor | float = 0.0) -> Tensor:
    """Returns the Cholesky factor (N, M, M) of the covariance of noisy targets.

    Args:
        params: Of the kernel.
        inputs: (N, M, S).
        more_noise: Variance of further noise, one number or that of each target (N, M).

    Raises:
        FloatingPointError: A covariance is not positive definite, or not finite.
    """
    noise = (2.0 * params["log_noise"]).exp() + torch.as_tensor(more_noise, dtype=inputs.dtype)
    own = kernel(params, inputs, inputs)
    return _cholesky(own + torch.diag_embed(noise.expand(own.shape[:-1])))


def _cholesky(covariance: Tensor) -> Tensor:
    try:
        return torch.linalg.cholesky(covariance)
    except torch.linalg.LinAlgError as error:
        raise FloatingPointError("a covariance is not positive definite, or not finite") from error


def log_likelihood(
    params: Params, inputs: Tensor, targets: Tensor, more_noise: Tensor | float = 0.0
) -> Tensor:
    """Returns the log-density (N,) [nats] of targets (N, M) at inputs (N, M, S)."""
    root = factor(params, inputs, more_noise)
    white = torch.linalg.solve_triangular(root, targets.unsqueeze(-1), upper=False)
    log_det = 2.0 * root.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    size = targets.shape[1] * math.log(2.0 * math.pi)
    return -0.5 * (white.square().sum(dim=(1, 2)) + log_det + size)


@dataclass(frozen=True)
class Posterior:
    """Joint distribution of f at Q inputs of each task.

    Attributes:
        mean: (N, Q).
        covariance: (N, Q, Q).
    """

    mean: Tensor
    covariance: Tensor

    def sample(self, noise: Tensor, jitter: float) -> Tensor:
        """Draws functions (N, E, Q) with standard normal noise (N, E, Q).

        Args:
            noise: The noise.
            jitter: Added to the variances, > 0, because inputs may repeat.
        """
        eye = torch.eye(self.mean.shape[1], dtype=self.mean.dtype)
        root = _cholesky(self.covariance + jitter * eye)
        return self.mean.unsqueeze(1) + noise @ root.mT


def posterior(
    params: Params,
    inputs: Tensor,
    targets: Tensor,
    queries: Tensor,
    more_noise: Tensor | float = 0.0,
) -> Posterior:
    """Returns the distribution of f at queries (N, Q, S) given targets (N, M) at (N, M, S)."""
    root = factor(params, inputs, more_noise)
    cross = kernel(params, inputs, queries)
    white = torch.linalg.solve_triangular(root, cross, upper=False)
    weights = torch.cholesky_solve(targets.unsqueeze(-1), root)
    mean = (cross.mT @ weights).squeeze(-1)
    return Posterior(mean, kernel(params, queries, queries) - white.mT @ white)
