"""The alphabet, the records that travel between modules, and the two contracts.

    N tasks in a meta-batch    E episodes (parallel copies) per task    T steps per episode (horizon)
    K adaptations              S observation size    A action size      D numbers that describe one task    Z latent size

A *trial* is K + 1 rollouts of the same N tasks with `adapt` between them. Row `task * E + episode` of an environment
batch is element (task, episode): (N * E, ...) and (N, E, ...) are one memory, a reshape apart. Learner arrays are task
first: (N, E, T, ...).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Parameters by name; per-task parameters have values (N, *shape)."""

Metrics = dict[str, float]
"""Figures of one iteration by name; "/" groups them."""

C = TypeVar("C")
"""The context of a learner: what it has made of each task so far in this trial."""


@dataclass(frozen=True)
class Rollout:
    """One rollout of N tasks x E episodes x T steps; entries of invalid steps are zero.

    Attributes:
        obs: (N, E, T, S) seen before the action. Where an episode broke down in step t, obs[t] is still recorded.
        action: (N, E, T, A) the policy's output, before the environment's scale and clip.
        log_prob: (N, E, T) of the action under the policy that drew it [nats].
        reward: (N, E, T).
        valid: (N, E, T) the step was taken and belongs to the episode.
        terminated: (N, E) the task ended (the robot fell, the goal was reached).
        truncated: (N, E) the simulation broke down; the episode ends at the step before. Reaching the horizon is
            neither: the horizon is part of the task and the time features of the baseline see it.
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    valid: Tensor
    terminated: Tensor
    truncated: Tensor

    def returns(self) -> Tensor:
        """Undiscounted return of every episode (N, E)."""
        return self.reward.sum(dim=2, dtype=torch.float64)

    def num_steps(self) -> int:
        """Environment steps taken."""
        return int(self.valid.sum())


@dataclass(frozen=True)
class Action:
    """What a policy sends.

    Attributes:
        value: (N, E, A).
        log_prob: (N, E) [nats]; 0 for the mode of the policy (explore=False).
    """

    value: Tensor
    log_prob: Tensor


@dataclass(frozen=True)
class Feedback:
    """What followed the last action of an episode.

    Attributes:
        reward: (N, E) as the environment gave it; 0 where it was not stepped.
        alive: (N, E) the episode goes on.
    """

    reward: Tensor
    alive: Tensor


class Step(Protocol):
    """The outcome of one control step of M = N * E rows; arrays are overwritten by the next step."""

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    fault: np.ndarray


class BatchEnv(Protocol):
    """What `metarl` asks of an environment batch; `metarl/core/env.py` documents the whole contract."""

    @property
    def spec(self) -> Any:
        """name, obs_size, action_size, horizon, dt, tasks (the distribution), floors, note."""

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Gives tasks (N, D), each to num_episodes neighbouring rows."""

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m from the stream rngs[m]; returns obs (M, S)."""

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A)."""

    def snapshot(self) -> np.ndarray:
        """The states (M, n) as far as pictures need them, copied."""

    def render(
        self, states: np.ndarray, task: np.ndarray, *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Draws snapshots (L, n) of one row: L frames (height, width, 3) uint8."""

    def close(self) -> None:
        """Gives back threads and memory."""


class Learner(Protocol[C]):
    """Five verbs. The context is a value, passed and returned, never stored; its arrays have the task axis first.

    A context that can be cut into shares of the tasks says `tasks(start, stop)`, what acting in these alone needs, and,
    unless acting leaves it as it is, `joined(contexts)`; halves of the tasks are then collected at the same time.
    Memory of rollouts is used again in the next trial, so a learner that keeps one copies it.

    A learner may say `pools_episodes`, True by default: whether `adapt` learns from all E episodes of a task, as MAML
    does. It is False where every episode has a memory of its own, so that the E copies are independent trials. Evaluation
    counts the experience in a task by it.
    """

    def begin(self, num_tasks: int, num_episodes: int) -> C:
        """The context before any experience."""

    def act(
        self,
        context: C,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, C]:
        """Chooses actions for obs (N, E, S) with standard normal noise (N, E, A).

        `feedback` follows this episode's last action; it is None at the first step. What is chosen where an episode
        has ended is never sent, and must leave the context there as it was.
        """

    def adapt(self, context: C, rollout: Rollout) -> C:
        """Learns each task's share of a rollout, between the rollouts of a trial."""

    def update(self, context: C, rollouts: Sequence[Rollout]) -> Metrics:
        """The outer loop: learns from the K + 1 rollouts of a trial."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that must survive a restart, on the CPU."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a state_dict()."""


@dataclass(frozen=True)
class Iteration:
    """What one iteration of training did.

    Attributes:
        steps: Environment steps taken.
        returns: Mean return of each rollout of a trial.
        length: Mean steps of an episode of the last rollout.
        terminated: Share of its episodes that the task ended.
        faults: Episodes, of all rollouts, in which the simulation broke down.
        metrics: Figures of the update.
        collect: Time spent on experience [s].
        update: Time spent on learning from it [s].
    """

    steps: int
    returns: Sequence[float]
    length: float
    terminated: float
    faults: float
    metrics: Metrics
    collect: float
    update: float
