"""A BatchEnv as gymnasium.Env and gymnasium.vector.VectorEnv; `envs/wrappers/sb3.py` makes the VecEnv of Stable-Baselines3.

All of them have the same spaces. The action space is a Box of the *policy's output*, [-1/s, 1/s] with s the action scale of
the environment's spec, which multiplies and clips as ever: the ends of the Box send -1 and +1, where actuators saturate.
Observations are the environment's, in float32. An episode that reaches the horizon or breaks down (a fault) is truncated;
of a step that broke down nothing is shown, so the last observation comes again with reward 0.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from metarl.core.env import BatchEnv, EnvSpec
from metarl.core.tasks import TaskDistribution
from metarl.envs.wrappers.autoreset import Episodes, streams


def action_space(spec: EnvSpec) -> Box:
    """The Box of one robot's policy output (A,).

    Raises:
        ValueError: Its actions are discrete.
    """
    if spec.discrete:
        raise ValueError(f"{spec.name} has discrete actions, which have no Box")
    bound = 1.0 / spec.action_scale
    return Box(-bound, bound, (spec.action_size,), np.float32)


def observation_space(size: int) -> Box:
    """The unbounded Box of observations (size,)."""
    return Box(-np.inf, np.inf, (size,), np.float32)


# --------------------------------------------------------------------------------------- Gymnasium


class GymEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One robot with one task as a gymnasium.Env.

    Args:
        env: The environment.
        task: (D,).
        render_mode: "rgb_array", or None.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}

    def __init__(self, env: BatchEnv, task: np.ndarray, *, render_mode: str | None = None):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r}: must be 'rgb_array' or None")
        self._env, self._task, self.render_mode = env, np.asarray(task, dtype=float), render_mode
        self.metadata = {**GymEnv.metadata, "render_fps": max(1, round(1.0 / env.spec.dt))}
        self.action_space = action_space(env.spec)
        self.observation_space = observation_space(env.spec.obs_size)
        self._alive = np.ones(1, dtype=bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode; its start is drawn from `np_random`."""
        super().reset(seed=seed)
        self._env.set_tasks(self._task[None], 1)
        self._obs, self._length = self._env.reset([self.np_random])[0].astype(np.float32), 0
        return self._obs.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Steps with action (A,) [policy output]; info holds "fault" where the simulation broke down."""
        step = self._env.step(np.asarray(action)[None], self._alive)
        fault, terminated = bool(step.fault[0]), bool(step.terminated[0])
        if not fault:
            self._obs = step.obs[0].astype(np.float32)
        self._length += 1
        truncated = fault or (not terminated and self._length >= self._env.spec.horizon)
        info = {"fault": True} if fault else {}
        return self._obs.copy(), float(step.reward[0]), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """A picture (480, 480, 3) uint8 of the present state."""
        if self.render_mode is None:
            return None
        return next(self._env.render(self._env.snapshot(), self._task, width=480, height=480))

    def close(self) -> None:
        """Gives back threads and memory."""
        self._env.close()


class GymVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """M robots as a gymnasium.vector.VectorEnv.

    The autoreset mode is SAME_STEP: the step that ends an episode returns the first observation of the next one, and
    the last of the old one as info["final_obs"][row]. No step is spent on resetting, and Stable-Baselines3 does the same.

    Args:
        env: The environment, with reset_rows.
        tasks: One task (D,) for all rows, one for each row (M, D), or a distribution that every episode draws from.
        num_envs: M.
    """

    metadata: dict[str, Any] = {
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, env: BatchEnv, tasks: np.ndarray | TaskDistribution, num_envs: int):
        self._rows = Episodes(env, tasks, num_envs, streams(0))
        self.num_envs = num_envs
        self.single_action_space = action_space(env.spec)
        self.single_observation_space = observation_space(env.spec.obs_size)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every row; a seed decides all that follows."""
        super().reset(seed=seed)
        self._rows.restart(streams(int(self.np_random.integers(2**63))))
        return self._rows.reset(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps every row with actions (M, A) [policy output]."""
        step = self._rows.step(actions)
        info: dict[str, Any] = {}
        for ended in step.finished:
            last = {"final_obs": step.final_obs[ended.row], "final_info": {"fault": ended.fault}}
            info = self._add_info(info, last, ended.row)
        return step.obs, step.reward, step.terminated, step.truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Gives back threads and memory."""
        self._rows.env.close()
