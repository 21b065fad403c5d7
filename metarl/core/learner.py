"""The contract of a learner, and the capabilities that a learner or its context may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from torch import Tensor

from metarl.core.env import BatchEnv, supports
from metarl.core.machine.parallel import Group
from metarl.core.rollout import Action, Feedback, Iteration, Metrics, Params, Rollout
from metarl.core.tasks import TaskDistribution

C = TypeVar("C")
"""The context of a learner: all that it knows about the tasks of this trial so far."""

TaskRngs = Sequence[np.random.Generator]
"""Random streams, one for each task of a trial, so that a trial can be split by tasks."""


class Learner(Protocol[C]):
    """A learner in five verbs: begin, act, adapt, update, and save (`state_dict`).

    The context is a value, passed and returned, never stored. Its arrays have the task axis first.
    The memory of rollouts is used again in the next trial, so a learner that keeps one copies it.

    Attributes:
        pools_episodes: True if `adapt` learns from all E episodes of a task, as in MAML; False if
            every episode has its own memory, so that the E copies are independent trials.
            Evaluation counts the experience in a task accordingly.
    """

    pools_episodes: bool

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> C:
        """Returns the context before any experience; rngs has one stream for each task."""

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

        Args:
            context: The context.
            obs: (N, E, S).
            noise: (N, E, A) standard normal; a learner that does not explore ignores it.
            feedback: Outcome of each episode's previous action; None at the first step. Where
                `alive` is False the new action is not sent, and the context must not change.
            explore: Draw the actions; otherwise return the mode of the policy.
        """

    def adapt(self, context: C, rollout: Rollout, rngs: TaskRngs) -> C:
        """Adapts every task to its episodes of a rollout, between the rollouts of a trial."""

    def update(self, context: C, rollouts: Sequence[Rollout], tasks: np.ndarray) -> Metrics:
        """Learns from the K + 1 rollouts of a trial on tasks (N, D): the outer loop.

        All or nothing: an exception leaves the learner as it was.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Returns everything that must survive a restart, on the CPU."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state_dict().

        Raises:
            ValueError: The state is of another learner or network; nothing has changed.
        """


class PluginLearner(Learner[C], Protocol):
    """A learner from outside metarl; its constructor is described in `metarl/learners/registry.py`.

    Attributes:
        Config: Frozen dataclass of the settings, with a default for every field.
        summary: One line about the algorithm.
    """

    Config: type
    summary: str


# --- capabilities; `metarl.core.env.supports` tests for them -------------------------------------


class SeesTasks(Protocol):
    """A learner whose actions in training may depend on the tasks, as those of a teacher do."""

    def begin_training(self, tasks: np.ndarray, num_episodes: int, rngs: TaskRngs) -> Any:
        """Returns the context before a training trial on tasks (N, D); see `Learner.begin`."""


class StartsFromOtherTasks(Protocol):
    """A learner that can start from a run on another distribution of tasks (`--init-from`)."""

    def start_from(self, state: Mapping[str, Tensor], tasks: TaskDistribution) -> str:
        """Starts a new training from a state_dict() of another run.

        Args:
            state: The state; it may lack entries of an optimiser.
            tasks: Distribution of the tasks of that run.

        Returns:
            One line: where the training begins, and what it learns anew.

        Raises:
            ValueError: A tensor is missing or has another shape; names it. Nothing has changed.
        """


class HasSchedule(Protocol):
    """A learner whose state has step sizes, weights or counts that change during a run."""

    def reset_schedule(self) -> None:
        """Sets them to those that the settings begin with, as a new run from a state does."""


class SplittableContext(Protocol):
    """A context that can be cut by tasks, so that slices of them are collected concurrently."""

    def slice_tasks(self, start: int, stop: int) -> Self:
        """Returns the part of the context that acting in the tasks start..stop needs."""


