"""An external memory unrolled on a CPU, with back-propagation through time by hand.

A step is sixty small operations, and autograd makes a graph of each. Here NumPy computes them, and
the gradients of the weights are one product over all steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEAST_SLOT, LEAST_KEY = 1e-6, 1e-12
"""Shortest lengths by which a slot and a key are divided, as in `external_memory`."""


def unroll_slots(
    inputs: Tensor, state: tuple[Tensor, ...], decay: float, *weights: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Maps inputs to features, like steps of `MannMemory`.

    Args:
        inputs: (L, M, I), float64, on the CPU.
        state: Before the first step: hidden (M, H), cell (M, H), slots (M, S, W), usage (M, S),
            weights of the last reading (M, R, S), and what was read (M, R W); float64.
        decay: Of the usage in a step.
        weights: Of the LSTM w_ih (4 H, I + R W), w_hh (4 H, H), b_ih, b_hh (4 H); of the heads
            (R (W + 2), H) and their bias; and of reading (H, R W); float64.

    Returns:
        Features (L, M, H), differentiable once in inputs and weights, and the last state.
    """
    features, *after = _SlotUnroll.apply(inputs, decay, *state, *weights)
    return features, tuple(after)


@dataclass(frozen=True)
class _Step:
    """Values of one step that its gradient needs, as arrays.

    Attributes:
        gates: Of the LSTM after their functions: entry, keep, new, out (M, 4, H).
        before: Cell before (M, H).
        squashed: tanh of the cell after (M, H).
        key: (M, R, W).
        gate: (M, R, 1).
        strength: (M, R, 1).
        places: The least used slots (M, R).
        previous: Weights of the previous reading (M, R, S).
        write: (M, R, S).
        slots: After writing (M, S, W).
        slot_length: At least LEAST_SLOT (M, S, 1).
        key_length: (M, R, 1).
        cosine: (M, R, S).
        weights: Of the reading (M, R, S).
    """

    gates: np.ndarray
    before: np.ndarray
    squashed: np.ndarray
    key: np.ndarray
    gate: np.ndarray
    strength: np.ndarray
    places: np.ndarray
    previous: np.ndarray
    write: np.ndarray
    slots: np.ndarray
    slot_length: np.ndarray
    key_length: np.ndarray
    cosine: np.ndarray
    weights: np.ndarray


class _SlotUnroll(torch.autograd.Function):
    """Holds the recurrence of the slots and its gradient."""

    @staticmethod
    @np.errstate(all="ignore")  # the learner looks for numbers that are not finite
    def forward(ctx: Any, inputs: Tensor, decay: float, *given: Tensor) -> tuple[Tensor, ...]:
        state, weights = [value.numpy() for value in given[:6]], given[6:]
        w_in, w_hidden, b_in, b_hidden, by_hidden, bias, by_read = (v.numpy() for v in weights)
        (length, rows, size), width = inputs.shape, state[2].shape[2]
        entered = inputs.numpy().reshape(length * rows, size) @ w_in[:, :size].T + b_in + b_hidden
        entered = entered.reshape(length, rows, -1)
        recurrent = np.concatenate([w_in[:, size:], w_hidden], axis=1).T.copy()
        hidden, *rest, read = state
        kept, reads, hiddens = [], [read], [hidden]
        for own in entered:
            gates = own + np.concatenate([read, hidden], axis=1) @ recurrent
            hidden, rest[0], lstm = _advance_lstm(gates, rest[0])
            heads = (hidden @ by_hidden.T + bias).reshape(rows, -1, width + 2)
            read, rest[1:], access = _access(heads, *rest[1:], decay)
            if any(ctx.needs_input_grad):
                kept.append(_Step(*lstm, *access))
            reads.append(read)
            hiddens.append(hidden)
        ctx.save_for_backward(inputs, *weights)
        ctx.kept = kept, np.stack(reads), np.stack(hiddens)
        features = ctx.kept[2][1:] + ctx.kept[1][1:] @ by_read.T
        after = tuple(torch.from_numpy(np.ascontiguousarray(v)) for v in (hidden, *rest, read))
        ctx.mark_non_differentiable(*after)
        return torch.from_numpy(features), *after

    @staticmethod
    @torch.autograd.function.once_differentiable
    @np.errstate(all="ignore")
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        inputs, *weights = ctx.saved_tensors
        w_in, w_hidden, _, _, by_hidden, _, by_read = (value.numpy() for value in weights)
        kept, reads, hiddens = ctx.kept
        (length, rows, size), own = inputs.shape, grad.numpy()
        recurrent = np.concatenate([w_in[:, size:], w_hidden], axis=1)
        through_read = own @ by_read
        by_gates = np.empty((length, rows, w_in.shape[0]))
        by_heads = np.empty((length, rows, by_hidden.shape[0]))
        back = np.zeros((rows, recurrent.shape[1]))
        cell, slots, weighing = (
            np.zeros_like(v) for v in (kept[0].before, kept[0].slots, kept[0].weights)
        )
        count = through_read.shape[2]
        for t in range(length - 1, -1, -1):
            by_reading = through_read[t] + back[:, :count]
            heads, slots, weighing = _access_back(kept[t], by_reading, slots, weighing)
            by_heads[t] = heads
            by_state = own[t] + back[:, count:] + heads @ by_hidden
            by_gates[t], cell = _lstm_back(kept[t], by_state, cell)
            back = by_gates[t] @ recurrent
        flat, heads = by_gates.reshape(length * rows, -1), by_heads.reshape(length * rows, -1)

        def times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
            return left.T @ right.reshape(length * rows, -1)

        entered = np.concatenate([times(flat, inputs.numpy()), times(flat, reads[:-1])], axis=1)
        total = flat.sum(axis=0)
        found = (
            (flat @ w_in[:, :size]).reshape(inputs.shape),
            *(entered, times(flat, hiddens[:-1]), total, total.copy()),
            *(times(heads, hiddens[1:]), heads.sum(axis=0)),
            times(own.reshape(length * rows, -1), reads[1:]),
        )
        by_inputs, *rest = (torch.from_numpy(np.ascontiguousarray(v)) for v in found)
        return by_inputs, None, *[None] * 6, *rest


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5


