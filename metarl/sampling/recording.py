"""Recording of episodes into the arrays of a rollout, the one place where NumPy becomes torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from metarl.core.env import Step
from metarl.core.errors import EnvironmentContractError
from metarl.core.rollout import Action, Feedback, Rollout

Arrays = dict[str, np.ndarray]
"""The fields of a rollout by name, rows first: (M, T, ...) or (M,)."""


class Recording:
    """Episodes of one environment, written step by step into the arrays of a rollout.

    Args:
        arrays: Their rows.
        num_episodes: E, neighbouring rows of a task.
    """

    def __init__(self, arrays: Arrays, num_episodes: int):
        self.arrays, self.num_episodes = arrays, num_episodes
        self.rows, self.horizon = arrays["valid"].shape
        self.alive = np.ones(self.rows, dtype=bool)
        self.obs, self.noise, self.reward = (
            torch.from_numpy(arrays[name]).unflatten(0, (-1, num_episodes)).unbind(2)
            for name in ("obs", "action", "reward")
        )

    def draw_noise(self, rngs: Sequence[np.random.Generator]) -> None:
        """Draws each episode's noise into the action array, which `record_action` overwrites."""
        for row, rng in enumerate(rngs):
            rng.standard_normal(dtype=np.float32, out=self.arrays["action"][row])

    def record_obs(self, t: int, obs: np.ndarray) -> None:
        """Copies the observation before step t of every episode that goes on."""
        going_on = True if self.alive.all() else self.alive[:, None]
        np.copyto(self.arrays["obs"][:, t], obs, where=going_on, casting="same_kind")

    def record_action(self, t: int, chosen: Action) -> np.ndarray:
        """Copies the action of step t and returns it (M, A)."""
        action = self.arrays["action"][:, t]
        action[...] = chosen.value.numpy().reshape(self.rows, -1)
        self.arrays["log_prob"][:, t] = chosen.log_prob.numpy().reshape(self.rows)
        return action

    def record_step(self, t: int, step: Step) -> Feedback:
        """Copies the outcome of step t and returns the learner's feedback.

        Ignores the rewards of failed and finished rows, which may hold anything.
        """
        arrays, valid = self.arrays, self.arrays["valid"][:, t]
        valid[...] = self.alive & ~step.fault
        np.copyto(arrays["reward"][:, t], step.reward, where=valid, casting="same_kind")
        arrays["terminated"] |= valid & step.terminated
        arrays["truncated"] |= self.alive & step.fault
        # a failed row keeps the observation before the failure
        np.copyto(arrays["last_obs"], arrays["obs"][:, t], where=(self.alive & step.fault)[:, None])
        self.alive = valid & ~step.terminated
        last = valid if t == self.horizon - 1 else valid & step.terminated
        if last.any():
            np.copyto(arrays["last_obs"], step.obs, where=last[:, None], casting="same_kind")
        going_on = torch.from_numpy(self.alive).view(-1, self.num_episodes)
        return Feedback(self.reward[t], going_on)

    def finish(self, k: int, first_task: int = 0) -> None:
        """Checks rollout k and sets actions and log-probabilities of invalid steps to zero.

        Raises:
            FloatingPointError: The policy chose an action that is not finite; names the task,
                counted from first_task.
            EnvironmentContractError: A number of the environment is not finite; names the task.
        """
        arrays = self.arrays
        _check_finite(arrays, k, first_task, self.num_episodes)
        # not action[~valid] = 0: indices of a mask take 16 bytes a step, a step of navigation 25
        np.copyto(arrays["action"], 0.0, where=~arrays["valid"][:, :, None])
        np.copyto(arrays["log_prob"], 0.0, where=~arrays["valid"])


def allocate(spec: Any, rows: int, first_row: int = 0) -> Arrays:
    """Returns the arrays of a rollout, all zero.

    Args:
        spec: Sizes.
        rows: M.
        first_row: Number of the first row in the whole rollout, where these are a slice of it.
    """
    steps = (rows, spec.horizon)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "obs": ((*steps, spec.obs_size), np.float32),
        "action": ((*steps, spec.action_size), np.float32),
        "log_prob": (steps, np.float32),
        "reward": (steps, np.float32),
        "valid": (steps, np.bool_),
        "terminated": ((rows,), np.bool_),
        "truncated": ((rows,), np.bool_),
        "last_obs": ((rows, spec.obs_size), np.float32),
    }
    arrays = {}
    for name, (shape, dtype) in shapes.items():
        row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
        arrays[name] = aligned_zeros(shape, dtype, first_row * row_bytes)
    return arrays


def aligned_zeros(shape: tuple[int, ...], dtype: Any, offset: int = 0) -> np.ndarray:
    """Returns zeros that begin `offset` bytes after a multiple of 64, where those of torch begin.

    The last bit of a product of few rows depends on where its memory begins.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 128, dtype=np.uint8)
    start = -raw.ctypes.data % 64 + offset % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def to_rollout(arrays: Arrays, size: tuple[int, int]) -> Rollout:
    """Returns a rollout (N, E, ...) on the memory of the arrays."""
    return Rollout(
        **{name: torch.from_numpy(a.reshape(*size, *a.shape[1:])) for name, a in arrays.items()}
    )


_SOURCES = ("obs", "action", "reward")
"""Arrays that the environment or the policy fills in a step, in this order."""


def _check_finite(arrays: Arrays, k: int, first_task: int, num_episodes: int) -> None:
    """Raises for the first number that is not finite, because all others may follow from it."""
    suspects = [name for name in _SOURCES if not _has_finite_sum(arrays[name])]
    candidates = []
    for name in suspects:
        places = np.argwhere(~np.isfinite(arrays[name]))
        if len(places):
            place = tuple(places[places[:, 1].argmin()].tolist())
            candidates.append((place[1], _SOURCES.index(name), place))
    if not candidates:
        _check_last_obs(arrays, first_task, num_episodes)
        return
    step, source, place = min(candidates)
    name, (task, episode) = _SOURCES[source], divmod(place[0], num_episodes)
    where = f"task {first_task + task}, episode {episode}, step {step}"
    value = arrays[name][place]
    if name == "action":
        reason = ": it diverged in adaptation" if k else ""
        raise FloatingPointError(f"{where} of rollout {k}: the policy chose action {value}{reason}")
    raise EnvironmentContractError(
        f"{where}: the environment gave {name} {value} and reported no fault"
    )


def _check_last_obs(arrays: Arrays, first_task: int, num_episodes: int) -> None:
    """Raises for an observation after the last step that is not finite.

    That of a task that ended has no value, and may be anything.
    """
    last_obs = arrays["last_obs"]
    if _has_finite_sum(last_obs):
        return
    places = np.argwhere(~np.isfinite(last_obs) & ~arrays["terminated"][:, None])
    if not len(places):
        return
    row, column = places[0].tolist()
    task, episode = divmod(row, num_episodes)
    where = (
        f"task {first_task + task}, episode {episode}, after step {arrays['valid'].shape[1] - 1}"
    )
    value = last_obs[row, column]
    raise EnvironmentContractError(
        f"{where}: the environment gave obs {value} and reported no fault"
    )


def _has_finite_sum(array: np.ndarray) -> bool:
    # a sum needs no second array; finite numbers with an infinite sum are cleared later
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf
        return bool(np.isfinite(array.sum()))
