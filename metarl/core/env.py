"""The contract of an environment: what `BatchEnv` is, what it returns, and the checks that every one makes.

Row `task * E + episode` of a batch is element (task, episode). Nothing resets by itself: an episode is the unit of
adaptation, so a robot that has fallen is left where it lies and no longer stepped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metarl.core.tasks import TaskDistribution


@dataclass(frozen=True)
class EnvSpec:
    """What a learner, a run record and `--list-envs` need to know about an environment.

    Attributes:
        name: The registry name.
        version: Counts changes of the definition; returns of different versions are not comparable.
        obs_size: S.
        action_size: A.
        horizon: T, control steps in an episode.
        dt: Duration of a control step [s].
        action_scale: The action sent is the policy's output times this, clipped to the action space.
        tasks: The task distribution.
        reward: The reward formula, for people.
        floors: Return of an episode [reward] by policies that do not adapt, by name.
        note: What a reader of results must know (no held-out tasks, a peer's known error), or "".
        task_split: How many fixed training and test tasks the definition asks for; None draws both afresh.
        discrete: An action is one of A alternatives: a one-hot row (A,), of which the largest entry counts.
    """

    name: str
    version: int
    obs_size: int
    action_size: int
    horizon: int
    dt: float
    action_scale: float
    tasks: TaskDistribution
    reward: str
    floors: dict[str, float]
    note: str = ""
    task_split: tuple[int, int] | None = None
    discrete: bool = False


@dataclass(frozen=True)
class Step:
    """The outcome of one control step of M robots; arrays are overwritten by the next step.

    Attributes:
        obs: (M, S) after the step.
        reward: (M,); 0 where the robot was not stepped.
        terminated: (M,) the task ended here (the robot fell, the goal was reached).
        fault: (M,) the simulation broke down in this step: nothing of the step may be used, and the robot must not
            be stepped again before the next reset.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    fault: np.ndarray


class UnsupportedHere(RuntimeError):
    """An environment needs what is not installed; names it."""


class NoPictures(RuntimeError):
    """An environment cannot be filmed; says why in one line."""


class BatchEnv(Protocol):
    """M = N * E copies of one environment, each with a task of its own, stepped together."""

    @property
    def spec(self) -> EnvSpec:
        """Sizes, time step, task distribution and floors."""

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Gives tasks (N, D) to the batch, each to num_episodes neighbouring rows; M becomes N * num_episodes."""

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m from the stream rngs[m]; returns obs (M, S)."""

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output]; leaves the others as they are."""

    def snapshot(self) -> np.ndarray:
        """The states (M, n) as far as pictures need them, copied."""

    def render(
        self, states: np.ndarray, task: np.ndarray, *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Draws snapshots (L, n) of one row with the goal of its task (D,): L frames (height, width, 3) uint8."""

    def close(self) -> None:
        """Gives back threads and memory."""

    # Optional, where an environment can: `render(..., camera=(azimuth, elevation))` [degrees] films from elsewhere, and
    # `scene(states, task, camera=None)` returns what a replay draws by itself (see `envs/rendering/scene.py`); `split(parts)` makes
    # as many environments like this one, of no tasks yet, for shares of the tasks that are stepped at the same time
    # from threads, as many as the attribute `threads` says.


class RestartableEnv(BatchEnv, Protocol):
    """A BatchEnv in which an episode can begin while others go on, as `envs/wrappers/autoreset.py` needs it."""

    def reset_rows(
        self,
        rows: np.ndarray,
        rngs: Sequence[np.random.Generator],
        tasks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Starts an episode in the m-th row of the mask rows (M,) from the stream rngs[m], as `reset` would.

        With tasks (rows.sum(), D) those rows get them first. The other rows are left as they are, bit for bit. Returns
        obs (M, S).
        """


def checked_tasks(spec: EnvSpec, tasks: np.ndarray) -> np.ndarray:
    """Returns tasks (N, D) in float64.

    Raises:
        ValueError: They are not (N, D) or not finite; names the environment.
    """
    tasks, size = np.asarray(tasks, dtype=float), len(spec.tasks.variables)
    if tasks.ndim != 2 or tasks.shape[1] != size or not np.isfinite(tasks).all():
        raise ValueError(f"{spec.name}: tasks must be finite and (N, {size}), got {tasks.shape}")
    return tasks


def check_streams(spec: EnvSpec, num_rows: int | None, rngs: Sequence[np.random.Generator]) -> None:
    """Checks what reset is given.

    Raises:
        RuntimeError: num_rows is None: no tasks were set.
        ValueError: There is not one stream a row.
    """
    if num_rows is None:
        raise RuntimeError(f"{spec.name}: call set_tasks before reset")
    if len(rngs) != num_rows:
        raise ValueError(f"{spec.name}: {num_rows} rows need as many streams, got {len(rngs)}")


def checked_rows(
    spec: EnvSpec,
    ready: bool,
    rows: np.ndarray,
    rngs: Sequence[np.random.Generator],
    tasks: np.ndarray | None,
) -> np.ndarray | None:
    """Checks what reset_rows is given and returns tasks (rows.sum(), D) in float64, or None.

    Raises:
        RuntimeError: Not ready: no tasks were set.
        ValueError: There is not one stream, or not one task, a row of the mask.
    """
    num_rows = int(rows.sum())
    check_streams(spec, num_rows if ready else None, rngs)
    if tasks is None:
        return None
    tasks = checked_tasks(spec, tasks)
    if len(tasks) != num_rows:
        raise ValueError(f"{spec.name}: {num_rows} rows need as many tasks, got {len(tasks)}")
    return tasks
