"""Memory-augmented network: examples are written into a memory and read by their content."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot, softplus

from metarl.core.rollout import Params
from metarl.fewshot.learner import Outer
from metarl.fewshot.network import draw_matrix
from metarl.fewshot.tasks import Problem, Tasks, loss


@dataclass(frozen=True)
class State:
    """State of N memories of L slots, W numbers wide, with R heads.

    Attributes:
        hidden: (N, H) of the controller.
        cell: (N, H) of the controller.
        memory: (N, L, W).
        usage: (N, L), how much each slot was read and written lately.
        read_weights: (N, R, L) of the last step.
        read: (N, R * W), what was read in the last step.
    """

    hidden: Tensor
    cell: Tensor
    memory: Tensor
    usage: Tensor
    read_weights: Tensor
    read: Tensor

    def repeat(self, count: int) -> State:
        """Returns every row count times, side by side."""
        return State(*(v.repeat_interleave(count, dim=0) for v in vars(self).values()))


@dataclass(frozen=True)
class Mann:
    """An LSTM that writes into the least recently used slots of a memory.

        w_write = s(g) w_read(previous) + (1 - s(g)) w_least-used,    usage = d usage + w_r + w_w
        w_read = softmax(strength * cosine(key, memory))

    Each head writes its key, to the place it read before or to a slot of its own among the R least
    used, which are emptied first. The paper presents a label one step after its input and predicts
    in between; here an example comes with its target, and each query follows the whole support by
    itself. The strength is that of the neural Turing machine (arXiv:1410.5401); the paper has none.

    Attributes:
        problem: The tasks.
        num_hidden: H.
        num_slots: L.
        width: W.
        num_heads: R.
        decay: d, of the usage.
        outer: The outer step.

    Source: Santoro et al. 2016 (arXiv:1605.06065).
    """

    problem: Problem
    num_hidden: int = 64
    num_slots: int = 32
    width: int = 20
    num_heads: int = 2
    decay: float = 0.95
    outer: Outer = field(default_factory=Outer)

    def initial(self, rng: np.random.Generator) -> Params:
        """See `FewShotLearner`."""
        hidden, read = self.num_hidden, self.num_heads * self.width
        inputs = self.problem.input_size + self.problem.output_size + read + hidden
        control = torch.zeros(4 * hidden)
        control[hidden : 2 * hidden] = 1.0  # the forget gate begins open
        heads = self.num_heads * (self.width + 2)
        return {
            "control": draw_matrix(rng, inputs, 4 * hidden),
            "control_bias": control,
            "heads": draw_matrix(rng, hidden, heads),
            "heads_bias": torch.zeros(heads),
            "answer": draw_matrix(rng, hidden + read, self.problem.output_size),
            "answer_bias": torch.zeros(self.problem.output_size),
        }

    def begin(self, num_rows: int, like: Tensor) -> State:
        """Returns empty memories, whose numbers are small so that a cosine has a derivative."""
        slots, heads, width, zeros = self.num_slots, self.num_heads, self.width, like.new_zeros
        read_weights = zeros(num_rows, heads, slots)
        read_weights[..., 0] = 1.0
        return State(
            zeros(num_rows, self.num_hidden),
            zeros(num_rows, self.num_hidden),
            like.new_full((num_rows, slots, width), 1e-3),
            zeros(num_rows, slots),
            read_weights,
            zeros(num_rows, heads * width),
        )

    def step(self, params: Params, state: State, inputs: Tensor) -> tuple[State, Tensor]:
        """Reads inputs (N, S + A) and returns the next state and the output (N, A)."""
        row = torch.cat([inputs, state.read, state.hidden], dim=1)
        gates = (row @ params["control"] + params["control_bias"]).chunk(4, dim=1)
        cell = gates[1].sigmoid() * state.cell + gates[0].sigmoid() * gates[2].tanh()
        hidden = gates[3].sigmoid() * cell.tanh()
        heads = (hidden @ params["heads"] + params["heads_bias"]).unflatten(1, (self.num_heads, -1))
        key, gate, strength = heads.split([self.width, 1, 1], dim=2)
        state = self._access(state, key.tanh(), gate.sigmoid(), 1.0 + softplus(strength))
        answer = torch.cat([hidden, state.read], dim=1)
        output = answer @ params["answer"] + params["answer_bias"]
        return replace(state, hidden=hidden, cell=cell), output

    def _access(self, state: State, key: Tensor, gate: Tensor, strength: Tensor) -> State:
        """Writes and reads with keys (N, R, W), gates and strengths (N, R, 1)."""
        least = state.usage.argsort(dim=1, stable=True)[:, : self.num_heads]
        free = one_hot(least, self.num_slots).to(key.dtype)  # (N, R, L)
        write = gate * state.read_weights + (1.0 - gate) * free
        memory = state.memory * (1.0 - free.sum(dim=1)).unsqueeze(2)
        memory = memory + torch.bmm(write.mT, key)
        cosine = torch.bmm(normalize(key, dim=2), normalize(memory, dim=2, eps=1e-6).mT)
        weights = (strength * cosine).softmax(dim=2)
        read = torch.bmm(weights, memory).flatten(1)
        usage = self.decay * state.usage + weights.sum(dim=1) + write.sum(dim=1)
        return replace(state, memory=memory, usage=usage, read_weights=weights, read=read)

    def answer(self, params: Params, tasks: Tasks, num_examples: int) -> Tensor:
        """Returns outputs (N, Q, A) after the first num_examples of the support."""
        state = self.begin(len(tasks), tasks.support_x)
        for m in range(num_examples):
            example = torch.cat([tasks.support_x[:, m], tasks.support_y[:, m]], dim=1)
            state, _ = self.step(params, state, example)
        count = tasks.query_x.shape[1]
        unknown = tasks.query_x.new_zeros(*tasks.query_x.shape[:2], self.problem.output_size)
        rows = torch.cat([tasks.query_x, unknown], dim=2).flatten(0, 1)
        _, output = self.step(params, state.repeat(count), rows)
        return output.unflatten(0, (len(tasks), count))

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns the mean loss of the queries after the support."""
        output = self.answer(params, tasks, tasks.support_x.shape[1])
        return loss(self.problem, output, tasks.query_y).mean()

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """Returns the outputs with an empty memory, and after the support."""
        return [self.answer(params, tasks, m) for m in (0, tasks.support_x.shape[1])]