class JoinableContext(SplittableContext, Protocol):
    """A context that acting changes, so the slices must be joined again."""

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Returns the context of all tasks from those of neighbouring slices."""


class TreatsTasksApart(Protocol[C]):
    """A learner whose begin, act and adapt treat each task apart from the others of a trial.

    Not a bit of what they give for a task depends on the other tasks, as it does where several
    tasks go through one matrix product. So whole trials of some tasks can be run on other machines.
    """

    def join_trials(self, parts: Sequence[C]) -> C:
        """Returns the context of all tasks from those after trials of neighbouring tasks.

        The contexts are on the CPU, the result is on the learner's device.
        """


class SplitsUpdate(Protocol):
    """A learner whose adaptations and updates a group of processes computes together.

    Every process has the same learner, and gives it the same rollouts, which the processes
    have collected together. Of what acting changes in a context, a process knows that of its own
    tasks only, so neither `adapt` nor `update` may use it for other tasks. The results of all
    processes are the same, and equal to those of a single one up to rounding. Its contexts are
    `SplittableContext`.
    """

    def join_group(self, group: Group) -> None:
        """Makes this process compute its slice of all later adaptations and updates."""


class AdaptsWithoutNoise(Protocol):
    """A learner that pools episodes, and adapts to those of its mode too: it reads transitions."""

    adapts_without_noise: bool


class VariesEpisodes(Protocol):
    """A learner that pools episodes, and plays those of a rollout with different policies."""

    def select_episodes(self, context: Any, first: int, num_episodes: int) -> Any:
        """Returns the context for episodes first, first + 1, ... of a rollout of any length.

        They are played with it, or adapted to: a session plays a few episodes of a rollout at a
        time.
        """


class AdaptsWhileActing(VariesEpisodes, Protocol):
    """A learner that pools episodes and, if this is True, adapts to the steps of each one too."""

    adapts_while_acting: bool


def adapts_while_acting(learner: Learner[Any]) -> bool:
    """Returns whether what a policy does next depends on the rewards of its present episode."""
    if not learner.pools_episodes:
        return True
    return supports(learner, AdaptsWhileActing) and learner.adapts_while_acting


class HasMemory(Protocol):
    """A learner whose policy has a memory over the steps of a trial, which can be read."""

    def read_memory(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        """Replays trials and returns what the policy could use at each of their steps.

        Args:
            rollouts: K + 1 rollouts of the same N tasks and E episodes; M = N * E trials.

        Returns:
            Features of the memory (L, M, F) from which the action of a step was computed, and the
            memory's inputs (L, M, I) of that step alone: observation, previous action, reward. Time
            is first, and the steps of a trial follow each other without gaps, as in `Sequences`;
            entries after the last step of a trial may hold anything.
        """


class AdaptsParams(Protocol):
    """A learner whose adaptation changes the parameters of the policy for every task."""

    def read_params(self, context: Any) -> Params:
        """Returns the parameters of the tasks by layer, each value (N, *shape)."""

    def policy_kl(self, before: Params, after: Params, rollout: Rollout) -> Tensor:
        """Returns the mean KL(before || after) (N,) [nats] over the valid states of a rollout.

        The parameters are as `read_params` returns them; either may mix those of several contexts.
        """


class HasFixedPolicy(Protocol):
    """A learner that plays an episode with a policy without memory, which a file can hold."""

    def read_policy(self, context: Any) -> Params:
        """Returns the parameters (*shape) of the next episode of the first robot of task 0."""


class HasOwnLoop(Protocol):
    """A learner that collects its own experience, as baselines of other libraries do."""

    def iterate(self, iteration: int) -> Iteration:
        """Collects and learns; all or nothing."""


@dataclass(frozen=True)
class Experience:
    """Source of experience of a learner with its own loop.

    Attributes:
        env: The environment.
        tasks: Distribution of the training tasks: sample(rng, n) -> (n, D).
        vec_env: Makes a VecEnv of Stable-Baselines3 from (env, number of rows, trial=episodes in a
            trial of RL^2, or 0).
        num_tasks: N.
        num_episodes: E.
        num_adaptations: K.
    """

    env: BatchEnv
    tasks: Any
    vec_env: Callable[..., Any]
    num_tasks: int
    num_episodes: int
    num_adaptations: int


class HasOptimiser(Protocol):
    """A learner part of whose state only updates need, so a published policy leaves it out."""

    def is_optimiser(self, name: str) -> bool:
        """Returns whether an entry of state_dict() is state of an optimiser.

        A learner that has never been updated has such entries too, and is a fresh start.
        """


class HasReplay(Protocol):
    """A learner whose experience is an append-only store that checkpoints share instead of copying.

    `state_dict` leaves the store out. Entries have the entry axis first and never change.
    """

    def replay_size(self) -> int:
        """Returns the number of entries appended since the start of the run."""

    def read_replay(self, start: int, stop: int) -> dict[str, Tensor]:
        """Returns the entries start..stop, on the CPU."""

    def load_replay(self, entries: Mapping[str, Tensor]) -> None:
        """Replaces the whole store by these entries; no entries empty it.

        Raises:
            ValueError: The entries are of another learner; nothing has changed.
        """


class HasBoundedReplay(HasReplay, Protocol):
    """A learner that forgets its oldest entries, which checkpoints then leave out.

    `load_replay` may be given entries that were forgotten already. It follows `load_state_dict`,
    and tells by the entries themselves, or by their number in the state, where they begin.
    """

    def replay_start(self) -> int:
        """Returns the number of the oldest entry that the learner still holds."""
