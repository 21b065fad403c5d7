"""An LSTM as an optimiser: its cells are the parameters of the task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.networks.mlp import TanhMLP


@dataclass(frozen=True)
class OptimiserState:
    """State of the optimiser for each of P numbers of N tasks.

    Attributes:
        hidden: Of an ordinary LSTM (N, P, H).
        cell: Of it (N, P, H).
        forget: f of the last step (N, P).
        entry: i of the last step (N, P).
    """

    hidden: Tensor
    cell: Tensor
    forget: Tensor
    entry: Tensor

    @staticmethod
    def initial(theta: Tensor, num_hidden: int) -> OptimiserState:
        """Returns the state before the first step on theta (N, P)."""
        zeros = theta.new_zeros(*theta.shape, num_hidden)
        return OptimiserState(zeros, zeros, torch.ones_like(theta), torch.zeros_like(theta))


def initial_optimiser(rng: np.random.Generator, num_hidden: int, step_size: float) -> Params:
    """Draws the optimiser's parameters: at first f is nearly 1, and i the step size in (0, 1)."""
    return {
        "lstm": _draw(rng, 4 + num_hidden, 4 * num_hidden),
        "lstm_bias": torch.zeros(4 * num_hidden),
        "gates": 0.01 * _draw(rng, num_hidden + 3, 2),
        "gates_bias": torch.tensor([6.0, math.log(step_size / (1.0 - step_size))]),
    }


def _draw(rng: np.random.Generator, fan_in: int, fan_out: int) -> Tensor:
    return TanhMLP(fan_in, fan_out, ()).initial(rng)["weight0"]


def optimise(
    own: Params, state: OptimiserState, theta: Tensor, gradient: Tensor, value: Tensor
) -> tuple[Tensor, OptimiserState]:
    """Takes one step of the learned optimiser.

        theta_k = f_k theta_{k-1} - i_k g_k,    (f_k, i_k) = s(W [h_k, theta_{k-1}, f, i] + b)

    h_k is the output of an ordinary LSTM that reads the gradient g_k and the loss, both in the form
    of `encode`. All numbers share these weights, and each has a state of its own.

    Args:
        own: Parameters of `initial_optimiser`, (*shape) or (N, *shape) with vectors (N, 1, ...).
        state: Before the step.
        theta: (N, P).
        gradient: (N, P).
        value: Loss (N, 1).

    Returns:
        theta_k (N, P), and the state after the step.

    Source: Ravi & Larochelle 2017, Optimization as a model for few-shot learning.
    """
    reading = torch.cat([encode(gradient), encode(value).expand(*theta.shape, 2)], dim=-1)
    gates = torch.cat([reading, state.hidden], dim=-1) @ own["lstm"] + own["lstm_bias"]
    entry, keep, new, out = gates.chunk(4, dim=-1)
    cell = (keep + 1.0).sigmoid() * state.cell + entry.sigmoid() * new.tanh()
    hidden = out.sigmoid() * cell.tanh()
    rest = (each.unsqueeze(-1) for each in (theta, state.forget, state.entry))
    row = torch.cat([hidden, *rest], dim=-1)
    forget, step = (row @ own["gates"] + own["gates_bias"]).sigmoid().unbind(dim=-1)
    return forget * theta - step * gradient, OptimiserState(hidden, cell, forget, step)


def encode(value: Tensor, p: float = 10.0) -> Tensor:
    """Returns numbers (...) of any size as pairs (..., 2) of moderate ones.

        (log|v| / p, sign v) where |v| >= exp(-p),    (-1, exp(p) v) elsewhere

    Source: Ravi & Larochelle 2017, section 3.2, after Andrychowicz et al. 2016 (arXiv:1606.04474).
    """
    is_large = value.abs() >= math.exp(-p)
    size = torch.where(is_large, value.abs().clamp(min=math.exp(-p)).log() / p, -1.0)
    return torch.stack([size, torch.where(is_large, value.sign(), math.exp(p) * value)], dim=-1)


def to_rows(values: Params) -> Tensor:
    """Returns values (N, *shape) as rows (N, P)."""
    return torch.cat([v.flatten(1) for v in values.values()], dim=1)


def from_rows(rows: Tensor, like: Params) -> Params:
    """Returns rows (N, P) as values (N, *shape), for parameters (*shape)."""
    parts = rows.split([v.numel() for v in like.values()], dim=1)
    return {n: part.unflatten(1, v.shape) for (n, v), part in zip(like.items(), parts, strict=True)}
