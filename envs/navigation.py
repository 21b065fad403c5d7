"""Navigation in the plane: a point mass and a goal, to test learners within seconds.

Source: Finn et al. 2017 (arXiv:1703.03400), section 5.3; for the sparse form Rakelly et al. 2019
(arXiv:1903.08254), sparse 2D navigation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.core.env import EnvSpec, Quantity, Step
from metarl.core.tasks import TaskDistribution, Uniform, Variable
from metarl.envs.calls import Calls
from metarl.envs.rendering.marker import Marker


@dataclass(frozen=True)
class DenseGoal:
    """-|x - g| for a goal in a square; the episode ends at the goal.

    Attributes:
        half_width: Goals are uniform in [-half_width, half_width]^2 [m].
        reached: Distance at which the episode ends [m].
        formula: The reward as text.
    """

    half_width: float = 0.5
    reached: float = 0.01
    formula: str = "-|x - g|"

    @property
    def tasks(self) -> TaskDistribution:
        """Goals in the square [m]."""
        low, high = -self.half_width, self.half_width
        return Uniform((Variable("goal_x", "m", low, high), Variable("goal_y", "m", low, high)))

    def place(self, tasks: np.ndarray) -> np.ndarray:
        """Returns the goal positions (M, 2) [m] of tasks (M, 2)."""
        return tasks

    def reward(self, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps distance (M,) [m] to reward (M,) and terminated (M,)."""
        return -distance, distance < self.reached

    def floors(self) -> dict[str, float]:
        """Returns the mean reward per step of standing still, the best constant position.

        It is minus the mean distance of a square's points from its centre,
        half_width * (sqrt(2) + asinh(1)) / 3.
        """
        floor = -self.half_width * (math.sqrt(2.0) + math.asinh(1.0)) / 3.0
        return {"stand still": floor, "best without the task": floor}


@dataclass(frozen=True)
class SparseGoal:
    """1 - |x - g| within a radius of a goal on the unit half circle, 0 elsewhere.

    Attributes:
        radius: Distance from the goal at which the reward begins [m].
        formula: The reward as text.
    """

    radius: float = 0.2
    formula: str = "1 - |x - g| within 0.2 m, else 0"

    @property
    def tasks(self) -> TaskDistribution:
        """Angles of the goal on the half circle [rad]."""
        return Uniform((Variable("angle", "rad", 0.0, np.pi),))

    def place(self, tasks: np.ndarray) -> np.ndarray:
        """Returns the goal positions (M, 2) [m] of tasks (M, 1)."""
        return np.concatenate([np.cos(tasks), np.sin(tasks)], axis=1)

    def reward(self, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps distance (M,) [m] to reward (M,) and terminated (M,), which is all false."""
        near = distance <= self.radius
        return np.where(near, 1.0 - distance, 0.0), np.zeros(len(distance), dtype=bool)

    def floors(self) -> dict[str, float]:
        """Returns the reward per step of standing still.

        A walk to (0, 1) earns 0.1 per step without the task; the best is not known.
        """
        return {"stand still": 0.0}


class NavigationEnv:
    """M point masses; the observation is the position, the action a displacement.

    Implements `RestartableEnv`, `RenderableEnv` and `SceneEnv`.

    Args:
        name: Registry name.
        goal: Reward and tasks.
        max_step: Largest displacement along an axis per step [m].
        step_scale: The displacement is the action times this, clipped to max_step [m].
        horizon: T.
    """

    def __init__(
        self,
        name: str,
        goal: DenseGoal | SparseGoal,
        *,
        max_step: float = 0.1,
        step_scale: float = 1.0,
        horizon: int = 100,
    ):
        self.goal = goal
        self._max_step, self._step_scale = max_step, step_scale
        self._goals: Any = None
        self.spec = EnvSpec(
            name=name,
            version=1,
            obs_size=2,
            action_size=2,
            horizon=horizon,
            dt=1.0,
            action_scale=step_scale,
            tasks=goal.tasks,
            reward=goal.formula,
            floors={name: horizon * floor for name, floor in goal.floors().items()},
            observed=(Quantity("x", "m"), Quantity("y", "m")),
            actuators=(Quantity("step x", "m"), Quantity("step y", "m")),
        )
        self._calls = Calls(self.spec)

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Sets tasks (N, D), each for num_episodes neighbouring rows.

        Raises:
            RuntimeError: The environment is closed.
            ValueError: The tasks are not (N, D) or not finite, or num_episodes is below 1.
        """
        self._goals = self.goal.place(self._calls.set_tasks(tasks, num_episodes))
        self._position = np.zeros_like(self._goals)

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Moves all points to the origin, without noise; returns obs (M, 2) [m].

        Raises:
            RuntimeError: No tasks were set.
            ValueError: The number of streams is not M.
        """
        self._calls.reset(rngs)
        self._position = np.zeros_like(self._goals)
        self._calls.is_reset = True
        return self._position

    def reset_rows(
        self,
        rows: np.ndarray,
        rngs: Sequence[np.random.Generator],
        tasks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Moves the points of the mask rows (M,) to the origin; returns obs (M, 2) [m].

        With tasks (rows.sum(), D), sets the tasks of those rows first.

        Raises:
            RuntimeError: No tasks were set.
            ValueError: The number of streams or of tasks is not that of the rows.
        """
        tasks = self._calls.reset_rows(rows, rngs, tasks)
        if tasks is not None:
            self._goals[rows] = self.goal.place(tasks)
        self._position = np.where(rows[:, None], 0.0, self._position)
        self._calls.is_reset = True
        return self._position

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Moves the points of the mask alive (M,) by action (M, 2) [policy output].

        An action that is not finite is a fault.

        Raises:
            RuntimeError: There was no reset, or the environment is closed.
            ValueError: action or alive have another shape.
        """
        action, alive = self._calls.step(action, alive)
        action = action.astype(float, copy=False)
        move = np.clip(action * self._step_scale, -self._max_step, self._max_step)
        # clipping hides an infinite action, so the action itself is tested
        fault = alive & ~np.isfinite(action).all(axis=1)
        valid = alive & ~fault
        self._position = np.where(valid[:, None], self._position + move, self._position)
        distance = np.linalg.norm(self._position - self._goals, axis=1)
        reward, reached = self.goal.reward(distance)
        return Step(self._position, np.where(valid, reward, 0.0), valid & reached, fault)

    def snapshot(self) -> np.ndarray:
        """Returns a copy of the positions (M, 2) [m]."""
        return self._position.copy()

    def marker(self, task: np.ndarray) -> Marker:
        """Returns a target at the goal of a task (D,)."""
        x, y = self.goal.place(np.asarray(task, dtype=float)[None])[0]
        return Marker("target", (float(x), float(y)))

    def render(
        self, states: np.ndarray, task: np.ndarray, *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Draws snapshots (L, 2) of a task (D,): L frames (height, width, 3) uint8."""
        from metarl.envs.rendering.point_mass import render_plane

        return render_plane(states, self.marker(task), width=width, height=height)

    def scene(
        self, states: np.ndarray, task: np.ndarray, camera: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """Returns shapes, poses, goal and camera of snapshots (L, 2) of a task (D,)."""
        from metarl.envs.rendering.point_mass import plane_scene

        return plane_scene(states, self.marker(task), camera)

    def close(self) -> None:
        """Ends the environment, which has no threads and little memory."""
        self._calls.close()
