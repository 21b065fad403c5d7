"""The state of Adam as named tensors, which exist before the first step, and its step size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.core.rollout import Params

_MOMENTS = ("exp_avg", "exp_avg_sq")


def begin(adam: torch.optim.Optimizer, device: torch.device | str = "cpu") -> None:
    """Gives every parameter moments of zero, so that restoring a state needs no new memory.

    Args:
        adam: The optimiser, before its first step.
        device: Of the counts of steps: that of the parameters for a fused Adam, else the CPU.
    """
    for value in adam.param_groups[0]["params"]:
        zeros = {name: torch.zeros_like(value) for name in _MOMENTS}
        step = torch.zeros((), dtype=torch.float32, device=device)  # as Adam's kernel reads it
        adam.state[value] = {"step": step, **zeros}


def moments(adam: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> Params:
    """Returns `adam/exp_avg/NAME` and `adam/exp_avg_sq/NAME` of every parameter, as they are."""
    return {
        f"adam/{moment}/{names[value]}": kept[moment]
        for value, kept in adam.state.items()
        for moment in _MOMENTS
    }


def num_steps(adam: torch.optim.Optimizer) -> Tensor:
    """Returns the number of steps (), float32, the same for all parameters."""
    return next(iter(adam.state.values()))["step"].float()


def restore_steps(adam: torch.optim.Optimizer, count: Tensor) -> None:
    """Sets the number of steps of every parameter, in place."""
    for kept in adam.state.values():
        kept["step"].copy_(count)


def halve_step_size(adam: torch.optim.Optimizer, lr: float, updates: int, halving: int) -> None:
    """Sets the step size to lr * 0.5 ** (updates / halving); a halving of 0 keeps lr.

    Args:
        adam: The optimiser.
        lr: First step size.
        updates: Updates so far.
        halving: Updates in which the step size falls to half.
    """
    adam.param_groups[0]["lr"] = lr * 0.5 ** (updates / halving) if halving else lr
