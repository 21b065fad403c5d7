"""The world of M simulations, and what a variation may do to it (`envs/locomotion/variations.py`, `envs/locomotion/terrain.py`).

A variation writes per-simulation values into fields of the model once per `set_tasks`; some also act at the start of
an episode or before a control step. It is a value without state: what it needs is the `World` it changes and the tasks
(M, D) of the M simulations, D its own numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import mujoco
import numpy as np

from metarl.core.tasks import TaskDistribution
from metarl.envs.locomotion.robots import Edit, Robot

GROUND = "floor"
"""Name of the ground in Gymnasium's models."""


class Ground:
    """Heights of the ground under M robots, looked up for all at once.

    Args:
        maps: Heights (F, rows, columns) float32 [m] of F heightfields of one size.
        number: Which of them lies under each robot (M,).
        half_x: Half length of the maps [m].
        half_y: Half width [m].
    """

    EDGE = 0.5
    """How near to the edge of its map a robot may come [m]."""

    def __init__(self, maps: np.ndarray, number: np.ndarray, half_x: float, half_y: float):
        self._maps, self._size = maps.reshape(-1), maps.shape[1:]
        self._start = number * (self._size[0] * self._size[1])
        self._half = half_x, half_y

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Heights [m] at x, y (M,) or (M, P) [m]; beyond the edge that of the edge.

        Every cell is two triangles that meet along the diagonal from its low-x, low-y to its high-x, high-y corner, as
        in MuJoCo's collisions.
        """
        (rows, columns), (half_x, half_y) = self._size, self._half
        # a simulation that broke down may be anywhere
        x = np.clip(np.nan_to_num(x), -half_x, half_x)
        y = np.clip(np.nan_to_num(y), -half_y, half_y)
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

    def left(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Which robots at x, y (M,) [m] have come to the edge of their map (M,)."""
        half_x, half_y = self._half
        return (np.abs(x) > half_x - self.EDGE) | (np.abs(y) > half_y - self.EDGE)


class Variation:
    """What a task changes in the world; the base changes nothing.

    Attributes:
        name: Word of it in the name of an environment.
        fields: Model fields it writes.
        derives: Whether other fields follow from them (mass, inertia), so that MuJoCo must compute them anew.
        looks_back: How many control steps back it reads the controls.
        sets: Whether it sets values whatever they were, and so writes after those that multiply them.
        task_split: Training and test tasks that its source asks for; None draws both afresh.
        formula: What it does, for people.
    """

    name: ClassVar[str] = ""
    fields: ClassVar[tuple[str, ...]] = ()
    derives: ClassVar[bool] = False
    looks_back: ClassVar[int] = 0
    sets: ClassVar[bool] = False
    task_split: ClassVar[tuple[int, int] | None] = None
    formula: ClassVar[str] = ""

    def edits(self, robot: Robot) -> Sequence[Edit]:
        """Changes that the model needs before it is compiled."""
        return ()

    def finish(self, robot: Robot, model: mujoco.MjModel) -> None:
        """Changes that the model needs after it was compiled."""

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Where its D numbers of a task come from."""
        raise NotImplementedError

    def scan(self, robot: Robot) -> np.ndarray:
        """Places around the robot (P, 2) at which it sees the height of the ground [m, along the world's axes]."""
        return np.empty((0, 2))

    def write(self, world: World, tasks: np.ndarray) -> None:
        """Writes tasks (M, D) into fields that hold nominal values or what other variations made of them."""

    def start(self, world: World, tasks: np.ndarray, rows: Any) -> None:
        """Acts at the start of an episode in `rows` (an index of rows), when their state is that of a reset."""

    def drive(self, world: World, tasks: np.ndarray, step: np.ndarray) -> None:
        """Acts before control step `step` (M,), counted from 0; may change the controls of world.ctrl."""


class World:
    """M simulations and what variations have made of them.

    Attributes:
        robot: The robot.
        model: The model that all simulations share, with nominal values.
        batch: The `mujoco.batch.Batch`.
        ctrl: Controls (M, A), as sent and clipped; a variation may change them before a step.
        fields: Per-simulation model fields (M, ...) by name, those that the variations write.
        sent: Controls (depth, M, A) of the last steps, that of a row's step t at t % depth; zero before the first.
        ground: Heights of the ground; None where it is a plane of height zero.
    """

    def __init__(self, robot: Robot, variations: Sequence[Variation], batch: Any):
        self.robot, self.model, self.batch = robot, batch.model, batch
        self.ctrl = batch.bind("ctrl")
        names = {name for variation in variations for name in variation.fields}
        self.fields = {name: batch.expand(name) for name in sorted(names)}
        depth = max([1 + v.looks_back for v in variations if v.looks_back], default=0)
        self.sent = np.zeros((depth, *self.ctrl.shape))
        self.ground: Ground | None = None
        self._variations = variations
        self._sizes = [len(variation.tasks(robot).variables) for variation in variations]
        self._step = np.zeros(len(self.ctrl), dtype=int)

    def write(self, tasks: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Makes the worlds of tasks (M, D), D the numbers of all variations in order; nothing of others stays.

        With a mask rows (M,) only those; the others keep what happened to them in mid-episode, bit for bit.
        """
        parts = np.split(tasks, np.cumsum(self._sizes)[:-1], axis=1)
        self._varied = list(zip(self._variations, parts, strict=False))
        others = np.zeros(len(tasks), dtype=bool) if rows is None else ~rows
        kept = {name: values[others] for name, values in self.fields.items()}
        for name, values in self.fields.items():
            option = name.removeprefix("opt.")
            values[:] = getattr(self.model.opt if option != name else self.model, option)
        for variation, task in sorted(self._varied, key=lambda varied: varied[0].sets):
            variation.write(self, task)
        for name, values in kept.items():
            self.fields[name][others] = values
        if any(variation.derives for variation in self._variations):
            self.batch.set_const(np.flatnonzero(~others))

    def start(self, rows: Any = slice(None)) -> None:
        """Lets the variations act at the start of an episode in the rows, when MuJoCo's state is that of a reset."""
        self._step[rows], self.sent[:, rows] = 0, 0.0
        for variation, task in self._varied:
            variation.start(self, task, rows)

    def drive(self) -> None:
        """Lets the variations act before a control step."""
        if len(self.sent):
            self.sent[self._step % len(self.sent), np.arange(len(self.ctrl))] = self.ctrl
        for variation, task in self._varied:
            variation.drive(self, task, self._step)
        self._step += 1
