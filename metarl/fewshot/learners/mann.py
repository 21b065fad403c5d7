"""Memory-augmented network: examples are written into a memory and read by their content."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.fewshot.learner import Outer
from metarl.fewshot.network import draw_matrix
from metarl.fewshot.tasks import Problem, Tasks, loss
from metarl.networks.memories.external_memory import Slots, access, squash


@dataclass(frozen=True)
class State:
    """State of N memories of L slots, W numbers wide, with R heads.

    Attributes:
        hidden: (N, H) of the controller.
        cell: (N, H) of the controller.
        slots: Of the memory.
        read: (N, R * W), what was read in the last step.
    """

    hidden: Tensor
    cell: Tensor
    slots: Slots
    read: Tensor

    def repeat(self, count: int) -> State:
        """Returns every row count times, side by side."""
        slots = Slots(*(v.repeat_interleave(count, dim=0) for v in vars(self.slots).values()))
        own = (self.hidden, self.cell, self.read)
        hidden, cell, read = (v.repeat_interleave(count, dim=0) for v in own)
        return State(hidden, cell, slots, read)


@dataclass(frozen=True)
class Mann:
    """An LSTM that writes into the least recently used slots of a memory, see `access`.

    The paper presents a label one step after its input and predicts in between; here an example
    comes with its target, and each query follows the whole support by itself.

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
        slots = Slots(
            like.new_full((num_rows, slots, width), 1e-3), zeros(num_rows, slots), read_weights
        )
        hidden, cell = (zeros(num_rows, self.num_hidden) for _ in range(2))
        return State(hidden, cell, slots, zeros(num_rows, heads * width))

    def step(self, params: Params, state: State, inputs: Tensor) -> tuple[State, Tensor]:
        """Reads inputs (N, S + A) and returns the next state and the output (N, A)."""
        row = torch.cat([inputs, state.read, state.hidden], dim=1)
        gates = (row @ params["control"] + params["control_bias"]).chunk(4, dim=1)
        cell = gates[1].sigmoid() * state.cell + gates[0].sigmoid() * gates[2].tanh()
        hidden = gates[3].sigmoid() * cell.tanh()
        heads = (hidden @ params["heads"] + params["heads_bias"]).unflatten(1, (self.num_heads, -1))
        slots, read = access(state.slots, *squash(heads, self.width), self.decay)
        answer = torch.cat([hidden, read], dim=1)
        output = answer @ params["answer"] + params["answer_bias"]
        return State(hidden, cell, slots, read), output

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
