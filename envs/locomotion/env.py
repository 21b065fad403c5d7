"""MujocoBatchEnv: robot x goal x variations, simulated by `mujoco.batch`."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import mujoco
import numpy as np

from metarl.core.env import Step, UnsupportedHere
from metarl.envs.calls import Calls
from metarl.envs.locomotion import profiler
from metarl.envs.locomotion.goals.command import Command, Commands
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.locomotion.tally import Tally
from metarl.envs.locomotion.world import World
from metarl.envs.physics.failures import mark_failures
from metarl.envs.rendering.marker import Marker
from metarl.envs.robots.arms.effector import find_effector
from metarl.envs.robots.frames import turn_points
from metarl.envs.robots.observation import COMMAND, ExternalPart, LastAction
from metarl.envs.robots.robot import Observed, Reader

Batch: Any = None
with contextlib.suppress(ModuleNotFoundError):  # an older MuJoCo, which a plug-in may need
    from mujoco.batch import Batch

MAX_SPEED = 1e4
"""Bound of qvel [m/s or rad/s]; beyond it is a fault. MuJoCo itself warns only above 1e10."""


class MujocoBatchEnv:
    """M simulations of a robot with a goal in a world, on a pool of threads.

    Implements `RestartableEnv`, `SplittableEnv`, `RenderableEnv`, `SceneEnv` and `GradedEnv`.

    Args:
        name: Registry name, for messages and records.
        recipe: Robot, goal and variations.
        threads: Physics threads; 0 takes all cores. Results do not depend on it.

    Raises:
        UnsupportedHere: The installed MuJoCo has no `mujoco.batch`.
    """

    has_movable_camera: Literal[True] = True

    def __init__(self, name: str, recipe: Recipe, threads: int = 0):
        if Batch is None:
            raise UnsupportedHere(f"{name} needs mujoco.batch; this is MuJoCo {mujoco.__version__}")
        self.robot, self.goal, self.terms = recipe.robot, recipe.goal, recipe.terms
        self.variations, self._threads = recipe.variations, threads
        self.model, self.spec = recipe.compile_model(), recipe.spec(name)
        self._tally, self._level = Tally(), 1.0
        self.parts, self._scan = recipe.observation(), recipe.scan()
        self._least_stage = recipe.stage
        self._make_batch: Any = Batch
        self._rest, self._centre_ctrl = self.robot.rest(), np.array(self.spec.action_centre)
        self._unit = np.array(self.robot.action_scale)
        self._ctrl_low, self._ctrl_high = self.model.actuator_ctrlrange.T - self._centre_ctrl
        self._batch: Any = None
        self._world: Any = None
        self._calls = Calls(self.spec)
        profiler.stop()

    @property
    def threads(self) -> int:
        """Physics threads."""
        return self._threads or len(os.sched_getaffinity(0))

    @property
    def graded(self) -> tuple[str, ...]:
        """See `GradedEnv`."""
        return ("command",) if isinstance(self.goal, Command) else ()

    def set_level(self, level: float) -> None:
        """See `GradedEnv`: the ranges of the commands."""
        self._level = level

    @property
    def servo_gains(self) -> tuple[tuple[float, float], ...]:
        """Stiffness and damping of every actuator; see `HasServos`."""
        squared_gear = self.model.actuator_gear[:, 0] ** 2
        stiffness, damping = (-self.model.actuator_biasprm[:, i] * squared_gear for i in (1, 2))
        gains = zip(stiffness.tolist(), damping.tolist(), strict=True)
        return tuple(gains) if stiffness.any() else ()

    def split(self, parts: int) -> list[Self]:
        """Returns `parts` environments like this one, without tasks, which share its threads."""
        copies = [copy.copy(self) for _ in range(parts)]
        for each in copies:
            each._threads = -(-self.threads // parts)
            each._batch, each._tally = None, Tally()  # halves step at the same time
            each._calls = Calls(self.spec)
        return copies

    def on_warp(self) -> Self:
        """See `RunsOnWarp`."""
        from metarl.envs.physics.warp_batch import WarpBatch

        other = copy.copy(self)
        other._make_batch, other._batch, other._tally = WarpBatch, None, Tally()
        other._calls = Calls(self.spec)
        other.set_tasks(self.spec.tasks.sample(np.random.default_rng(0), 1), 1)
        return other

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Sets tasks (N, D), each for num_episodes neighbouring rows; `Calls` has the checks."""
        rows = self._calls.set_tasks(tasks, num_episodes)
        if self._batch is None or self._batch.nsim != len(rows):
            self._build(len(rows))
        goals = len(self.goal.tasks.variables)
        self._tasks, self._goal_tasks = rows, rows[:, :goals]
        self._world.write(rows[:, goals:])

    def _build(self, num_rows: int) -> None:
        self._batch = batch = self._make_batch(self.model, num_rows, self._threads)
        self._qpos, self._qvel = batch.bind("qpos"), batch.bind("qvel")
        self._ctrl = batch.bind("ctrl")
        self._action = np.empty(self._ctrl.shape)  # contiguous, unlike the array of the batch
        self._effector = None
        # the place of an end effector is that after the step, not before its last substep
        self._stage = self._least_stage
        if place := find_effector(self.model, self.robot.effector):
            self._effector = batch.bind(place.field)[:, place.row]
            self._stage = max(self._stage, int(mujoco.mjtStage.mjSTAGE_POS))
        self._forces = batch.bind("cfrc_ext") if self.terms.contact_cost else None
        self._centre = batch.bind("subtree_com") if self.robot.by_mass_centre else None
        self._obs = np.empty((num_rows, self.spec.obs_size))
        self._commands: Any = None
        if isinstance(self.goal, Command):
            self._commands = Commands(self.goal, batch, self.spec, self.robot.feet)
        self._readers, self._finished, start, drawn = [], [], 0, 0
        for part in self.parts:
            own = slice(start, start + part.size)
            self._readers.append((self._reader(part.part), self._obs[:, own]))
            if not part.is_plain:
                self._finished.append((part, own, slice(drawn, drawn + part.size)))
            start += part.size
            drawn += part.size * part.has_stream
        self._observes_outputs = any(isinstance(part.part, LastAction) for part in self.parts)
        self._outputs = np.zeros((num_rows, self.spec.action_size))
        self._start = np.zeros((num_rows, 2))
        self._is_noisy = any(part.noise for part in self.parts)
        # of every control step of an episode, drawn at its start, so that it depends on its stream
        shape = (num_rows, self.spec.horizon + 1, drawn) if self._is_noisy else (num_rows, 1, 0)
        self._noise, self._time = np.zeros(shape), np.zeros(num_rows, dtype=int)
        self._warnings = batch.warning[:, :, 1].sum(axis=1)
        self._world = World(self.robot, self.variations, batch)

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m with the stream rngs[m]; returns obs (M, S)."""
        self._calls.reset(rngs)
        states = [self.robot.initial_state(rng, self._rest) for rng in rngs]
        self._tally.start()
        self._start_streams(np.arange(len(rngs)), rngs)
        return self.restore(*map(np.array, zip(*states, strict=True)))

    def _start_streams(self, rows: np.ndarray, rngs: Sequence[np.random.Generator]) -> None:
        """Draws commands, the sensors' noise and events of episodes in the rows (an index)."""
        if self._commands:
            self._commands.start(rows, rngs, self._level)
        if self._is_noisy:
            self._noise[rows] = [rng.standard_normal(self._noise.shape[1:]) for rng in rngs]
        self._world.draw(rows, rngs, self.spec.horizon)

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
        tasks = self._calls.reset_rows(rows, rngs, tasks)
        if not rngs:
            return self._observe()
        if tasks is not None:
            self._tasks[rows] = tasks
            self._world.write(self._tasks[:, self._goal_tasks.shape[1] :], rows)
        states = [self.robot.initial_state(rng, self._rest) for rng in rngs]
        self._start_streams(np.flatnonzero(rows), rngs)
        return self.restore(*map(np.array, zip(*states, strict=True)), rows=rows)

    def restore(
        self, qpos: np.ndarray, qvel: np.ndarray, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Starts episodes from states qpos (n, nq), qvel (n, nv) in the mask rows (M,), or in all.

        Returns obs (M, S).
        """
        index, ids = (slice(None), None) if rows is None else (rows, np.flatnonzero(rows))
        # like mj_resetData this clears time, warm start and controls, so no state is left over
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._qpos[index], self._qvel[index] = qpos, qvel
        self._world.start(index)
        self._outputs[index], self._time[index] = 0.0, 0
        self._batch.forward(ids)
        if not self.robot.fixed:
            self._start[index] = np.stack(self._torso(), axis=1)[index]
        self._previous_position = self._position()
        self._warnings[index] = self._batch.warning[index, :, 1].sum(axis=1)
        self._calls.is_reset = True
        return self._observe()

    def _observe(self) -> np.ndarray:
        for read, target in self._readers:
            read(target)
        self._finish_terms()
        return self._obs

    def _finish_terms(self) -> None:
        """Adds noise to the parts of the observation, scales and clips them."""
        if not self._finished:
            return
        step = np.minimum(self._time, self._noise.shape[1] - 1)
        noise = self._noise[np.arange(len(step)), step] if self._is_noisy else None
        for part, own, drawn in self._finished:
            part.finish(self._obs[:, own], None if noise is None else noise[:, drawn])

    def _reader(self, part: Observed) -> Reader:
        """Returns a reader of a part of the observation."""
        if isinstance(part, LastAction):
            return lambda target: np.copyto(target, self._outputs)
        if isinstance(part, ExternalPart):
            return self._commands.reader() if part.name == COMMAND else self._read_heights
        return part.reader(self._batch)

    def _torso(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns x and y (M,) of the torso [m, world]."""
        x = self._qpos[:, 0]
        return x, np.zeros_like(x) if self.robot.planar else self._qpos[:, 1]

    def distances(self) -> np.ndarray | None:
        """See `HasDistances`."""
        if self.robot.fixed:
            return None
        return np.linalg.norm(np.stack(self._torso(), axis=1) - self._start, axis=1)

    def _read_heights(self, target: np.ndarray) -> None:
        """Writes the heights (M, P) [m] of the ground at the scan points, clipped to [-1, 1].

        They are relative to the torso's height minus its rest height, so that a robot at rest on
        flat ground observes 0.
        """
        x, y = self._torso()
        along, across = self._scan.T
        if self.robot.observes_own_axes:
            along, across = turn_points(self._scan, self._qpos[:, 3:7])
        ground = self._world.ground.height(x[:, None] + along, y[:, None] + across)
        index = self.robot.height_index
        above_rest = self._qpos[:, index, None] - self._rest[index]
        np.clip(ground - above_rest, -1.0, 1.0, out=target)

    def _position(self) -> np.ndarray:
        """Returns a copy of the positions (M, 2) [m, world]; of end effectors (M, 3)."""
        if self._effector is not None:
            return self._effector.copy()
        if self._centre is not None:
            return self._centre[:, 1, :2].copy()
        position = np.zeros((len(self._qpos), 2))
        axes = 1 if self.robot.planar else 2
        position[:, :axes] = self._qpos[:, :axes]
        return position

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output].

        The other rows keep their state.
        """
        action, alive = self._calls.step(action, alive)
        # dtype: float32 actions would otherwise be scaled in float32
        scaled = np.multiply(action, self.spec.action_scale, out=self._action, dtype=float)
        np.clip(scaled, self._ctrl_low, self._ctrl_high, out=scaled)
        np.add(self._centre_ctrl, scaled, out=self._ctrl)
        scaled /= self._unit
        effort = np.square(scaled).sum(axis=1)
        self._world.drive(alive)
        before = self._previous_position
        ids = None if alive.all() else np.flatnonzero(alive)
        failed = self._advance(ids)
        self._previous_position = after = self._position()
        # clipping hides an infinite action, so the action itself is tested
        fault = alive & (self._find_diverged() | failed | ~np.isfinite(action).all(axis=1))
        healthy = self._find_healthy()
        with np.errstate(invalid="ignore", over="ignore"):
            if self._commands:
                parts = self._commands.rewards(scaled, alive)
            else:
                velocity = (after - before) / self.spec.dt
                parts = {"goal": self.goal.reward(self._goal_tasks, velocity, after)}
            parts = self.terms.add(parts, effort, healthy, self._forces)
            reward = sum(parts.values(), np.zeros(len(action)))
        self._tally.add(alive & ~fault, parts)
        if self._finished or self._observes_outputs:
            self._outputs[alive] = scaled[alive]
            self._time += alive
        reward[~alive | fault] = 0.0
        return Step(self._observe(), reward, alive & ~fault & ~healthy, fault)

    def _find_healthy(self) -> np.ndarray:
        """Returns the mask (M,) of robots that have not fallen."""
        if self.robot.healthy is None:
            return np.ones(len(self._qpos), dtype=bool)
        height, ground = self._qpos[:, self.robot.height_index], self._world.ground
        if ground is not None:
            height = height - ground.height(*self._torso())
        return self.robot.healthy(height, self._qpos, self._qvel)

    def _advance(self, ids: np.ndarray | None) -> np.ndarray:
        """Steps the physics of rows ids, or of all; returns the mask (M,) of MuJoCo's errors."""
        failed = np.zeros(self._batch.nsim, dtype=bool)
        has_forward = self._stage >= int(mujoco.mjtStage.mjSTAGE_ACC)
        is_split = self._commands is not None and has_forward
        stage = 0 if is_split else self._stage
        with mark_failures(failed):
            self._batch.step(ids, nstep=self.robot.frame_skip, stage=stage)
        if is_split:
            # the reward does not depend on what is observed
            self._commands.keep_forces()
            with mark_failures(failed):
                self._batch.forward(ids)
        return failed

    def take_reward_sums(self) -> tuple[dict[str, np.ndarray], int]:
        """See `HasRewardTerms`."""
        return self._tally.take()

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the compiled model; see `HasFingerprint`."""
        data = np.empty(mujoco.mj_sizeModel(self.model), dtype=np.uint8)
        mujoco.mj_saveModel(self.model, None, data)
        return hashlib.sha256(data).hexdigest()

    def _find_diverged(self) -> np.ndarray:
        """Returns the mask (M,) of rows with new warnings of MuJoCo or a speed beyond MAX_SPEED."""
        warnings = self._batch.warning[:, :, 1].sum(axis=1)
        has_new_warning = warnings != self._warnings
        self._warnings = warnings
        # negated, because a comparison with NaN is false
        return has_new_warning | ~(np.abs(self._qvel) < MAX_SPEED).all(axis=1)

    def snapshot(self) -> np.ndarray:
        """Returns a copy of qpos (M, nq)."""
        return self._qpos.copy()

    def marker(self, task: np.ndarray) -> Marker:
        """Returns the marker of the goal of a task (D,)."""
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
        """Draws snapshots (L, nq) of a task (D,): L frames (height, width, 3) uint8."""
        # imported here, because it takes 0.3 s
        from metarl.envs.rendering.render import render_mujoco

        model, marker = self._model_of(task), self.marker(task)
        return render_mujoco(model, states, marker, width=width, height=height, camera=camera)

    def scene(
        self, states: np.ndarray, task: np.ndarray, camera: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """Returns shapes, poses, goal and camera of snapshots (L, nq) of a task (D,)."""
        from metarl.envs.rendering.scene import mujoco_scene

        return mujoco_scene(self._model_of(task), states, self.marker(task), camera)

    def _model_of(self, task: np.ndarray) -> mujoco.MjModel:
        """Returns the model of a task (D,) at the start of an episode."""
        if not self.variations:
            return self.model
        batch = Batch(self.model, 1, 1)
        world = World(self.robot, self.variations, batch)
        world.write(np.asarray(task, dtype=float)[None, len(self.goal.tasks.variables) :])
        return batch.get_model(0)

    def close(self) -> None:
        """Releases threads and memory."""
        self._calls.close()
        # a view of the batch's state would keep its threads alive
        self._batch = self._forces = self._centre = self._world = self._commands = None
        self._effector = None
        self._readers = []
        self._qpos = self._qvel = self._ctrl = np.empty(0)
