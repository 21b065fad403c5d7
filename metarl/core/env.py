"""The contract of an environment: what `BatchEnv` is, what it returns, and the checks that every one makes.

Row `task * E + episode` of a batch is element (task, episode). Nothing resets by itself: an episode is the unit of
adaptation, so a robot that has fallen is left where it lies and no longer stepped.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeGuard, TypeVar

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
        """Sizes, time step, task distribution and reference returns."""

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Gives tasks (N, D) to the batch, each to num_episodes neighbouring rows.

        M becomes N * num_episodes.
        """

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m from the stream rngs[m]; returns obs (M, S)."""

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output].

        The other rows keep their state.
        """

    def close(self) -> None:
        """Releases threads and memory."""


# --- capabilities: what an environment may offer beyond BatchEnv; `supports` tests for them -----------


class RestartableEnv(BatchEnv, Protocol):
    """Can begin an episode in some rows while others go on, as `envs/wrappers/autoreset.py` needs."""

    def reset_rows(
        self,
        rows: np.ndarray,
        rngs: Sequence[np.random.Generator],
        tasks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Starts an episode in the m-th row of the mask rows (M,) from the stream rngs[m].

        With tasks (rows.sum(), D) those rows get them first. The other rows keep their state, bit
        for bit. Returns obs (M, S).
        """


class SplittableEnv(BatchEnv, Protocol):
    """Can be copied, so that slices of the tasks are stepped at the same time from several threads."""

    @property
    def threads(self) -> int:
        """Physics threads."""

    def split(self, parts: int) -> Sequence[BatchEnv]:
        """Returns `parts` environments like this one, without tasks, that share its threads."""


class RenderableEnv(BatchEnv, Protocol):
    """Can draw its states."""

    def snapshot(self) -> np.ndarray:
        """Returns a copy of the states (M, n), as far as pictures need them."""

    def render(
        self, states: np.ndarray, task: np.ndarray, *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Draws snapshots (L, n) of one row with its task (D,): L frames (height, width, 3) uint8."""


class MovableCamera(RenderableEnv, Protocol):
    """Can draw its states from a given direction."""

    has_movable_camera: Literal[True]

    def render(
        self,
        states: np.ndarray,
        task: np.ndarray,
        *,
        width: int,
        height: int,
        camera: tuple[float, float] | None = None,
    ) -> Iterator[np.ndarray]:
        """Draws as `RenderableEnv` does, from azimuth and elevation [degrees] if given."""


class SceneEnv(RenderableEnv, Protocol):
    """Can describe its states as shapes and poses, for a replay in 3-D."""

    def scene(
        self, states: np.ndarray, task: np.ndarray, camera: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """Returns shapes, poses, goal and camera of snapshots (L, n), see `envs/rendering/scene.py`."""


class TaskDescriber(Protocol):
    """Can describe a task in words, where its numbers do not."""

    def task_words(self, task: np.ndarray) -> str:
        """Describes a task (D,); an empty string leaves it to the numbers."""


class DeclaresCapabilities(Protocol):
    """A wrapper: it has the methods of several capabilities, and offers those of what it wraps."""

    @property
    def capabilities(self) -> Collection[type]:
        """The protocols that the object supports."""


Capability = TypeVar("Capability")


def missing_members(obj: object, capability: type) -> list[str]:
    """Returns the members of a protocol that an object lacks, sorted.

    A member that `__getattr__` forwards is missing: it belongs to what the object wraps.
    """
    bases = [base for base in capability.__mro__ if base not in (Protocol, Generic, object)]
    members = {
        name: value for base in bases for name, value in vars(base).items() if name[0] != "_"
    }
    for base in bases:
        members |= {name: None for name in base.__annotations__}
    return sorted(name for name, value in members.items() if not _has(obj, name, value))


def _has(obj: object, name: str, declared: object) -> bool:
    found = inspect.getattr_static(obj, name, None)
    is_method = callable(declared) or isinstance(declared, classmethod)
    return found is not None and (not is_method or callable(getattr(obj, name)))


def supports(obj: object, capability: type[Capability]) -> TypeGuard[Capability]:
    """Returns whether an object supports a capability: a protocol of `core/env.py` or `core/learner.py`.

    A wrapper that declares its capabilities is taken at its word; any other object supports the
    protocols whose members it has itself.
    """
    if "capabilities" not in missing_members(obj, DeclaresCapabilities):
        return capability in obj.capabilities  # ty: ignore[missing-attribute]
    return not missing_members(obj, capability)


def checked_tasks(spec: EnvSpec, tasks: np.ndarray) -> np.ndarray:
    """Returns tasks (N, D) in float64.

    Raises:
        ValueError: They are not (N, D) or not finite; names the environment.
    """
    tasks, size = np.asarray(tasks, dtype=float), len(spec.tasks.variables)
    if tasks.ndim != 2 or tasks.shape[1] != size or not np.isfinite(tasks).all():
        raise ValueError(f"{spec.name}: tasks must be finite and (N, {size}), got {tasks.shape}")
    return tasks


def as_pixels(picture: np.ndarray) -> np.ndarray:
    """Returns a picture (height, width, 3) as uint8; floats in [0, 1] are scaled to 0 .. 255.

    Raises:
        NoPictures: The array is no picture; names its shape, or its type and range.
    """
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise NoPictures(f"render returned an array of shape {picture.shape}, no picture")
    if picture.dtype == np.uint8:
        return picture
    kind, low, high = picture.dtype.kind, picture.min(), picture.max()
    # a comparison with NaN is false, hence the negation
    if kind not in "fiu" or not (low >= 0 and high <= (1 if kind == "f" else 255)):
        found = f"{picture.dtype} from {low} to {high}"
        raise NoPictures(f"render returned {found}; a picture is uint8, or float from 0 to 1")
    return np.rint(255.0 * picture if kind == "f" else picture).astype(np.uint8)


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
