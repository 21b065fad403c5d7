"""The environment contract, and MujocoBatchEnv: robot x goal on `mujoco.batch`, the only file that steps physics.

Row `task * E + episode` of a batch is element (task, episode). Nothing resets by itself: an episode is the unit of
adaptation, so a robot that has fallen is left where it lies and no longer stepped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError

from envs.goals import Goal, Marker
from envs.robots import Robot
from envs.tasks import TaskDistribution

MAX_SPEED = 1e4
"""Largest believable entry of qvel [m/s or rad/s]; MuJoCo itself flags only what exceeds 1e10."""


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

    # An environment may also offer `reset_rows`, as RestartableEnv below has it.

    def snapshot(self) -> np.ndarray:
        """The states (M, n) as far as pictures need them, copied."""

    def render(
        self, states: np.ndarray, task: np.ndarray, *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Draws snapshots (L, n) of one row with the goal of its task (D,): L frames (height, width, 3) uint8."""

    def close(self) -> None:
        """Gives back threads and memory."""


class RestartableEnv(BatchEnv, Protocol):
    """A BatchEnv in which an episode can begin while others go on, as `envs/adapters.py` needs it."""

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


@dataclass(frozen=True)
class RewardTerms:
    """The part of the reward that does not depend on the task.

    Attributes:
        bonus: Added at every step.
        control_cost: Weight of the sum of squares of the action sent.
        contact_cost: Weight of the sum of squares of the contact forces, clipped to [-1, 1]; 0 leaves them out.
    """

    bonus: float = 0.0
    control_cost: float = 0.0
    contact_cost: float = 0.0


