"""The linear recurrence h_t = a_t h_{t-1} + b_t, computed in blocks of time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def linear_scan(decay: Tensor, inputs: Tensor) -> Tensor:
    """Computes h_t = a_t * h_{t-1} + b_t for all t, with h before the first step 0.

    The number of operations grows with the root of the number of steps L, not with L: all blocks
    of about sqrt(L) steps advance at the same time.

    Args:
        decay: a (L, M, H).
        inputs: b (L, M, H).

    Returns:
        h (L, M, H); differentiable once in both.

    Source: Blelloch 1990, Prefix sums and their applications, with one level of blocks.
    """
    return _LinearScan.apply(decay, inputs)


class _LinearScan(torch.autograd.Function):
    """With g_t the gradient of h_t: G_t = g_t + a_{t+1} G_{t+1}, db_t = G_t, da_t = G_t h_{t-1}."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor) -> Tensor:
        states = torch.empty_like(inputs)
        _scan(decay, inputs, states, reverse=False)
        ctx.save_for_backward(decay, states)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        decay, states = ctx.saved_tensors
        total, grad_decay = torch.empty_like(states), torch.empty_like(states)
        # the last step has no later one, so its shifted decay is never read
        _scan(decay.roll(-1, 0), grad, total, reverse=True)
        torch.mul(total[1:], states[:-1], out=grad_decay[1:])
        grad_decay[0] = 0.0
        return grad_decay, total


def _scan(decay: Tensor, inputs: Tensor, states: Tensor, *, reverse: bool) -> None:
    """Writes the states (L, M, H) of the recurrence, in reverse from the last step to the first."""
    length = len(inputs)
    size = max(1, math.isqrt(length))
    whole = length - length % size  # the other steps, fewer than size, follow one by one
    start = length - whole if reverse else 0
    parts = (part[start : start + whole].unflatten(0, (-1, size)) for part in (decay, inputs))
    blocks = states[start : start + whole].unflatten(0, (-1, size))
    _scan_blocks(*parts, blocks, reverse)
    others = range(start - 1, -1, -1) if reverse else range(whole, length)
    for t in others:
        before = t + 1 if reverse else t - 1
        torch.addcmul(inputs[t], decay[t], states[before], out=states[t])


def _scan_blocks(decay: Tensor, inputs: Tensor, states: Tensor, reverse: bool) -> None:
    """Writes the states (B, C, ...) of B blocks of C steps that follow one another."""
    a, b, out = (part.unbind(1) for part in (decay, inputs, states))
    if reverse:
        a, b, out = a[::-1], b[::-1], out[::-1]
    # each block from state 0, and the factor of the state before it
    last, factor = b[0].clone(), a[0].clone()
    for t in range(1, len(a)):
        torch.addcmul(b[t], a[t], last, out=last)
        factor *= a[t]
    before = torch.zeros_like(last)
    order = range(len(last))[:: -1 if reverse else 1]
    for previous, block in zip(order, order[1:], strict=False):
        torch.addcmul(last[previous], factor[previous], before[previous], out=before[block])
    for t in range(len(a)):
        before = torch.addcmul(b[t], a[t], before, out=out[t])
