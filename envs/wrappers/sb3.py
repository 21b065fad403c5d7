"""Adapter of a BatchEnv to the VecEnv of Stable-Baselines3, whose import takes two seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from metarl.core.env import BatchEnv
from metarl.core.tasks import TaskDistribution
from metarl.envs.wrappers.autoreset import Episodes, Rows, Streams, make_streams
from metarl.envs.wrappers.gymnasium import action_space, observation_space
from metarl.envs.wrappers.trials import Trials


class Sb3VecEnv(VecEnv):
    """M rows as a VecEnv; spaces, time limits and faults are those of `envs/wrappers/gymnasium.py`.

    SB3 clips the policy's actions to the action space, as the environment does anyway. The info of
    the step that ends an episode holds "episode": r (return), l (length) and t [s], as in SB3's
    Monitor, and index, terminated and fault (see FinishedEpisode). The info of the step that ends
    an episode of SB3 (for Trials a trial) also holds "terminal_observation" and
    "TimeLimit.truncated".

    Args:
        rows: The rows: Episodes or Trials.
    """

    def __init__(self, rows: Rows):
        self.rows = rows
        self.render_mode: str | None = None
        super().__init__(rows.num_rows, observation_space(rows.obs_size), action_space(rows.spec))
        self._started = time.monotonic()

    def restart(self, streams: Streams, tasks: np.ndarray | TaskDistribution | None = None) -> None:
        """Sets the streams, and the tasks if given, from the next reset on.

        The rows are then a function of the streams, the tasks and the actions.
        """
        self.rows.restart(streams, tasks)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Makes new streams from a seed; None changes nothing."""
        if seed is not None:
            self.rows.restart(make_streams(seed))
        return [seed] * self.num_envs

    def reset(self) -> np.ndarray:
        """Starts an episode in every row; returns obs (M, S)."""
        self._reset_seeds()
        self._reset_options()
        return self.rows.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Stores the actions (M, A) [policy output] for step_wait."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Steps every row; returns obs (M, S), reward (M,), done (M,) and M infos."""
        step = self.rows.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        seconds = round(time.monotonic() - self._started, 6)
        for ended in step.finished:
            infos[ended.row]["episode"] = {
                "r": ended.total,
                "l": ended.length,
                "t": seconds,
                "index": ended.index,
                "terminated": ended.terminated,
                "fault": ended.fault,
            }
        done = step.terminated | step.truncated
        for row in np.flatnonzero(done):
            infos[row]["terminal_observation"] = step.final_obs[row]
            infos[row]["TimeLimit.truncated"] = bool(step.truncated[row])
        return step.obs, step.reward.astype(np.float32), done, infos

    def close(self) -> None:
        """Does nothing: the caller closes the environment."""

    # --- methods for single environments, which a batch does not have --------------------------

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Returns the attribute of this object, once for each index."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets the attribute of this object."""
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuses: there are no single environments to call.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"the rows of a batch have no method {method_name!r} of their own")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Returns False for each index: rows have no wrappers."""
        return [False] * len(list(self._get_indices(indices)))


def vec_env(env: BatchEnv, num_rows: int, *, trial: int = 0) -> Sb3VecEnv:
    """Makes rows of an environment, with tasks from its distribution until `restart` sets others.

    Args:
        env: The environment, with reset_rows.
        num_rows: M.
        trial: Episodes in a trial of RL^2 (see Trials); 0 makes single episodes.

    Raises:
        ValueError: The environment has no reset_rows.
    """
    per_task = max(1, trial)
    episodes = Episodes(env, env.spec.tasks, num_rows, make_streams(0), episodes_per_task=per_task)
    return Sb3VecEnv(Trials(episodes) if trial else episodes)
