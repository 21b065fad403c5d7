"""The context of GrBAL: the last transitions of every trial, and the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from metarl.core.rollout import Feedback
from metarl.learners.grbal.model import Scales, Transitions


@dataclass(frozen=True)
class GrbalContext:
    """Knowledge of every trial: its last M transitions, from which the model adapts.

    Attributes:
        inputs: Of the model (N, E, M, S + 1 + A), the newest last.
        targets: Of the model (N, E, M, S + 1).
        weight: 1 for a transition, 0 where there is none yet (N, E, M).
        state: Of the last step (N, E, S + 1): observation, and the reward before it.
        action: Of the last step (N, E, A).
        is_pending: The last step will be a transition (N, E); the first of an episode is none.
        plan: The next actions (N, E, H, A) [action bounds], 0 at the start of an episode.
        step: Control steps so far (N, E).
    """

    inputs: Tensor
    targets: Tensor
    weight: Tensor
    state: Tensor
    action: Tensor
    is_pending: Tensor
    plan: Tensor
    step: Tensor

    @staticmethod
    def initial(
        size: tuple[int, int], sizes: tuple[int, int], past: int, horizon: int
    ) -> GrbalContext:
        """Returns the context of N, E trials with S, A = sizes before any step."""
        obs_size, action_size = sizes
        return GrbalContext(
            inputs=torch.zeros(*size, past, obs_size + 1 + action_size),
            targets=torch.zeros(*size, past, obs_size + 1),
            weight=torch.zeros(*size, past),
            state=torch.zeros(*size, obs_size + 1),
            action=torch.zeros(*size, action_size),
            is_pending=torch.zeros(size, dtype=torch.bool),
            plan=torch.zeros(*size, horizon, action_size),
            step=torch.zeros(size, dtype=torch.int64),
        )

    def slice_tasks(self, start: int, stop: int) -> GrbalContext:
        """Returns the context of the tasks start..stop, as views."""
        return GrbalContext(**{name: value[start:stop] for name, value in vars(self).items()})

    @classmethod
    def join(cls, parts: Sequence[GrbalContext]) -> GrbalContext:
        """Returns the context of all tasks from those of neighbouring slices."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: torch.cat([vars(part)[name] for part in parts]) for name in names})

    def observe(self, state: Tensor, feedback: Feedback | None, scales: Scales) -> GrbalContext:
        """Returns the context with the last transition of each episode that goes on.

        Args:
            state: That follows (N, E, S + 1).
            feedback: Outcome of the last step.
            scales: Of the model.
        """
        if feedback is None:
            return self
        is_new = self.is_pending & feedback.alive
        inputs = scales.inputs(self.state, self.action)
        targets = scales.targets(self.state, state)
        newest = inputs, targets, torch.ones_like(self.weight[..., 0])
        names = "inputs", "targets", "weight"
        windows = (vars(self)[name] for name in names)
        pairs = zip(names, windows, newest, strict=True)
        return replace(self, **{name: _shift(old, new, is_new) for name, old, new in pairs})

    def past(self, rows: Tensor) -> Transitions:
        """Returns the transitions of some of the M = N * E rows."""
        windows = self.inputs, self.targets, self.weight
        return Transitions(*(window.flatten(0, 1)[rows] for window in windows))

    def acted(
        self, state: Tensor, action: Tensor, plan: Tensor, alive: Tensor, *, is_first: bool
    ) -> GrbalContext:
        """Returns the context after a step of the episodes in a mask (N, E).

        Args:
            state: (N, E, S + 1).
            action: (N, E, A).
            plan: The actions of this step and the next (N, E, H, A).
            alive: (N, E).
            is_first: The step is the first of the episodes, so no reward comes before it.
        """
        later = torch.cat([plan[:, :, 1:], plan[:, :, -1:]], dim=2)
        mask = alive.unsqueeze(-1)
        return replace(
            self,
            state=torch.where(mask, state, self.state),
            action=torch.where(mask, action, self.action),
            is_pending=self.is_pending | (alive & (not is_first)),
            plan=torch.where(mask.unsqueeze(-1), later, self.plan),
            step=self.step + alive,
        )

    def end_episode(self) -> GrbalContext:
        """Keeps the transitions, and forgets the step without an outcome and the plan.

        The last transition of an episode is left out: its next observation is known in training
        alone, and not to a robot that was stopped.
        """
        nothing, none = torch.zeros_like(self.plan), torch.zeros_like(self.is_pending)
        return replace(self, plan=nothing, is_pending=none)


def _shift(window: Tensor, newest: Tensor, mask: Tensor) -> Tensor:
    """Appends newest (N, E, ...) to a window (N, E, M, ...), whose oldest entry goes, in a mask."""
    shifted = torch.cat([window[:, :, 1:], newest.unsqueeze(2)], dim=2)
    return torch.where(mask.view(*mask.shape, *[1] * (window.dim() - 2)), shifted, window)
