"""MujocoBatchEnv: robot x goal x variations on `mujoco.batch`, a `BatchEnv` of `metarl/core/env.py`; no other steps physics."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import mujoco
import numpy as np

from metarl.core.env import Step, UnsupportedHere, check_streams, checked_rows, checked_tasks
from metarl.envs.locomotion import profiler
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.locomotion.world import World
from metarl.envs.rendering.marker import Marker

Batch: Any = None
SimulationError: Any = ()
with contextlib.suppress(ModuleNotFoundError):  # an older MuJoCo, to which a plug-in may be bound
    from mujoco.batch import Batch, SimulationError

MAX_SPEED = 1e4
"""Largest believable entry of qvel [m/s or rad/s]; MuJoCo itself flags only what exceeds 1e10."""


class MujocoBatchEnv:
    """A robot with a goal in a world, M simulations on a pool of threads.

    Args:
        name: Registry name, used in messages and records.
        recipe: What it is made of.
        threads: Physics threads; 0 takes all cores. Results do not depend on it.
    """

    has_movable_camera: Literal[True] = True

    def __init__(self, name: str, recipe: Recipe, threads: int = 0):
        if Batch is None:
            raise UnsupportedHere(f"{name} needs mujoco.batch; this is MuJoCo {mujoco.__version__}")
        self.robot, self.goal, self.terms = recipe.robot, recipe.goal, recipe.terms
        self.variations, self._threads = recipe.variations, threads
        self.model, self.spec = recipe.compiled(), recipe.spec(name)
        self._seen, self._scan = recipe.seen(), recipe.scan()
        self._ctrl_low, self._ctrl_high = self.model.actuator_ctrlrange.T.copy()
        self._batch: Any = None
        self._world: Any = None
        profiler.stop()

    @property
    def threads(self) -> int:
        """Physics threads."""
        return self._threads or len(os.sched_getaffinity(0))

    def split(self, parts: int) -> list[Self]:
        """Environments like this one, before any set_tasks, which share its threads: for parts of the tasks at a time."""
        twins = [copy.copy(self) for _ in range(parts)]
        for twin in twins:
            twin._threads = -(-self.threads // parts)
            twin._batch = None
        return twins

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Gives tasks (N, D) to the batch, each to num_episodes neighbouring rows.

        Raises:
            ValueError: The tasks are not (N, D) or not finite.
        """
        rows = np.repeat(checked_tasks(self.spec, tasks), num_episodes, axis=0)
        if self._batch is None or self._batch.nsim != len(rows):
            self._build(len(rows))
        goals = len(self.goal.tasks.variables)
        self._numbers, self._tasks = rows, rows[:, :goals]
        self._world.write(rows[:, goals:])

    def _build(self, num_rows: int) -> None:
        batch = Batch(self.model, num_rows, self._threads)
        self._batch = batch
        self._qpos, self._qvel = batch.bind("qpos"), batch.bind("qvel")
        self._ctrl = batch.bind("ctrl")
        self._sent = np.empty(self._ctrl.shape)  # rows in one piece, those of the batch lie apart
        self._forces = batch.bind("cfrc_ext") if self.terms.contact_cost else None
        self._centre = batch.bind("subtree_com") if self.robot.by_mass_centre else None
        self._obs = np.empty((num_rows, self.spec.obs_size))
        self._parts, start = [], 0
        for part in self._seen:
            place = self._obs[:, start : start + part.size].reshape(num_rows, *part.shape)
            self._parts.append((part, part.view(batch.bind(part.field)), place))
            start += part.size
        self._warnings = batch.warning[:, :, 1].sum(axis=1)
        self._world = World(self.robot, self.variations, batch)

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
            self._numbers[rows] = tasks
            self._world.write(self._numbers[:, self._tasks.shape[1] :], rows)
        states = [self.robot.initial_state(rng, self.model.qpos0) for rng in rngs]
        return self.restore(*map(np.array, zip(*states, strict=True)), rows=rows)

    def restore(
        self, qpos: np.ndarray, qvel: np.ndarray, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Starts episodes from states qpos (n, nq), qvel (n, nv) in the mask rows (M,), or in all; returns obs (M, S)."""
        where, ids = (slice(None), None) if rows is None else (rows, np.flatnonzero(rows))
        # the reset clears time, warm start and controls as mj_resetData does, so a row remembers nothing
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._qpos[where], self._qvel[where] = qpos, qvel
        self._world.start(where)
        self._batch.forward(ids)
        self._was = self._position()
        self._warnings[where] = self._batch.warning[where, :, 1].sum(axis=1)
        return self._observe()

    def _observe(self) -> np.ndarray:
        for part, values, place in self._parts:
            if np.isfinite(part.limit):
                np.clip(values, -part.limit, part.limit, out=place)
            else:
                place[...] = values
        if len(self._scan):
            self._obs[:, -len(self._scan) :] = self._heights_around()
        return self._obs

    def _place(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y (M,) of the torso [m, world]."""
        x = self._qpos[:, 0]
        return x, np.zeros_like(x) if self.robot.planar else self._qpos[:, 1]

    def _heights_around(self) -> np.ndarray:
        """Heights of the ground (M, P) [m], in [-1, 1]; 0 is flat ground under a robot at its rest height."""
        x, y = self._place()
        ground = self._world.ground.height(
            x[:, None] + self._scan[:, 0], y[:, None] + self._scan[:, 1]
        )
        index = self.robot.height_index
        risen = self._qpos[:, index, None] - self.model.qpos0[index]
        return np.clip(ground - risen, -1.0, 1.0)

    def _position(self) -> np.ndarray:
        """Positions (M, 2) [m, world], copied: a view would make every velocity zero."""
        if self._centre is not None:
            return self._centre[:, 1, :2].copy()
        position = np.zeros((len(self._qpos), 2))
        axes = 1 if self.robot.planar else 2
        position[:, :axes] = self._qpos[:, :axes]
        return position

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output]; leaves the others as they are."""
        # in double precision whatever comes: float32 actions would be scaled in float32
        sent = np.multiply(action, self.spec.action_scale, out=self._sent, dtype=float)
        np.clip(sent, self._ctrl_low, self._ctrl_high, out=sent)
        self._ctrl[...] = sent
        effort = np.square(sent).sum(axis=1)
        self._world.drive()
        before = self._was
        ids = None if alive.all() else np.flatnonzero(alive)
        raised = self._advance(ids)
        self._was = after = self._position()
        # clipping hides an infinite action, hence the look at the action itself
        fault = alive & (self._broken() | raised | ~np.isfinite(action).all(axis=1))
        with np.errstate(invalid="ignore", over="ignore"):
            reward = self._reward((after - before) / self.spec.dt, after, effort)
        reward[~alive | fault] = 0.0
        return Step(self._observe(), reward, alive & ~fault & self._ended(), fault)

    def _ended(self) -> np.ndarray:
        """Rows (M,) in which the robot has fallen or come to the edge of its map."""
        ended = np.zeros(len(self._qpos), dtype=bool)
        height, ground = self._qpos[:, self.robot.height_index], self._world.ground
        if ground is not None:
            x, y = self._place()
            height = height - ground.height(x, y)
            ended = ground.left(x, y)
        if self.robot.healthy is None:
            return ended
        return ended | ~self.robot.healthy(height, self._qpos, self._qvel)

    def _advance(self, ids: np.ndarray | None) -> np.ndarray:
        """Steps the physics; returns the rows (M,) in which MuJoCo raised an error."""
        raised = np.zeros(self._batch.nsim, dtype=bool)
        try:
            self._batch.step(ids, nstep=self.robot.frame_skip)
        except SimulationError as error:  # the other rows ran to completion
            raised[error.ids] = True
        return raised

    def _reward(self, velocity: np.ndarray, position: np.ndarray, effort: np.ndarray) -> np.ndarray:
        reward = self.goal.reward(self._tasks, velocity, position)
        reward *= self.terms.goal_weight
        reward += self.terms.bonus
        reward -= self.terms.control_cost * effort
        if self._forces is not None:
            reward -= self.terms.contact_costs(self._forces.reshape(len(reward), -1))
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
        return self.goal.marker(task[: len(self.goal.tasks.variables)])

    def render(
        self,
        states: np.ndarray,
        task: np.ndarray,
        *,
        width: int,
        height: int,
        camera: tuple[float, float] | None = None,
    ) -> Iterator[np.ndarray]:
        """Draws snapshots (L, nq) with the goal of a task (D,): L frames (height, width, 3) uint8."""
        from metarl.envs.rendering.render import (
            render_mujoco,  # 0.3 s of imports that only pictures need
        )

        model = self._model_of(task)
        marker = self.marker(task)
        return render_mujoco(model, states, marker, width=width, height=height, camera=camera)

    def scene(
        self, states: np.ndarray, task: np.ndarray, camera: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """Shapes, poses, goal and camera of snapshots (L, nq) of a task (D,), for a replay."""
        from metarl.envs.rendering.scene import mujoco_scene  # only replays need it

        return mujoco_scene(self._model_of(task), states, self.marker(task), camera)

    def _model_of(self, task: np.ndarray) -> mujoco.MjModel:
        """The model of a task (D,), as its simulations have it at the start of an episode."""
        if not self.variations:
            return self.model
        batch = Batch(self.model, 1, 1)
        world = World(self.robot, self.variations, batch)
        world.write(np.asarray(task, dtype=float)[None, len(self.goal.tasks.variables) :])
        return batch.get_model(0)

    def close(self) -> None:
        """Gives back threads and memory."""
        # a view of the batch's state keeps its threads alive
        self._batch = self._forces = self._centre = self._world = None
        self._parts = []
        self._qpos = self._qvel = self._ctrl = np.empty(0)