def _advance_lstm(
    gates: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Returns hidden and cell after gates (M, 4 H), and what the gradient needs."""
    parts = gates.reshape(len(gates), 4, -1)
    after = _sigmoid(parts)
    after[:, 2] = np.tanh(parts[:, 2])
    entry, keep, new, out = after.swapaxes(0, 1)
    new_cell = keep * cell + entry * new
    squashed = np.tanh(new_cell)
    return out * squashed, new_cell, (after, cell, squashed)


def _lstm_back(
    step: _Step, by_hidden: np.ndarray, by_cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the gradients of the gates (M, 4 H) and of the cell before (M, H)."""
    entry, keep, new, out = step.gates.swapaxes(0, 1)
    by_cell = by_cell + by_hidden * out * (1.0 - step.squashed * step.squashed)
    found = np.empty_like(step.gates)
    found[:, 0] = by_cell * new * entry * (1.0 - entry)
    found[:, 1] = by_cell * step.before * keep * (1.0 - keep)
    found[:, 2] = by_cell * entry * (1.0 - new * new)
    found[:, 3] = by_hidden * step.squashed * out * (1.0 - out)
    return found.reshape(len(found), -1), by_cell * keep


def _access(
    heads: np.ndarray, slots: np.ndarray, usage: np.ndarray, previous: np.ndarray, decay: float
) -> tuple[np.ndarray, list[np.ndarray], tuple[np.ndarray, ...]]:
    """Writes and reads, see `external_memory.access`.

    Returns:
        What was read (M, R W); slots, usage and weights after it; and what the gradient needs.
    """
    width, count = slots.shape[2], heads.shape[1]
    key, gate = np.tanh(heads[..., :width]), _sigmoid(heads[..., width : width + 1])
    strength = 1.0 + np.logaddexp(0.0, heads[..., width + 1 :])
    places = usage.argsort(axis=1, kind="stable")[:, :count]
    rows = np.arange(len(slots))[:, None]
    write = gate * previous
    write[rows, np.arange(count), places] += 1.0 - gate[..., 0]
    slots = slots.copy()
    slots[rows, places] = 0.0
    slots += write.swapaxes(1, 2) @ key
    slot_length = np.sqrt(np.einsum("mlw,mlw->ml", slots, slots))[..., None]
    slot_length = np.maximum(slot_length, LEAST_SLOT)
    key_length = np.maximum(np.sqrt((key * key).sum(axis=2, keepdims=True)), LEAST_KEY)
    cosine = (key / key_length) @ (slots / slot_length).swapaxes(1, 2)
    score = strength * cosine
    weights = np.exp(score - score.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    read = (weights @ slots).reshape(len(slots), -1)
    usage = decay * usage + weights.sum(axis=1) + write.sum(axis=1)
    kept = key, gate, strength, places, previous, write, slots, slot_length, key_length, cosine
    return read, [slots, usage, weights], (*kept, weights)


def _access_back(
    step: _Step, by_read: np.ndarray, by_slots: np.ndarray, by_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the gradients of the heads (M, R (W + 2)), and of slots and weights before.

    Args:
        step: The step.
        by_read: Gradient of what was read (M, R W).
        by_slots: Of the slots after the step (M, S, W).
        by_weights: Of the weights of the reading, from the next writing (M, R, S).
    """
    key, slots, weights = step.key, step.slots, step.weights
    by_read = by_read.reshape(key.shape)
    by_weights = by_weights + by_read @ slots.swapaxes(1, 2)
    by_slots = by_slots + weights.swapaxes(1, 2) @ by_read
    by_score = weights * (by_weights - (weights * by_weights).sum(axis=2, keepdims=True))
    by_strength = (by_score * step.cosine).sum(axis=2, keepdims=True)
    by_cosine = step.strength * by_score
    unit_key, unit_slots = key / step.key_length, slots / step.slot_length
    by_unit = by_cosine.swapaxes(1, 2) @ unit_key
    by_slots += _through_length(by_unit, unit_slots, step.slot_length, LEAST_SLOT)
    by_key = _through_length(by_cosine @ unit_slots, unit_key, step.key_length, LEAST_KEY)
    by_write = key @ by_slots.swapaxes(1, 2)
    by_key += step.write @ by_slots
    rows, count = np.arange(len(slots))[:, None], key.shape[1]
    by_gate = (by_write * step.previous).sum(axis=2)
    by_gate -= by_write[rows, np.arange(count), step.places]
    by_slots[rows, step.places] = 0.0
    gate = step.gate[..., 0]
    heads = np.empty((*key.shape[:2], key.shape[2] + 2))
    heads[..., :-2] = by_key * (1.0 - key * key)
    heads[..., -2] = by_gate * gate * (1.0 - gate)
    heads[..., -1:] = by_strength * -np.expm1(1.0 - step.strength)  # s(x) = 1 - exp(-softplus(x))
    return heads.reshape(len(heads), -1), by_slots, step.gate * by_write


def _through_length(
    by_unit: np.ndarray, unit: np.ndarray, length: np.ndarray, least: float
) -> np.ndarray:
    """Returns the gradient of vectors from that of the vectors divided by their lengths."""
    along = np.einsum("mlw,mlw->ml", unit, by_unit)[..., None]
    return (by_unit - np.where(length > least, along, 0.0) * unit) / length
