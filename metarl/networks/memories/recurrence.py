"""A gated recurrent unit unrolled on a CPU, with back-propagation through time by hand.

Autograd adds up the gradient of every weight once a time step, and makes a graph of ten small
operations for each. Here the weights' gradients are one product over all steps and trials, and the
steps work in place. NumPy does the elementwise operations on torch's memory, because its calls cost
a fifth of torch's at these sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.networks.layers import gradient_of_weight, linear, product


def unroll_gru(inputs: Tensor, hidden: Tensor, *weights: Tensor) -> Tensor:
    """Maps inputs to the hidden states of a gated recurrent unit, like `torch.nn.GRU`.

    Args:
        inputs: (L, M, I), on the CPU.
        hidden: State before the first step (M, H).
        weights: w_ih (3 H, I), w_hh (3 H, H), b_ih (3 H), b_hh (3 H), with the gates in the order
            reset, update, new.

    Returns:
        States after every step (L, M, H); differentiable once in all arguments.
    """
    return _GruUnroll.apply(inputs, hidden, *weights)


class _GruUnroll(torch.autograd.Function):
    """Holds the states' recurrence and its gradient.

    With G the gradient of h_t, and all products by elements but those with W:

    r, z = sigmoid(..), n = tanh(gx_n + r hn), hn = W_n h + b_n, h_t = n + z (h - n)
    dz = G (h - n) z (1 - z), dn = G (1 - z) (1 - n^2), dr = dn hn r (1 - r), dhn = dn r
    dh = G z + W^T (dr, dz, dhn)
    """

    @staticmethod
    @np.errstate(all="ignore")  # the learner looks for numbers that are not finite
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
    ) -> Tensor:
        size, (length, rows, _) = w_hh.shape[1], inputs.shape
        # sigmoid(x) = tanh(x / 2) / 2 + 1/2; the first half goes into the weights
        half = torch.ones_like(b_ih)
        half[: 2 * size] = 0.5
        bias = torch.cat([b_ih[: 2 * size] + b_hh[: 2 * size], b_ih[2 * size :]]) * half
        recurrent = (w_hh * half.unsqueeze(1)).t().contiguous()
        flat = inputs.flatten(0, 1)
        gates = linear(flat, w_ih * half.unsqueeze(1), bias).view(length, rows, -1)
        states = hidden.new_empty(length + 1, rows, size)
        states[0] = hidden
        new_hidden, new = (hidden.new_empty(length, rows, size) for _ in range(2))
        out = hidden.new_empty(rows, 3 * size)
        new_bias = b_hh[2 * size :].numpy()
        arrays = [array.numpy() for array in (gates, new_hidden, new, states[:-1], states[1:])]
        from_rz, from_n = out.numpy()[:, : 2 * size], out.numpy()[:, 2 * size :]
        for state, g, hn, n, before, after in zip(states, *arrays, strict=False):
            torch.mm(state, recurrent, out=out)
            rz = g[:, : 2 * size]
            np.add(rz, from_rz, out=rz)
            np.tanh(rz, out=rz)
            np.multiply(rz, 0.5, out=rz)
            np.add(rz, 0.5, out=rz)
            np.add(from_n, new_bias, out=hn)
            np.multiply(g[:, :size], hn, out=n)
            np.add(n, g[:, 2 * size :], out=n)
            np.tanh(n, out=n)
            np.subtract(before, n, out=after)
            np.multiply(after, g[:, size : 2 * size], out=after)
            np.add(after, n, out=after)
        ctx.save_for_backward(inputs, w_ih, w_hh)
        ctx.kept = gates, states, new_hidden, new
        return states[1:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, w_ih, w_hh = ctx.saved_tensors
        _, states, _, _ = ctx.kept
        with_state, with_input, hidden = _cotangents(grad.contiguous(), w_hh, ctx.kept)
        rows, new = with_state.flatten(0, 1), with_input.flatten(0, 1)
        both, flat_inputs = 2 * w_hh.shape[1], inputs.flatten(0, 1)
        by_weight = gradient_of_weight(rows, flat_inputs)  # the part of dhn is replaced by dn's
        by_weight = torch.cat([by_weight[:both], gradient_of_weight(new, flat_inputs)])
        by_hidden = gradient_of_weight(rows, states[:-1].flatten(0, 1))
        sums = rows.new_ones(len(rows)) @ rows
        bias = torch.cat([sums[:both], new.new_ones(len(new)) @ new])
        by_inputs = None
        if ctx.needs_input_grad[0]:
            by_inputs = product(torch.cat([rows[:, :both], new], dim=1), w_ih).view_as(inputs)
        return by_inputs, hidden, by_weight, by_hidden, bias, sums


@np.errstate(all="ignore")
def _cotangents(
    grad: Tensor, w_hh: Tensor, kept: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (dr, dz, dhn) (L, M, 3 H), dn (L, M, H) and the first state's gradient (M, H).

    Args:
        grad: Of the states after every step (L, M, H).
        w_hh: (3 H, H).
        kept: What the forward pass kept: r, z and the new gate's input (L, M, 3 H), states
            (L + 1, M, H), hn (L, M, H) and n (L, M, H).
    """
    gates, states, new_hidden, new = kept
    length, rows, size = grad.shape
    reset, update = gates[:, :, :size], gates[:, :, size : 2 * size]
    # factors of G in dz, of G in dn, and of dn in dr
    by_update = (states[:-1] - new).mul_(update).mul_(1 - update)
    by_new = new.square().neg_().add_(1.0).mul_(1 - update)
    by_reset = (1 - reset).mul_(reset).mul_(new_hidden)
    with_state = grad.new_empty(length, rows, 3 * size)
    with_input = grad.new_empty(length, rows, size)
    total, passed = grad.new_zeros(rows, size), grad.new_empty(rows, size)
    g, p = total.numpy(), passed.numpy()
    tensors = (with_state, with_input, by_update, by_new, by_reset, gates, grad)
    arrays = [tensor.numpy()[::-1] for tensor in tensors]
    for step, *parts in zip(with_state.unbind()[::-1], *arrays, strict=True):
        c, dn, a, b, d, gate, own = parts
        np.add(g, own, out=g)
        np.multiply(g, b, out=dn)
        np.multiply(g, a, out=c[:, size : 2 * size])
        np.multiply(dn, d, out=c[:, :size])
        np.multiply(dn, gate[:, :size], out=c[:, 2 * size :])
        torch.mm(step, w_hh, out=passed)
        np.multiply(g, gate[:, size : 2 * size], out=g)
        np.add(g, p, out=g)
    return with_state, with_input, total
