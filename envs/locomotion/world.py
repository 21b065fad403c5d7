"""The world of M simulations, and the base class of its variations.

A variation writes per-simulation values into model fields at `set_tasks`; some also act at the
start of an episode or before a control step. It has no state: it is given the `World` and the tasks
(M, D) of the M simulations, of which D are its own numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import mujoco
import numpy as np

from metarl.core.tasks import TaskDistribution
from metarl.envs.physics import fields
from metarl.envs.robots.moments import find_compensated
from metarl.envs.robots.robot import Edit, Robot

COMPENSATION = "compensation"
"""Name, among the model fields, of the shares (M, J) of their gravity compensation that the
actuators of the J joints of `find_compensated` keep."""


class Ground:
    """Heights of the ground under M robots.

    Args:
        maps: Heights (F, rows, columns) float32 [m] of F heightfields of one size.
        number: Index (M,) of the map under each robot.
        half: Half lengths of the maps along x and y [m].
        period: Periods along x and y [m], at most the lengths; 0 is not periodic.
    """

    def __init__(
        self,
        maps: np.ndarray,
        number: np.ndarray,
        half: tuple[float, float],
        period: tuple[float, float],
    ):
        self._maps, self._size = maps.reshape(-1), maps.shape[1:]
        self._start = number * (self._size[0] * self._size[1])
        self._half, self._period = half, period

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Returns the heights [m] at x, y, (M,) or (M, P) [m].

        Beyond an edge across which the map is not periodic, it is that of the edge.

        As in MuJoCo's collisions, a cell is two triangles with a common edge from its corner of
        least x and y to that of greatest x and y.
        """
        (rows, columns), (half_x, half_y) = self._size, self._half
        x, y = (
            _wrap(axis, half, period)
            for axis, half, period in zip((x, y), self._half, self._period, strict=True)
        )
        across = (x / half_x + 1.0) * (0.5 * (columns - 1))
        along = (y / half_y + 1.0) * (0.5 * (rows - 1))
        column = np.minimum(across.astype(np.intp), columns - 2)
        row = np.minimum(along.astype(np.intp), rows - 2)
        right, up = across - column, along - row
        first = self._start.reshape(-1, *[1] * (np.ndim(x) - 1)) + row * columns + column
        low, high = self._maps[first], self._maps[first + columns + 1]
        corner = self._maps[first + np.where(right > up, 1, columns)]
        most, least = np.maximum(right, up), np.minimum(right, up)
        return (1.0 - most) * low + (most - least) * corner + least * high


def _wrap(position: np.ndarray, half: float, period: float) -> np.ndarray:
    """Maps positions [m] along an axis into a map."""
    position = np.nan_to_num(position)  # a failed simulation may be anywhere
    if period:
        position = position - period * np.rint(position / period)
    return np.clip(position, -half, half)


class Variation:
    """A change of the world that depends on the task; the base class changes nothing.

    Attributes:
        name: Its part of an environment's name.
        fields: Model fields that it writes.
        derives: Other fields follow from these (mass, inertia), so MuJoCo must recompute them.
        transient: Those of the fields that it changes within an episode; the start of an episode
            restores them.
        past_steps: Largest number of control steps by which it delays the controls.
        sets: It overwrites values, and so writes after variations that multiply them.
        needs_servos: It refuses robots whose actuators are all motors.
        task_split: See EnvSpec.
        formula: Description, as text.
        revisions: Number of changes of its definition for all robots.
        unfit: Reason why no robot with a fixed base has it, or "".
        has_events: Something happens at random times of an episode, see `draw`.
    """

    name: ClassVar[str] = ""
    fields: ClassVar[tuple[str, ...]] = ()
    derives: ClassVar[bool] = False
    transient: ClassVar[tuple[str, ...]] = ()
    past_steps: ClassVar[int] = 0
    sets: ClassVar[bool] = False
    needs_servos: ClassVar[bool] = False
    task_split: ClassVar[tuple[int, int] | None] = None
    formula: ClassVar[str] = ""
    revisions: ClassVar[int] = 0
    unfit: ClassVar[str] = ""
    has_events: ClassVar[bool] = False

    def num_revisions(self, robot: Robot) -> int:
        """Returns the number of changes of its definition for a robot, see EnvSpec.version."""
        return self.revisions

    def edits(self, robot: Robot) -> Sequence[Edit]:
        """Returns the edits of the model before it is compiled."""
        return ()

    def finish(self, robot: Robot, model: mujoco.MjModel) -> None:
        """Edits the compiled model."""

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of its D task numbers."""
        raise NotImplementedError

    def scan(self, robot: Robot) -> np.ndarray:
        """Returns the points (P, 2) [m] around the robot whose height it observes.

        Their axes are level: forward and left where `Robot.observes_own_axes`, else the world's.
        """
        return np.empty((0, 2))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Applies tasks (M, D) to the fields, which other variations may have changed before."""

    def draw(
        self, tasks: np.ndarray, rngs: Sequence[np.random.Generator], horizon: int
    ) -> np.ndarray:
        """Draws events of n episodes with tasks (n, D), each from its stream.

        Returns the mask (n, horizon) of the control steps in which they happen; see has_events.
        """
        raise NotImplementedError

    def start(self, world: World, tasks: np.ndarray, rows: Any) -> None:
        """Acts at the start of an episode in `rows` (an index), after the reset of their state."""

    def delays(self, tasks: np.ndarray) -> np.ndarray | int:
        """Returns by how many control steps (M,) it delays the controls; see past_steps."""
        return 0

    def drive(self, world: World, tasks: np.ndarray, step: np.ndarray) -> None:
        """Acts before control step `step` (M,), counted from 0; may change world.ctrl."""


