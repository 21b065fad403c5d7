"""Stein variational gradient descent: particles that follow a density and repel each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metarl.core.rollout import Params


def stein_direction(theta: Tensor, gradient: Tensor, num_examples: float) -> Tensor:
    """Returns the direction in which N sets of P particles move (N, P, D).

        mean_q [-k_qp grad L(theta_q) + grad_q k_qp / M],    k_qp = exp(-|theta_q - theta_p|^2 / h)

    The density's logarithm is -M L, and the direction is divided by M, so that one particle
    descends L. h is the median squared distance of two particles over log P.

    Args:
        theta: Particles (N, P, D).
        gradient: Gradients of L (N, P, D).
        num_examples: M > 0, the weight of L against the repulsion.

    Source: Liu & Wang 2016 (arXiv:1608.04471), equation 8 and section 5.
    """
    particles = theta.shape[1]
    if particles == 1:
        return -gradient
    theta = theta - theta.mean(dim=1, keepdim=True)  # so that inner products cancel little
    square = _square_distances(theta)
    upper = torch.triu_indices(particles, particles, offset=1, device=theta.device)
    median = square[:, upper[0], upper[1]].median(dim=1).values
    width = (median / math.log(particles)).clamp(min=1e-12).view(-1, 1, 1)
    kernel = (-square / width).exp()
    weighted = torch.bmm(kernel.mT, theta) - kernel.sum(dim=1).unsqueeze(-1) * theta
    repulsion = -2.0 / (width * num_examples) * weighted
    return (-torch.bmm(kernel.mT, gradient) + repulsion) / particles


def _square_distances(theta: Tensor) -> Tensor:
    """Returns |theta_q - theta_p|^2 (N, P, P) of N sets of P particles (N, P, D).

    From inner products, because the differences would take P times the memory of the particles.
    """
    norm = theta.square().sum(dim=-1)
    square = norm.unsqueeze(2) + norm.unsqueeze(1) - 2.0 * torch.bmm(theta, theta.mT)
    same = torch.eye(theta.shape[1], dtype=torch.bool, device=theta.device)
    return square.clamp(min=0.0).masked_fill(same, 0.0)


def to_rows(params: Params, particles: int) -> Tensor:
    """Returns parameters (N * P, *shape) as vectors (N, P, D)."""
    rows = torch.cat([v.flatten(1) for v in params.values()], dim=1)
    return rows.unflatten(0, (-1, particles))


def from_rows(rows: Tensor, like: Params) -> Params:
    """Returns vectors (N, P, D) as parameters (N * P, *shape) in the shapes of others."""
    sizes = [v[0].numel() for v in like.values()]
    parts = rows.flatten(0, 1).split(sizes, dim=1)
    return {n: part.view_as(v) for (n, v), part in zip(like.items(), parts, strict=True)}
