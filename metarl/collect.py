"""Rollouts and trials: all tasks and episodes in lock-step; the one place where NumPy becomes torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metarl.errors import EnvironmentContractError
from metarl.rng import stream
from metarl.threads import one_torch_thread
from metarl.types import BatchEnv, C, Feedback, Learner, Rollout

Observer = Callable[[int, np.ndarray, np.ndarray], None]
"""Called after every step with (rollout k, snapshot (M, n), alive (M,)), for videos."""


@dataclass(frozen=True)
class Key:
    """Names the streams of a trial: every episode draws from (seed, stream, iteration, k, task, episode).

    Attributes:
        seed: Seed of the run.
        stream: What the trial is for: "train", "evaluate", "video".
        iteration: Which of them.
    """

    seed: int
    stream: str
    iteration: int

    def episodes(self, k: int, num_tasks: int, num_episodes: int) -> list[np.random.Generator]:
        """The generators of rollout k, row by row (N * E)."""
        return [
            stream(self.seed, self.stream, self.iteration, k, task, episode)
            for task in range(num_tasks)
            for episode in range(num_episodes)
        ]


def rollout(
    env: BatchEnv,
    learner: Learner[C],
    context: C,
    key: Key,
    k: int,
    size: tuple[int, int],
    *,
    explore: bool = True,
    observer: Observer | None = None,
) -> tuple[Rollout, C]:
    """Runs one episode in each of the N * E rows of an environment whose tasks are set.

    Args:
        env: The environment, after set_tasks.
        learner: Whose `act` chooses the actions.
        context: The learner's context.
        key: The streams.
        k: Which rollout of the trial.
        size: N, E.
        explore: Draw actions; otherwise send the mode.
        observer: Called after every step, for videos.

    Returns:
        The rollout and the context after the last action. Peak memory is that of the rollout's arrays.

    Raises:
        EnvironmentContractError: An observation or a reward is not finite and was not called a fault.
    """
    num_tasks, num_episodes = size
    rows, horizon = num_tasks * num_episodes, env.spec.horizon
    rngs = key.episodes(k, num_tasks, num_episodes)
    current = env.reset(rngs)
    arrays = _allocate(rows, horizon, env.spec.obs_size, env.spec.action_size)
    obs, action, log_prob = arrays["obs"], arrays["action"], arrays["log_prob"]
    reward, valid = arrays["reward"], arrays["valid"]
    for row, rng in enumerate(rngs):  # the noise waits where the actions will be
        rng.standard_normal(dtype=np.float32, out=action[row])
    alive = np.ones(rows, dtype=bool)
    # threads of torch's pool that spin beside the physics threads slow both several times
    with one_torch_thread(), torch.inference_mode():
        seen, noise, given = (
            torch.from_numpy(a).view(num_tasks, num_episodes, horizon, -1).unbind(2)
            for a in (obs, action, reward)
        )
        feedback = None
        for t in range(horizon):
            np.copyto(obs[:, t], current, where=alive[:, None], casting="same_kind")
            chosen, context = learner.act(context, seen[t], noise[t], feedback, explore=explore)
            action[:, t] = chosen.value.numpy().reshape(rows, -1)
            log_prob[:, t] = chosen.log_prob.numpy().reshape(rows)
            step = env.step(action[:, t], alive)
            valid[:, t] = alive & ~step.fault
            # nothing is believed of a row that broke down or rests, whatever stands there
            np.copyto(reward[:, t], step.reward, where=valid[:, t], casting="same_kind")
            arrays["terminated"] |= valid[:, t] & step.terminated
            arrays["truncated"] |= alive & step.fault
            alive = valid[:, t] & ~step.terminated
            if observer is not None:
                observer(k, env.snapshot(), valid[:, t])
            current = step.obs
            going_on = torch.from_numpy(alive).view(num_tasks, num_episodes)
            feedback = Feedback(given[t].squeeze(-1), going_on)
            if not alive.any():
                break
    return _finished(arrays, num_tasks, num_episodes), context


def _finished(arrays: dict[str, np.ndarray], num_tasks: int, num_episodes: int) -> Rollout:
    """Clears what stands at invalid steps, checks the rest and hands the memory over to torch."""
    # not action[~valid] = 0: the mask's indices take 16 bytes a step, and a step of navigation 25
    np.copyto(arrays["action"], 0.0, where=~arrays["valid"][:, :, None])
    np.copyto(arrays["log_prob"], 0.0, where=~arrays["valid"])
    for name in ("obs", "reward"):
        _check_finite(name, arrays[name], num_episodes)
    tensors = {
        name: torch.from_numpy(a.reshape(num_tasks, num_episodes, *a.shape[1:]))
        for name, a in arrays.items()
    }
    return Rollout(**tensors)


def _check_finite(name: str, array: np.ndarray, num_episodes: int) -> None:
    # a sum needs no second array; what is finite and sums up to infinity is found out below
    with np.errstate(invalid="ignore"):  # inf - inf
        if np.isfinite(array.sum(dtype=np.float64)):
            return
    broken = np.argwhere(~np.isfinite(array))
    if len(broken):
        task, episode = divmod(int(broken[0, 0]), num_episodes)
        raise EnvironmentContractError(
            f"task {task}, episode {episode}, step {broken[0, 1]}: the environment gave {name} "
            f"{array[tuple(broken[0])]} and called it no fault"
        )


def _allocate(rows: int, horizon: int, obs_size: int, action_size: int) -> dict[str, np.ndarray]:
    return {
        "obs": _zeros((rows, horizon, obs_size), np.float32),
        "action": _zeros((rows, horizon, action_size), np.float32),
        "log_prob": _zeros((rows, horizon), np.float32),
        "reward": _zeros((rows, horizon), np.float32),
        "valid": _zeros((rows, horizon), np.bool_),
        "terminated": _zeros((rows,), np.bool_),
        "truncated": _zeros((rows,), np.bool_),
    }


def _zeros(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros that begin at a multiple of 64 bytes, as torch's do: products of few rows differ with the place."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def trial(
    env: BatchEnv,
    learner: Learner[C],
    tasks: np.ndarray,
    num_episodes: int,
    num_adaptations: int,
    key: Key,
    **options: Any,
) -> tuple[list[Rollout], C]:
    """Runs K + 1 rollouts of the same tasks with `adapt` between them.

    Args:
        env: The environment.
        learner: The learner.
        tasks: (N, D).
        num_episodes: E.
        num_adaptations: K.
        key: The streams.
        **options: explore and observer, as in `rollout`.

    Returns:
        The K + 1 rollouts and the context after the last one.
    """
    size = (len(tasks), num_episodes)
    env.set_tasks(tasks, num_episodes)
    context = learner.begin(*size)
    rollouts: list[Rollout] = []
    for k in range(num_adaptations + 1):
        if k > 0:
            context = learner.adapt(context, rollouts[-1])
        collected, context = rollout(env, learner, context, key, k, size, **options)
        rollouts.append(collected)
    return rollouts, context
