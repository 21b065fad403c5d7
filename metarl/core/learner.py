"""The alphabet, the records that travel between modules, and the two contracts.

    N tasks in a meta-batch    E episodes (parallel copies) per task    T steps per episode (horizon)
    K adaptations              S observation size    A action size      D numbers that describe one task    Z latent size

A *trial* is K + 1 rollouts of the same N tasks with `adapt` between them. Row `task * E + episode` of an environment
batch is element (task, episode): (N * E, ...) and (N, E, ...) are one memory, a reshape apart. Learner arrays are task
first: (N, E, T, ...).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from metarl.core.rollout import Action, Feedback, Metrics, Rollout

C = TypeVar("C")
"""The context of a learner: what it has made of each task so far in this trial."""


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
