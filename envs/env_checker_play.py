"""Random episodes of the environment checks, played through the contract alone, and compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.core.env import BatchEnv

NUM_TASKS, NUM_EPISODES = 4, 2


class Violation(Exception):
    """The contract is violated; the message says how."""


def require(ok: Any, message: str) -> None:
    """Raises a Violation unless ok."""
    if not ok:
        raise Violation(message)


@dataclass(frozen=True)
class Play:
    """Recorded episodes; values after the end of an episode are zero.

    Attributes:
        obs: (T + 1, M, S).
        reward: (T, M).
        terminated: (T, M).
        length: (M,) numbers of valid steps.
        faults: (M,) the episode ended by a fault.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    length: np.ndarray
    faults: np.ndarray


def play(
    env: BatchEnv,
    tasks: np.ndarray,
    max_steps: int | None = None,
    *,
    set_tasks: bool = True,
    first_stream: int = 0,
    seconds: float = np.inf,
) -> Play:
    """Plays an episode in every row with random actions; row m has the stream first_stream + m.

    Args:
        env: The environment.
        tasks: (N, D).
        max_steps: Steps at most; None plays to the horizon.
        set_tasks: Set the tasks before.
        first_stream: Number of the first stream.
        seconds: Time after which no further step is taken, but for the first two [s].

    Raises:
        Violation: A shape, type or number violates the contract; the message names row and step.
    """
    spec, num_rows = env.spec, len(tasks) * NUM_EPISODES
    steps = min(spec.horizon, max_steps or spec.horizon)
    if set_tasks:
        env.set_tasks(tasks, NUM_EPISODES)
    keys = range(first_stream, first_stream + num_rows)
    obs = np.zeros((steps + 1, num_rows, spec.obs_size))
    reward, terminated = np.zeros((steps, num_rows)), np.zeros((steps, num_rows), dtype=bool)
    alive, faults = np.ones(num_rows, dtype=bool), np.zeros(num_rows, dtype=bool)
    length, began = np.zeros(num_rows, dtype=int), time.monotonic()
    obs[0] = _array(
        "reset's obs", env.reset([np.random.default_rng(k) for k in keys]), obs[0], alive
    )
    noise = np.stack(
        [np.random.default_rng([k, 1]).normal(size=(steps, spec.action_size)) for k in keys], axis=1
    ).astype(np.float32)
    for t in range(steps):
        if t >= 2 and time.monotonic() - began > seconds:
            return Play(obs[: t + 1], reward[:t], terminated[:t], length, faults)
        step = env.step(noise[t], alive)
        where = f"step {t}: "
        fault = _array(where + "fault", step.fault, faults, alive) & alive
        valid = alive & ~fault
        obs[t + 1, valid] = _array(where + "obs", step.obs, obs[0], valid)[valid]
        reward[t, valid] = _array(where + "reward", step.reward, reward[0], valid)[valid]
        ends = _array(where + "terminated", step.terminated, terminated[0], valid)
        terminated[t] = valid & ends
        length += valid
        faults |= fault
        alive = valid & ~terminated[t]
        if not alive.any():
            break
    return Play(obs, reward, terminated, length, faults)


def _array(name: str, given: Any, like: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Checks shape and type of an array of the environment, and that its rows are finite."""
    array = np.asarray(given)
    require(array.shape == like.shape, f"{name} has the shape {array.shape}, not {like.shape}")
    kinds = "b" if like.dtype.kind == "b" else "fiu"
    content = "booleans" if kinds == "b" else "numbers"
    require(array.dtype.kind in kinds, f"{name} is of type {array.dtype}; it must hold {content}")
    not_finite = rows & ~np.isfinite(array).reshape(len(rows), -1).all(axis=1)
    if not_finite.any():
        task, episode = divmod(int(np.argmax(not_finite)), NUM_EPISODES)
        raise Violation(
            f"{name} of task {task}, episode {episode} is not finite, but fault is False"
        )
    return array


def compare(first: Play, again: Play, problem: str) -> None:
    """Compares the steps that both have, bit for bit.

    Raises:
        Violation: They differ; the message names the first difference.
    """
    steps = min(len(first.reward), len(again.reward))
    for t in range(steps + 1):
        pairs = {"obs": (first.obs[t], again.obs[t])}
        if t:
            pairs["reward"] = (first.reward[t - 1], again.reward[t - 1])
            pairs["terminated"] = (first.terminated[t - 1], again.terminated[t - 1])
        for name, (one, other) in pairs.items():
            differs = (one != other).reshape(len(one), -1)
            if differs.any():
                row, i = np.argwhere(differs)[0]
                task, episode = divmod(int(row), NUM_EPISODES)
                call = f"step {t - 1}" if t else "reset"
                values = [np.ravel(array[row])[i] for array in (one, other)]
                raise Violation(
                    f"{problem} (task {task}, episode {episode}, {call}: "
                    f"{name} {values[0]}, then {values[1]})"
                )