class MujocoBatchEnv:
    """A robot with a goal, M simulations on a pool of threads.

    Args:
        name: Registry name, used in messages and records.
        robot: The robot.
        goal: The goal.
        terms: Bonus and costs.
        horizon: T.
        action_scale: See EnvSpec.
        observe_contacts: Append the contact forces, clipped to [-1, 1], to the observation.
        threads: Physics threads; 0 takes all cores. Results do not depend on it.
    """

    def __init__(
        self,
        name: str,
        robot: Robot,
        goal: Goal,
        terms: RewardTerms,
        *,
        horizon: int = 200,
        action_scale: float = 1.0,
        observe_contacts: bool = False,
        threads: int = 0,
    ):
        self.robot, self.goal, self.terms = robot, goal, terms
        self._observe_contacts = observe_contacts
        self._contacts = observe_contacts or terms.contact_cost > 0
        self._threads = threads
        self.model = robot.model(contact_forces=self._contacts)
        self._dt = robot.frame_skip * self.model.opt.timestep
        num_bodies = self.model.nbody if observe_contacts else 0
        self.spec = EnvSpec(
            name=name,
            version=1,
            obs_size=self.model.nq - robot.skip_qpos + self.model.nv + 6 * num_bodies,
            action_size=self.model.nu,
            horizon=horizon,
            dt=self._dt,
            action_scale=action_scale,
            tasks=goal.tasks,
            reward=_formula(goal, terms),
            floors={k: horizon * (v + terms.bonus) for k, v in goal.floors().items()},
            note="" if goal.tasks.held_out else "test tasks are the training tasks",
        )
        self._ctrl_low, self._ctrl_high = self.model.actuator_ctrlrange.T.copy()
        self._batch: Any = None
        self._forces: Any = None

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Gives tasks (N, D) to the batch, each to num_episodes neighbouring rows.

        Raises:
            ValueError: The tasks are not (N, D) or not finite.
        """
        self._tasks = np.repeat(checked_tasks(self.spec, tasks), num_episodes, axis=0)
        if self._batch is None or self._batch.nsim != len(self._tasks):
            self._build(len(self._tasks))

    def _build(self, num_rows: int) -> None:
        batch = Batch(self.model, num_rows, self._threads)
        self._batch = batch
        self._qpos, self._qvel = batch.bind("qpos"), batch.bind("qvel")
        self._ctrl = batch.bind("ctrl")
        self._forces = batch.bind("cfrc_ext") if self._contacts else None
        self._obs = np.empty((num_rows, self.spec.obs_size))
        self._warnings = batch.warning[:, :, 1].sum(axis=1)

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m from the stream rngs[m]; returns obs (M, S).

        Raises:
            RuntimeError: No tasks were set.
            ValueError: The number of streams is not M.
        """
        check_streams(self.spec, None if self._batch is None else self._batch.nsim, rngs)
        states = [self.robot.initial_state(rng, self.model.qpos0) for rng in rngs]
        return self.restore(*map(np.array, zip(*states, strict=True)))

    def reset_rows(
        self,
        rows: np.ndarray,
        rngs: Sequence[np.random.Generator],
        tasks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Starts an episode in the m-th row of the mask rows (M,) from rngs[m], with tasks (rows.sum(), D) if given.

        The other rows are left as they are, bit for bit. Returns obs (M, S).

        Raises:
            RuntimeError: No tasks were set.
            ValueError: The number of streams or of tasks is not that of the rows.
        """
        tasks = checked_rows(self.spec, self._batch is not None, rows, rngs, tasks)
        if not rngs:
            return self._observe()
        if tasks is not None:
            self._tasks[rows] = tasks
        states = [self.robot.initial_state(rng, self.model.qpos0) for rng in rngs]
        return self.restore(*map(np.array, zip(*states, strict=True)), ids=np.flatnonzero(rows))

    def restore(
        self, qpos: np.ndarray, qvel: np.ndarray, ids: np.ndarray | None = None
    ) -> np.ndarray:
        """Starts episodes from states qpos (n, nq), qvel (n, nv) in the rows ids (n,), or in all; returns obs (M, S)."""
        where = slice(None) if ids is None else ids
        # the reset clears time, warm start and controls as mj_resetData does, so a row remembers nothing
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._qpos[where], self._qvel[where] = qpos, qvel
        self._batch.forward(ids)
        self._warnings[where] = self._batch.warning[where, :, 1].sum(axis=1)
        return self._observe()

    def _observe(self) -> np.ndarray:
        num_positions = self.model.nq - self.robot.skip_qpos
        self._obs[:, :num_positions] = self._qpos[:, self.robot.skip_qpos :]
        self._obs[:, num_positions : num_positions + self.model.nv] = self._qvel
        if self._observe_contacts:
            forces = self._forces.reshape(len(self._obs), -1)
            np.clip(forces, -1.0, 1.0, out=self._obs[:, num_positions + self.model.nv :])
        return self._obs

    def _position(self) -> np.ndarray:
        """Positions (M, 2) [m, world], copied: a view would make every velocity zero."""
        position = np.zeros((len(self._qpos), 2))
        axes = 1 if self.robot.planar else 2
        position[:, :axes] = self._qpos[:, :axes]
        return position

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output]; leaves the others as they are."""
        # in double precision whatever comes: float32 actions would be scaled in float32
        np.multiply(action, self.spec.action_scale, out=self._ctrl, dtype=float)
        np.clip(self._ctrl, self._ctrl_low, self._ctrl_high, out=self._ctrl)
        before = self._position()
        ids = None if alive.all() else np.flatnonzero(alive)
        raised = self._advance(ids)
        after = self._position()
        # clipping hides an infinite action, hence the look at the action itself
        fault = alive & (self._broken() | raised | ~np.isfinite(action).all(axis=1))
        with np.errstate(invalid="ignore", over="ignore"):
            reward = self._reward((after - before) / self._dt, after)
        reward[~alive | fault] = 0.0
        terminated = np.zeros(len(alive), dtype=bool)
        if self.robot.healthy is not None:
            terminated = alive & ~fault & ~self.robot.healthy(self._qpos, self._qvel)
        return Step(self._observe(), reward, terminated, fault)

    def _advance(self, ids: np.ndarray | None) -> np.ndarray:
        """Steps the physics; returns the rows (M,) in which MuJoCo raised an error."""
        raised = np.zeros(self._batch.nsim, dtype=bool)
        try:
            self._batch.step(ids, nstep=self.robot.frame_skip)
        except SimulationError as error:  # the other rows ran to completion
            raised[error.ids] = True
        return raised

    def _reward(self, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        reward = self.goal.reward(self._tasks, velocity, position)
        reward += self.terms.bonus
        reward -= self.terms.control_cost * np.square(self._ctrl).sum(axis=1)
        if self.terms.contact_cost:
            forces = np.clip(self._forces.reshape(len(reward), -1), -1.0, 1.0)
            reward -= self.terms.contact_cost * np.square(forces).sum(axis=1)
        return reward

    def _broken(self) -> np.ndarray:
        """Rows (M,) in which MuJoCo raised any warning since the last call, or whose speed is not believable."""
        warnings = self._batch.warning[:, :, 1].sum(axis=1)
        rose = warnings != self._warnings
        self._warnings = warnings
        # a comparison with NaN is false, hence the negation
        return rose | ~(np.abs(self._qvel) < MAX_SPEED).all(axis=1)

    def snapshot(self) -> np.ndarray:
        """qpos (M, nq), copied."""
        return self._qpos.copy()

    def marker(self, task: np.ndarray) -> Marker:
        """What a video draws for a task (D,)."""
        return self.goal.marker(task)

    def render(
        self, states: np.ndarray, task: np.ndarray, *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Draws snapshots (L, nq) with the goal of a task (D,): L frames (height, width, 3) uint8."""
        from envs.render import render_mujoco  # 0.3 s of imports that only pictures need

        return render_mujoco(self.model, states, self.goal.marker(task), width=width, height=height)

    def close(self) -> None:
        """Gives back threads and memory."""
        # a view of the batch's state keeps its threads alive
        self._batch = self._forces = None
        self._qpos = self._qvel = self._ctrl = np.empty(0)


def _formula(goal: Goal, terms: RewardTerms) -> str:
    parts = [goal.formula]
    if terms.bonus:
        parts.append(f"+ {terms.bonus:g}")
    if terms.control_cost:
        parts.append(f"- {terms.control_cost:g} sum a^2")
    if terms.contact_cost:
        parts.append(f"- {terms.contact_cost:g} sum clip(cfrc)^2")
    return " ".join(parts)