class LowPass:
    """First-order filter of the controls of M robots, y' = (u - y) / tau with u held for a step.

    Args:
        tau: Time constant [s], > 0.
        dt: Duration of a control step [s].
        home: Controls (A,) of the home pose, where an episode starts.
        num_rows: M.
    """

    def __init__(self, tau: float, dt: float, home: np.ndarray, num_rows: int):
        self._share, self._home = -np.expm1(-dt / tau), home
        self._output = np.tile(home, (num_rows, 1))

    def start(self, rows: Any) -> None:
        """Starts episodes in the rows (an index)."""
        self._output[rows] = self._home

    def apply(self, ctrl: np.ndarray, alive: np.ndarray) -> None:
        """Filters the controls (M, A) of a control step of the rows alive (M,) in place."""
        self._output[alive] += self._share * (ctrl[alive] - self._output[alive])
        ctrl[alive] = self._output[alive]


class Compensation:
    """Gravity compensation by actuators of M robots, of which each joint gets a share.

    MuJoCo adds all of it, c, to the torque t of a joint's actuators and limits the sum. For a share
    s it is clip(t + s c, low, high) = clip(t + c, low + d, high + d) - d with d = (1 - s) c. So the
    limits are moved by d, and an outer torque takes d back, with c of the last physics step held
    for a control step.

    Args:
        robot: The robot.
        batch: The simulations.
        shares: s (M, J).
        limits: Those (M, njnt, 2) of all joints [N m or N].
    """

    def __init__(self, robot: Robot, batch: Any, shares: np.ndarray, limits: np.ndarray):
        self._joints = list(find_compensated(robot))
        self._dofs = batch.model.jnt_dofadr[self._joints]
        self._whole, self._outer = batch.bind("qfrc_gravcomp"), batch.bind("qfrc_applied")
        self._shares, self._limits = shares, limits
        self._true_limits: np.ndarray | None = None

    def restore(self) -> None:
        """Gives all joints their true limits."""
        if self._true_limits is not None:
            self._limits[:, self._joints] = self._true_limits
        self._true_limits = None

    def apply(self) -> None:
        """Moves the limits and sets the outer torques, before a control step."""
        if (self._shares == 1.0).all():
            return
        missing = (1.0 - self._shares) * self._whole[:, self._dofs]
        self._true_limits = self._limits[:, self._joints]
        self._limits[:, self._joints] = self._true_limits + missing[..., None]
        self._outer[:, self._dofs] = -missing


