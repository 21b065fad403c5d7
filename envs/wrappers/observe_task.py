"""Wrapper that appends the task to the observation, for the oracle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from metarl.core.env import (
    BatchEnv,
    GradedEnv,
    HasDistances,
    HasFingerprint,
    HasRewardTerms,
    HasServos,
    HasWorkers,
    MovableCamera,
    Quantity,
    RenderableEnv,
    RestartableEnv,
    RunsOnWarp,
    SceneEnv,
    SplittableEnv,
    Step,
    TaskDescriber,
    check_tasks,
)
from metarl.core.task_code import TaskCode
from metarl.envs.wrappers.wrapper import Wrapper


class ObserveTask(Wrapper):
    """A BatchEnv with the task's numbers appended to the observation.

    Each number is scaled from its range over training and test tasks to [-1, 1]; a number with a
    single value becomes 0.

    Args:
        env: The environment; its tasks are rows of numbers.

    Raises:
        UnsupportedHere: The numbers of a task have no range.
    """

    forwarded = (
        BatchEnv,
        RestartableEnv,
        SplittableEnv,
        RenderableEnv,
        MovableCamera,
        SceneEnv,
        TaskDescriber,
        HasDistances,
        HasRewardTerms,
        GradedEnv,
        HasServos,
        HasFingerprint,
        HasWorkers,
        RunsOnWarp,
    )

    def __init__(self, env: BatchEnv):
        super().__init__(env)
        self._code = TaskCode(env.spec.tasks)
        size = env.spec.obs_size + len(env.spec.tasks.variables)
        note = "the task is in the observation"
        note = f"{env.spec.note}; {note}" if env.spec.note else note
        names = [Quantity(f"task: {v.name}, scaled", "1") for v in env.spec.tasks.variables]
        observed = (*env.spec.observed, *names) if env.spec.observed else ()
        self.spec = replace(env.spec, obs_size=size, note=note, observed=observed)

    @property
    def servo_gains(self) -> tuple[tuple[float, float], ...]:
        """See `HasServos`."""
        return self._env.servo_gains

    def split(self, parts: int) -> list[ObserveTask]:
        """Returns copies of this environment, for slices of the tasks."""
        return [ObserveTask(env) for env in self._env.split(parts)]

    def on_warp(self) -> ObserveTask:
        """See `RunsOnWarp`."""
        return ObserveTask(self._env.on_warp())

    def snapshot(self) -> np.ndarray:
        """See `RenderableEnv`."""
        return self._env.snapshot()

    def render(self, states: np.ndarray, task: np.ndarray, **view: Any) -> Iterator[np.ndarray]:
        """See `RenderableEnv`."""
        return self._env.render(states, task, **view)

    def scene(
        self, states: np.ndarray, task: np.ndarray, camera: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """See `SceneEnv`."""
        return self._env.scene(states, task, camera)

    def task_words(self, task: np.ndarray) -> str:
        """See `TaskDescriber`."""
        return self._env.task_words(task)

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Assigns tasks (N, D) to the batch, each to num_episodes neighbouring rows."""
        tasks = check_tasks(self.spec, tasks)
        self._env.set_tasks(tasks, num_episodes)
        scaled = np.repeat(self._code.scale(tasks), num_episodes, axis=0)
        self._obs = np.empty((len(scaled), self.spec.obs_size))
        self._obs[:, self._env.spec.obs_size :] = scaled

    def _observe(self, obs: np.ndarray) -> np.ndarray:
        self._obs[:, : obs.shape[1]] = obs
        return self._obs

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m from the stream rngs[m]; returns obs (M, S)."""
        return self._observe(self._env.reset(rngs))

    def reset_rows(
        self,
        rows: np.ndarray,
        rngs: Sequence[np.random.Generator],
        tasks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Starts an episode in the m-th row of the mask rows (M,) from rngs[m].

        With tasks (rows.sum(), D) those rows get them first.
        """
        obs = self._env.reset_rows(rows, rngs, tasks)
        if tasks is not None:
            self._obs[rows, obs.shape[1] :] = self._code.scale(tasks)
        return self._observe(obs)

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output]."""
        step = self._env.step(action, alive)
        return replace(step, obs=self._observe(step.obs))
