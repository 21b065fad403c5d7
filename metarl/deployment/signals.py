"""Observations and actions of a robot: their checks, and the robot's units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.core.env import EnvSpec
from metarl.core.errors import ConfigError, nearest
from metarl.core.ranges import MOST_TASKS, require_count

Observation = np.ndarray | Mapping[str, Any]
"""(S,) or (M, S); or the numbers by name, each one number or (M,)."""

MAX_PENDING = 100
"""Episodes that wait for `adapt`; older ones are forgotten, so that memory stays bounded."""


class NoActionNoise(ConfigError):
    """A gradient step has no episodes with action noise.

    Args:
        hint: Advice.
    """

    def __init__(self, hint: str = "start the session with deterministic=False"):
        super().__init__(f"adapt: the episodes have no action noise to learn from; {hint}")


def require_robots(num_tasks: int, num_robots: int) -> None:
    """Raises ConfigError if a session cannot have so many tasks, or robots of each."""
    require_count("num_tasks", num_tasks, 1, MOST_TASKS)
    require_count("num_robots", num_robots, 1, MOST_TASKS)


def to_controls(spec: EnvSpec, output: np.ndarray) -> np.ndarray:
    """Maps outputs of the policy (M, A) to what its environment sends to the robot.

        centre + scale * output, clipped to the range of the actions

    A robot whose range is not recorded has -1 and 1, unless its centre is not zero. Discrete
    actions become the index (M,) of their largest output.
    """
    if spec.discrete:
        return output.argmax(axis=1)
    actions = np.multiply(output, spec.action_scale, dtype=float)
    centre = np.asarray(spec.action_centre)
    if centre.any():  # else -0.0 would become 0.0
        actions += centre
    ends = spec.action_range or (None if centre.any() else (-1.0, 1.0))
    return actions if ends is None else np.clip(actions, *ends, out=actions)


def send(
    spec: EnvSpec, output: np.ndarray, waits: np.ndarray, obs: Any, *, raw: bool
) -> np.ndarray:
    """Returns what a session gives back for the outputs of its policy.

    Args:
        spec: Of the environment.
        output: (M, A); it is not changed.
        waits: Robots (M,) that get the control of an output of zero.
        obs: The observation, which may have no row axis; neither has the result then.
        raw: Return outputs in place of the robot's controls.
    """
    sent = np.where(waits[:, None], 0.0, output) if waits.any() else output
    controls = sent.copy() if raw else to_controls(spec, sent)
    return controls if count_rows(obs)[1] else controls[0]


def count_rows(obs: Any) -> tuple[int, bool]:
    """Returns the number of robots M in an observation, and whether it has a row axis."""
    try:
        if isinstance(obs, Mapping):
            shapes = [np.shape(each) for each in obs.values()]
            return (shapes[0][0], True) if shapes and shapes[0] else (1, False)
        return (len(obs), True) if np.ndim(obs) > 1 else (1, False)
    except ValueError:  # lists of several lengths, which `read_observation` refuses
        return 1, False


def read_observation(spec: EnvSpec, obs: Any, num_rows: int) -> np.ndarray:
    """Returns a copy of observations as (M, S) float32; some numbers may not be finite.

    A copy, because a robot's program may write its next observation into the same array.

    Args:
        spec: Of the environment.
        obs: See Observation; one robot may leave the row axis out.
        num_rows: M.

    Raises:
        ConfigError: The size is another, or a name is unknown or missing.
    """
    try:
        given = _join_named(spec, obs) if isinstance(obs, Mapping) else obs
        with np.errstate(over="ignore"):  # what float32 cannot hold is not finite
            array = np.array(given, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"obs: must be numbers: {error}") from error
    if num_rows == 1 and array.ndim == 1:
        array = array[None]
    if array.shape != (num_rows, spec.obs_size):
        shape = f"{(num_rows, spec.obs_size)}" + (f" or ({spec.obs_size},)" * (num_rows == 1))
        raise ConfigError(f"obs has the shape {np.shape(given)}: must be {shape}{_describe(spec)}")
    return array


def _join_named(spec: EnvSpec, obs: Mapping[str, Any]) -> np.ndarray:
    names = [each.name for each in spec.observed]
    if not names:
        hint = f"the run has no names of observations; give an array of {spec.obs_size} numbers"
        raise ConfigError(f"obs is a mapping: {hint}")
    for name in obs:
        if name not in names:
            raise ConfigError(f"obs: unknown number {name!r}{nearest(str(name), names)}")
    missing = [name for name in names if name not in obs]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"obs: {missing[0]!r}{more} is missing; policy.spec.observed has all")
    return np.stack([np.asarray(obs[name], dtype=float) for name in names], axis=-1)


def _describe(spec: EnvSpec) -> str:
    names = [each.name for each in spec.observed]
    return f": {', '.join(names[:2])}, ..., {names[-1]}" if len(names) > 3 else ""


def read_rows(name: str, value: Any, num_rows: int, kind: type) -> np.ndarray:
    """Returns one number or mask entry for each robot (M,), of a dtype.

    Raises:
        ConfigError: There are not M.
    """
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(value, dtype=kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name} = {value!r:.80}: must be numbers: {error}") from error
    if array.size != num_rows and array.ndim:
        raise ConfigError(f"{name} has the shape {array.shape}: must be ({num_rows},)")
    return np.broadcast_to(array.reshape(-1) if array.ndim else array, num_rows)


# --- numbers that are not finite ------------------------------------------------------------------


def read_usable(spec: EnvSpec, obs: Any, previous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns finite observations (M, S), and the mask (M,) of rows that were so as given.

    Args:
        spec: Of the environment.
        obs: See Observation.
        previous: Rows (M, S) that take the place of those that are not finite.

    Raises:
        ConfigError: See `read_observation`.
    """
    rows = read_observation(spec, obs, len(previous))
    usable = np.asarray(np.isfinite(rows).all(axis=1))
    return np.where(usable[:, None], rows, previous), usable


@dataclass(frozen=True)
class Outcome:
    """Outcome of the previous controls of M robots.

    Attributes:
        reward: (M,), 0 where it was not finite.
        ended: (M,) the episode ended, for example by a fall.
        num_unusable: Rewards that were not finite.
    """

    reward: np.ndarray
    ended: np.ndarray
    num_unusable: int


def read_outcome(reward: Any, done: Any, num_rows: int, step: int, *, is_input: bool) -> Outcome:
    """Returns the outcome of a step for M robots.

    Args:
        reward: (M,) or one number for all; None if there is none.
        done: (M,) or one for all.
        num_rows: M.
        step: Number of the step, for messages.
        is_input: The policy reads rewards, or adapts from them.

    Raises:
        ConfigError: The reward is missing, or there are not M.
    """
    if reward is None:
        if is_input:
            hint = "the policy adapts from it; pass reward= to act and end_episode"
            raise ConfigError(f"the reward of step {step} is missing: {hint}")
        reward = 0.0
    rewards = read_rows("reward", reward, num_rows, np.float32)
    finite = np.isfinite(rewards)
    ended = read_rows("done", done, num_rows, bool)
    return Outcome(np.where(finite, rewards, 0.0), ended, int((~finite).sum()))
