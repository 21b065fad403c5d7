"""Adapters of a BatchEnv to gymnasium.Env and gymnasium.vector.VectorEnv.

`envs/wrappers/sb3.py` has the VecEnv of Stable-Baselines3, with the same spaces. The action space
is a Box of the *policy's output*, whose ends send the smallest and largest action of the
environment's spec: [-1/s, 1/s] for a robot with the action scale s, whose actuators saturate at -1
and 1, and [-1, 1] for a plug-in with a finite Box and no action scale. Observations are those of
the environment, in float32. An episode that reaches the horizon or has a fault is truncated. After
a fault the previous observation is returned again, with reward 0.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from metarl.core.env import BatchEnv, EnvSpec, check_tasks
from metarl.core.tasks import TaskDistribution
from metarl.envs.wrappers.autoreset import Episodes, make_streams


def action_space(spec: EnvSpec) -> Box:
    """Returns the Box of one robot's policy output (A,).

    Raises:
        ValueError: Its actions are discrete.
    """
    if spec.discrete:
        raise ValueError(f"{spec.name} has discrete actions, which have no Box")
    size, ends = (spec.action_size,), spec.action_range or (-1.0, 1.0)
    # a constant action has an output range of one point, which Box accepts
    low, high = ((np.array(end) - spec.action_centre) / spec.action_scale for end in ends)
    return Box(*(np.broadcast_to(end, size).astype(np.float32) for end in (low, high)))


def observation_space(size: int) -> Box:
    """Returns the unbounded Box of observations (size,)."""
    return Box(-np.inf, np.inf, (size,), np.float32)


def read_task_option(
    spec: EnvSpec, options: dict[str, Any] | None, num_rows: int | None = None
) -> np.ndarray | None:
    """Returns options["task"] as `check_task` does, or None if the options of a reset have none."""
    unknown = sorted(set(options or ()) - {"task"})
    if unknown:
        raise ValueError(
            f"{spec.name}: unknown option {unknown[0]!r} of reset; there is only 'task'"
        )
    if options is None or "task" not in options:
        return None
    return check_task(spec, options["task"], num_rows)


def check_task(spec: EnvSpec, task: Any, num_rows: int | None = None) -> np.ndarray:
    """Returns a task (D,), or with num_rows also one for each row (num_rows, D), in float64.

    Raises:
        ValueError: The shape is another, or a number is not finite; names the D numbers. Or one is
            beyond the limits of its variable; names both.
    """
    size = len(spec.tasks.variables)
    shapes = [(size,)] if num_rows is None else [(size,), (num_rows, size)]
    try:
        array = np.asarray(task, dtype=float)
    except (TypeError, ValueError):  # no numbers, or ragged
        array = np.array(np.nan)
    if array.shape not in shapes or not np.isfinite(array).all():
        names = ", ".join(f"{v.name} [{v.unit}]" for v in spec.tasks.variables)
        raise ValueError(
            f"{spec.name}: a task must be finite numbers of shape {' or '.join(map(str, shapes))} "
            f"({names}), got {task!r:.80}"
        )
    check_tasks(spec, np.atleast_2d(array))  # the limits
    return array


class GymEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One robot as a gymnasium.Env.

    Args:
        env: The environment.
        task: The task (D,) of every episode, or a distribution from which every reset draws.
        render_mode: "rgb_array", or None.

    Raises:
        ValueError: The environment has discrete actions, or the render mode is another.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        env: BatchEnv,
        task: np.ndarray | TaskDistribution,
        *,
        render_mode: str | None = None,
    ):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r}: must be 'rgb_array' or None")
        self._env, self._tasks, self.render_mode = env, task, render_mode
        self.metadata = {**GymEnv.metadata, "render_fps": max(1, round(1.0 / env.spec.dt))}
        self.action_space = action_space(env.spec)
        self.observation_space = observation_space(env.spec.obs_size)
        self._alive = np.ones(1, dtype=bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; its task, if it is drawn, and its start come from `np_random`.

        Args:
            seed: Seeds `np_random`; None continues it.
            options: "task": a task (D,) for this episode.

        Returns:
            obs (S,), and an info with "task": the task (D,) of the episode.

        Raises:
            ValueError: options["task"] is not a task; names its numbers.
        """
        super().reset(seed=seed)
        task = read_task_option(self._env.spec, options)
        self._task = self._choose_task() if task is None else task
        self._env.set_tasks(self._task[None], 1)
        self._obs, self._length = self._env.reset([self.np_random])[0].astype(np.float32), 0
        return self._obs.copy(), {"task": self._task.copy()}

    def _choose_task(self) -> np.ndarray:
        if isinstance(self._tasks, np.ndarray):
            return self._tasks.astype(float)
        return self._tasks.sample(self.np_random, 1)[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Steps with action (A,) [policy output]; info has "fault" if the simulation failed."""
        step = self._env.step(np.asarray(action)[None], self._alive)
        fault, reward = bool(step.fault[0]), 0.0
        if not fault:  # else no number of the step may be used
            self._obs, reward = step.obs[0].astype(np.float32), float(step.reward[0])
        terminated = bool(step.terminated[0]) and not fault
        self._length += 1
        truncated = fault or (not terminated and self._length >= self._env.spec.horizon)
        info = {"fault": True} if fault else {}
        return self._obs.copy(), reward, terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """Returns a picture (480, 480, 3) uint8 of the current state."""
        if self.render_mode is None:
            return None
        return next(self._env.render(self._env.snapshot(), self._task, width=480, height=480))

    def close(self) -> None:
        """Releases threads and memory."""
        self._env.close()


class GymVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """M robots as a gymnasium.vector.VectorEnv, each with a task of its own.

    The autoreset mode is SAME_STEP: the step that ends an episode returns the first observation of
    the next one, and the last one of the old as `info["final_obs"][row]`. Resets take no step, as
    in Stable-Baselines3.

    Args:
        env: The environment, with reset_rows.
        tasks: One task (D,) for all rows, one for each row (M, D), or a distribution from which
            every episode draws.
        num_envs: M.
    """

    metadata: dict[str, Any] = {
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, env: BatchEnv, tasks: np.ndarray | TaskDistribution, num_envs: int):
        self._rows, self._tasks = Episodes(env, tasks, num_envs, make_streams(0)), tasks
        self.num_envs = num_envs
        self.single_action_space = action_space(env.spec)
        self.single_observation_space = observation_space(env.spec.obs_size)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in every row; the seed determines all later episodes.

        Args:
            seed: Seeds `np_random`; None continues it.
            options: "task": one task (D,) for all rows, or (M, D), until the next reset.

        Returns:
            obs (M, S), and an info with "task": the tasks (M, D).

        Raises:
            ValueError: options["task"] is not a task; names its numbers.
        """
        super().reset(seed=seed)
        tasks = read_task_option(self._rows.spec, options, self.num_envs)
        streams = make_streams(int(self.np_random.integers(2**63)))
        self._rows.restart(streams, self._tasks if tasks is None else tasks)
        obs = self._rows.reset()
        return obs, {
            "task": self._rows.tasks.copy(),
            "_task": np.ones(self.num_envs, dtype=bool),
        }

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps every row with actions (M, A) [policy output].

        The info has "final_obs", "final_info" and the next "task" of the rows whose episode ended.
        """
        step = self._rows.step(actions)
        info: dict[str, Any] = {}
        for ended in step.finished:
            row = {
                "final_obs": step.final_obs[ended.row],
                "final_info": {"fault": ended.fault},
                "task": self._rows.tasks[ended.row],
            }
            info = self._add_info(info, row, ended.row)
        return step.obs, step.reward, step.terminated, step.truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Releases threads and memory."""
        self._rows.env.close()
