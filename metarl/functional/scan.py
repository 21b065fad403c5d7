"""A gated linear recurrence, computed in blocks of time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def gated_scan(gates: Tensor) -> Tensor:
    """Computes h_t = a_t h_{t-1} + (1 - a_t) c_t for all t, with h before the first step 0.

    The number of operations grows with the root of the number of steps L, not with L: all blocks
    of about sqrt(L) steps advance at the same time.

    Args:
        gates: (L, M, 2 H): the logits of the decays a, then the candidates c.

    Returns:
        h (L, M, H); differentiable once.

    Source: Feng et al. 2024 (arXiv:2410.01201); the blocks are one level of Blelloch 1990, Prefix
    sums and their applications.
    """
    return _GatedScan.apply(gates)


class _GatedScan(torch.autograd.Function):
    """Holds the scan and its gradient.

    With g_t the gradient of h_t: G_t = g_t + a_{t+1} G_{t+1}, dc_t = G_t (1 - a_t) and
    da_t = G_t (h_{t-1} - c_t).
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor) -> Tensor:
        logits, candidate = gates.chunk(2, dim=-1)
        decay = torch.sigmoid(logits)
        states = torch.addcmul(candidate, decay, candidate, value=-1.0)
        _scan(decay, states, states, reverse=False)  # in place: a step reads its own input only
        ctx.save_for_backward(decay, candidate, states)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        decay, candidate, states = ctx.saved_tensors
        total = torch.empty_like(states)
        # the last step has no later one, so its shifted decay is never read
        _scan(decay.roll(-1, 0), grad, total, reverse=True)
        gates = decay.new_empty(*decay.shape[:-1], 2 * decay.shape[-1])
        by_logit, by_candidate = gates.chunk(2, dim=-1)
        torch.addcmul(total, total, decay, value=-1.0, out=by_candidate)
        change = candidate.neg()
        change[1:] += states[:-1]
        change *= total
        torch.ops.aten.sigmoid_backward(change, decay, grad_input=by_logit)
        return gates


def reverse_scan(decay: Tensor, inputs: Tensor) -> Tensor:
    """Computes y_t = x_t + a_t y_{t+1} for all t, with y after the last step 0.

    Args:
        decay: a (L, ...).
        inputs: x (L, ...).

    Returns:
        y (L, ...), not differentiable.
    """
    states = torch.empty_like(inputs)
    with torch.no_grad():
        _scan(decay, inputs, states, reverse=True)
    return states


def _scan(decay: Tensor, inputs: Tensor, states: Tensor, *, reverse: bool) -> None:
    """Writes the states (L, M, H) of h_t = a_t h_{t-1} + b_t, in reverse from the last step."""
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