class World:
    """M simulations with their variations.

    Attributes:
        robot: The robot.
        model: The common model of the simulations, with nominal values.
        batch: The `mujoco.batch.Batch`.
        qpos: Positions (M, nq).
        qvel: Speeds (M, nv); a variation may change them before a step.
        alive: Mask (M,) of the simulations that take the present control step.
        ctrl: Clipped controls (M, A), which `drive` delays and filters; a variation may change them
            before a step.
        fields: Per-simulation model fields (M, ...) that the variations write, by name, and the
            shares of COMPENSATION; those of which the model has no element are left out.
        past_ctrl: Controls (depth, M, A) of the last steps, those of step t at t % depth; those of
            the home pose before the first step.
        ground: Heights of the ground; None for a plane of height zero.
        events: Masks (M, T) of the steps in which a variation acts, by its name; none before the
            first `draw`.
    """

    def __init__(self, robot: Robot, variations: Sequence[Variation], batch: Any):
        self.robot, self.model, self.batch = robot, batch.model, batch
        self.qpos, self.qvel = batch.bind("qpos"), batch.bind("qvel")
        self.ctrl = batch.bind("ctrl")
        names = {name for variation in variations for name in variation.fields}
        names = {name for name in names if np.size(self.nominal(name))}
        self.fields = {name: self._expand(name) for name in sorted(names)}
        self._compensation = None
        if COMPENSATION in names:
            values = (self.fields[name] for name in (COMPENSATION, "jnt_actfrcrange"))
            self._compensation = Compensation(robot, batch, *values)
        longest = robot.delay + sum(variation.past_steps for variation in variations)
        num_rows, num_controls = self.ctrl.shape
        self._home_ctrl = np.broadcast_to(robot.action_centre or 0.0, num_controls)
        depth = longest + 1 if longest else 0
        self.past_ctrl = np.tile(self._home_ctrl, (depth, num_rows, 1))
        self._low_pass = None
        if robot.lowpass:
            dt = robot.frame_skip * self.model.opt.timestep
            self._low_pass = LowPass(robot.lowpass, dt, self._home_ctrl, num_rows)
        self.ground: Ground | None = None
        transient = {name for variation in variations for name in variation.transient}
        kept = sorted(transient & names)
        self._written = {name: self.fields[name].copy() for name in kept}
        self._variations, self.alive = variations, np.ones(len(self.ctrl), dtype=bool)
        self._sizes = [len(variation.tasks(robot).variables) for variation in variations]
        self._step = np.zeros(len(self.ctrl), dtype=int)
        self.events = {each.name: np.zeros((num_rows, 0), bool) for each in variations}

    def write(self, tasks: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Writes the model fields of tasks (M, D), D the numbers of all variations in order.

        With a mask rows (M,), only in those rows; the others keep their values bit for bit.
        """
        self._restore_limits()
        parts = np.split(tasks, np.cumsum(self._sizes)[:-1], axis=1)
        self._pairs = list(zip(self._variations, parts, strict=False))
        others = np.zeros(len(tasks), dtype=bool) if rows is None else ~rows
        saved = {name: values[others] for name, values in self.fields.items()}
        for name, values in self.fields.items():
            values[:] = self.nominal(name)
        for variation, task in sorted(self._pairs, key=lambda pair: pair[0].sets):
            variation.write(self, task)
        for name, values in saved.items():
            self.fields[name][others] = values
        for name, values in self._written.items():
            values[~others] = self.fields[name][~others]
        if any(variation.derives for variation in self._variations):
            self.batch.set_const(np.flatnonzero(~others))

    def nominal(self, name: str) -> np.ndarray:
        """Returns a field of the common model, see `fields.locate`; of COMPENSATION all shares."""
        if name == COMPENSATION:
            return np.ones(len(find_compensated(self.robot)))
        return fields.read(self.model, name)

    def _expand(self, name: str) -> np.ndarray:
        if name == COMPENSATION:
            return np.tile(self.nominal(name), (len(self.ctrl), 1))
        return self.batch.expand(name)

    def _restore_limits(self) -> None:
        if self._compensation:
            self._compensation.restore()

    def draw(self, rows: np.ndarray, rngs: Sequence[np.random.Generator], horizon: int) -> None:
        """Draws the events of episodes of T = horizon steps in the rows (an index)."""
        for variation, task in self._pairs:
            if not variation.has_events:
                continue
            if not self.events[variation.name].size:
                self.events[variation.name] = np.zeros((len(self.ctrl), horizon), dtype=bool)
            self.events[variation.name][rows] = variation.draw(task[rows], rngs, horizon)

    def happens(self, variation: Variation, step: np.ndarray) -> np.ndarray:
        """Returns the mask (M,) of the rows in which an event happens before step (M,)."""
        events = self.events[variation.name]
        if not events.size:
            return np.zeros(len(step), dtype=bool)
        last = events.shape[1] - 1
        return (step <= last) & events[np.arange(len(step)), np.minimum(step, last)]

    def start(self, rows: Any = slice(None)) -> None:
        """Applies the variations at the start of an episode in the rows, after MuJoCo's reset."""
        self._restore_limits()
        self._step[rows], self.past_ctrl[:, rows] = 0, self._home_ctrl
        if self._low_pass:
            self._low_pass.start(rows)
        for name, values in self._written.items():
            self.fields[name][rows] = values[rows]
        for variation, task in self._pairs:
            variation.start(self, task, rows)

    def drive(self, alive: np.ndarray | None = None) -> None:
        """Applies the variations before a control step of the rows alive (M,), or of all."""
        self.alive = np.ones(len(self.ctrl), dtype=bool) if alive is None else alive
        self._restore_limits()
        self._delay()
        if self._low_pass:
            self._low_pass.apply(self.ctrl, self.alive)
        for variation, task in self._pairs:
            variation.drive(self, task, self._step)
        if self._compensation:
            self._compensation.apply()
        self._step += self.alive

    def _delay(self) -> None:
        """Replaces the controls by those of earlier steps, as robot and variations demand."""
        depth, rows = len(self.past_ctrl), np.arange(len(self.ctrl))
        if depth:
            self.past_ctrl[self._step % depth, rows] = self.ctrl
            late = self.robot.delay + sum(each.delays(task) for each, task in self._pairs)
            self.ctrl[:] = self.past_ctrl[(self._step - late) % depth, rows]
