"""The contract of an environment: `BatchEnv`, its records, its optional capabilities and checks.

Row `task * E + episode` of a batch is element (task, episode). No row resets by itself, because an
episode is the unit of adaptation: a fallen robot keeps its state and is no longer stepped.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, Self, TypeGuard, TypeVar

import numpy as np

from metarl.core.task_limits import require_usable
from metarl.core.tasks import TaskDistribution


@dataclass(frozen=True)
class Quantity:
    """One number of an observation or an action.

    Attributes:
        name: What it is.
        unit: SI unit, or "1" for a pure number.
    """

    name: str
    unit: str


@dataclass(frozen=True)
class EnvSpec:
    """Description of an environment for learners, run records and `--list-envs`.

    Attributes:
        name: The registry name.
        version: Number of the definition; returns of different versions are not comparable.
        obs_size: S.
        action_size: A.
        horizon: T, control steps in an episode.
        dt: Duration of a control step [s].
        action_scale: Factor from policy output to action, or one for each of the A numbers. The
            action sent is action_centre + action_scale * output, clipped to its range.
        tasks: The task distribution.
        reward: The reward formula, as text.
        floors: Reference returns: return of an episode [reward] of policies that do not adapt, by
            the name of the policy.
        note: Remark for readers of results (no held-out tasks, a known error of the source), or "".
        task_split: Numbers of fixed training and test tasks in the source's protocol; None draws
            new tasks for both.
        discrete: An action is one of A alternatives: the index of the largest entry of a row (A,).
        action_centre: Action sent for an output of zero, or one for each of the A numbers.
        action_range: Smallest and largest action sent, A numbers each. None if they are not stated;
            adapters then take -1 and 1.
        observed: What the S numbers of an observation are; () is not stated.
        actuators: What the A numbers of an action are; () is not stated.
    """

    name: str
    version: int
    obs_size: int
    action_size: int
    horizon: int
    dt: float
    action_scale: float | tuple[float, ...]
    tasks: TaskDistribution
    reward: str
    floors: dict[str, float]
    note: str = ""
    task_split: tuple[int, int] | None = None
    discrete: bool = False
    action_centre: float | tuple[float, ...] = 0.0
    action_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    observed: tuple[Quantity, ...] = ()
    actuators: tuple[Quantity, ...] = ()


@dataclass(frozen=True)
class Step:
    """Outcome of one control step of M robots; the next step overwrites the arrays.

    Attributes:
        obs: (M, S) after the step.
        reward: (M,); 0 in rows that were not stepped.
        terminated: (M,) the task ended in this step (the robot fell, or reached the goal).
        fault: (M,) the simulation failed in this step. No number of the step may be used in such a
            row, and it must not be stepped again before its next reset.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    fault: np.ndarray


class UnsupportedHere(RuntimeError):
    """An environment needs something that is not installed; the message names it."""


class NoAnswer(ValueError):
    """A part of an environment gives no answer; the message says which, and for how long."""


class NoPictures(RuntimeError):
    """An environment cannot be filmed; the message gives the reason in one line."""


class BatchEnv(Protocol):
    """M = N * E copies of one environment, stepped together; N tasks with E episodes each."""

    @property
    def spec(self) -> EnvSpec:
        """Sizes, time step, task distribution and reference returns."""

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Sets tasks (N, D), each for num_episodes neighbouring rows; M is N * num_episodes."""

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m with the stream rngs[m]; returns obs (M, S)."""

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output].

        The other rows keep their state.
        """

    def close(self) -> None:
        """Releases threads and memory."""


# --- capabilities: optional members of an environment, tested with `supports` ---------------------


class RestartableEnv(BatchEnv, Protocol):
    """Can restart some rows in the middle of the others' episodes, as autoreset needs."""

    def reset_rows(
        self,
        rows: np.ndarray,
        rngs: Sequence[np.random.Generator],
        tasks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Starts an episode in the m-th row of the mask rows (M,) with the stream rngs[m].

        With tasks (rows.sum(), D), sets the tasks of those rows first. The other rows keep their
        state bit for bit. Returns obs (M, S).
        """


class SplittableEnv(BatchEnv, Protocol):
    """Can be copied, to step slices of the tasks in several threads at the same time."""

    @property
    def threads(self) -> int:
        """Physics threads."""

    def split(self, parts: int) -> Sequence[BatchEnv]:
        """Returns `parts` environments like this one, without tasks, which share its threads."""


class RenderableEnv(BatchEnv, Protocol):
    """Can draw its states."""

    def snapshot(self) -> np.ndarray:
        """Returns a copy of the part of the states (M, n) that pictures need."""

    def render(
        self, states: np.ndarray, task: np.ndarray, *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Draws snapshots (L, n) of a row with its task (D,): L frames (height, width, 3) uint8."""


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
    """Can describe its states as shapes and poses, for a 3-D replay."""

    def scene(
        self, states: np.ndarray, task: np.ndarray, camera: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """Returns shapes, poses, goal and camera of snapshots (L, n) of a task (D,).

        `envs/rendering/scene.py` describes the format.
        """


class HasRewardTerms(Protocol):
    """An environment that knows the parts of its rewards."""

    def take_reward_sums(self) -> tuple[dict[str, np.ndarray], int]:
        """Returns the sums of each part (L,) over the valid steps of episodes, and all their steps.

        The L episodes are those since the last call. The parts have their weights and signs, so
        that they add up to the rewards.
        """


class HasDistances(Protocol):
    """An environment whose robots have a base that can travel."""

    def distances(self) -> np.ndarray | None:
        """Returns how far each base is from its start (M,) [m, world]; None if it is fixed.

        It is the straight line in the ground plane, of episodes that ended their last place.
        """


class GradedEnv(Protocol):
    """An environment that draws a part of an episode's difficulty itself, outside of its tasks."""

    @property
    def graded(self) -> tuple[str, ...]:
        """Names of what a level of difficulty limits; () is nothing."""

    def set_level(self, level: float) -> None:
        """Limits the difficulty of episodes from the next reset on: 0 is easiest, 1 no limit."""


class HasFingerprint(Protocol):
    """Can identify its physics, to be compared with those of another machine."""

    def fingerprint(self) -> str:
        """Returns a text that is the same for the same physics only."""


class RunsOnWarp(Protocol):
    """Its physics can be computed by MuJoCo Warp."""

    def on_warp(self) -> Self:
        """Returns an environment like this one with physics by Warp, or raises UnsupportedHere."""


class HasServos(Protocol):
    """Knows the gains of its robot's actuators."""

    @property
    def servo_gains(self) -> tuple[tuple[float, float], ...]:
        """Stiffness and damping of every actuator at its joint, () for motors without servos.

        [N m/rad and N m s/rad, or N/m and N s/m]
        """


class HasWorkers(Protocol):
    """Steps its episodes in other processes.

    Attributes:
        restarts: Processes that died and were replaced.
    """

    restarts: int

    def hurry(self) -> None:
        """Waits only briefly for an answer from now on, because the user wants to stop."""


class TaskDescriber(Protocol):
    """Can describe a task as text, where its numbers mean little to people."""

    def task_words(self, task: np.ndarray) -> str:
        """Returns the text for a task (D,), or "" to have its numbers shown."""


class BoundedEnv(BatchEnv, Protocol):
    """Declares bounds of its observations."""

    @property
    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest observation, (S,) each."""


class HasVariations(Protocol):
    """Has variations of the world, which a description of the environment lists."""

    variations: Sequence[Any]


class DeclaresCapabilities(Protocol):
    """A wrapper: has the members of several capabilities, supports those of its inner object."""

    @property
    def capabilities(self) -> Collection[type]:
        """The protocols that the object supports."""


Capability = TypeVar("Capability")


def missing_members(obj: object, capability: type) -> list[str]:
    """Returns the sorted names of a protocol's members that an object lacks.

    A member that `__getattr__` forwards counts as missing, because it belongs to another object.
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
    """Tests for a capability: a protocol of `core/env.py`, `core/learner.py` or `core/tasks.py`.

    An object with `capabilities` supports those that it lists. Any other object supports the
    protocols of which it has all members itself.
    """
    if "capabilities" not in missing_members(obj, DeclaresCapabilities):
        return capability in obj.capabilities  # ty: ignore[missing-attribute]
    return not missing_members(obj, capability)


def check_tasks(spec: EnvSpec, tasks: np.ndarray) -> np.ndarray:
    """Checks the tasks given to `set_tasks` and returns them (N, D) in float64.

    Raises:
        ValueError: They are not (N, D), not finite or beyond the limits of a variable; names it.
    """
    tasks, size = np.asarray(tasks, dtype=float), len(spec.tasks.variables)
    if tasks.ndim != 2 or tasks.shape[1] != size or not np.isfinite(tasks).all():
        raise ValueError(f"{spec.name}: tasks must be finite and (N, {size}), got {tasks.shape}")
    require_usable(spec.name, spec.tasks.variables, tasks)
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
    """Checks the streams given to `reset`; num_rows is M, or None before `set_tasks`.

    Raises:
        RuntimeError: num_rows is None.
        ValueError: There is not one stream for each row.
    """
    if num_rows is None:
        raise RuntimeError(f"{spec.name}: call set_tasks before reset")
    if len(rngs) != num_rows:
        raise ValueError(f"{spec.name}: {num_rows} rows need as many streams, got {len(rngs)}")
