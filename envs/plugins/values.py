"""Errors of plug-ins, and checks of what they give: numbers, flags and bounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from metarl.core.env import NoAnswer
from metarl.core.messages import LONGEST, printable

UNBOUNDED = float(np.finfo(np.float32).max)
"""Bounds of a Box from here on stand for infinity."""


class InvalidPlugin(Exception):
    """The plug-in cannot be run; the message says why."""


class PluginFailure(ValueError):
    """A plug-in breaks the contract, raises, hangs or dies; names the environment and the place."""


class SilentPlugin(PluginFailure, NoAnswer):
    """A plug-in hangs."""


def read_text(value: object) -> str:
    """Returns a text of a plug-in for people: printable, and cut."""
    return printable(value, longest=LONGEST)


def read_number(name: str, value: Any, *, is_positive: bool = False) -> float:
    """Returns a finite number.

    Raises:
        InvalidPlugin: The value is none, or is not > 0 where it must be.
    """
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    if is_number and not isinstance(value, bool) and math.isfinite(value):
        if value > 0 or not is_positive:
            return float(value)
    kind = "a finite number > 0" if is_positive else "a finite number"
    raise InvalidPlugin(f"{name} is {value!r:.80}; it must be {kind}")


def read_numbers(name: str, values: Any) -> dict[str, float]:
    """Returns finite numbers by name.

    Raises:
        InvalidPlugin: It is no dict, or a value is no finite number.
    """
    if not isinstance(values, dict):
        raise InvalidPlugin(f"{name} is {values!r:.80}; it must be a dict of numbers")
    return {read_text(k): read_number(f"{name}[{k!r:.40}]", v) for k, v in values.items()}


def read_reward(value: Any) -> float:
    """Returns the reward of a step.

    Raises:
        InvalidPlugin: It is not one real number that is finite in float32, in which it is kept.
    """
    if type(value) is float and abs(value) <= UNBOUNDED:
        return value
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "biuf" or not np.isfinite(array):
        raise InvalidPlugin(f"the reward is {value!r:.80}; it must be one finite number")
    if not _fits(array):
        raise InvalidPlugin(f"the reward is {value!r:.80}; it must be at most {UNBOUNDED:.2g}")
    return float(array)


def _fits(array: np.ndarray) -> np.ndarray:
    """Returns the mask of the finite numbers that are finite in float32, too."""
    return np.abs(array, dtype=float) <= UNBOUNDED


def read_flag(name: str, value: Any) -> bool:
    """Returns a flag of a step; 0 and 1 count as flags.

    Raises:
        InvalidPlugin: It is something else, such as the text "False", which Python takes for true.
    """
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "biuf" or array not in (0, 1):
        raise InvalidPlugin(f"{name} is {value!r:.80}; it must be True or False")
    return bool(array)


def read_array(obs: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an observation.

    Raises:
        InvalidPlugin: It has another shape, is not of real numbers, or is not finite in float32,
            in which it is kept.
    """
    array = np.asarray(obs)
    if array.shape != shape:
        raise InvalidPlugin(f"the observation has the shape {array.shape}; the space has {shape}")
    if array.dtype.kind not in "biuf":
        raise InvalidPlugin(f"the observation is of type {array.dtype}; it must hold real numbers")
    finite = np.isfinite(array)
    if not finite.all():
        first = int(np.argmin(finite))
        raise InvalidPlugin(f"obs[{first}] is {array[first]}; observations must be finite")
    fits = _fits(array)
    if not fits.all():
        first = int(np.argmin(fits))
        hint = f"observations must be at most {UNBOUNDED:.2g}"
        raise InvalidPlugin(f"obs[{first}] is {array[first]}; {hint}")
    return array


def check_bounds(name: str, low: np.ndarray, high: np.ndarray) -> None:
    """Checks the ends (n,), (n,) of a space.

    Raises:
        InvalidPlugin: There are none, one is NaN, or a lower end is above the upper one.
    """
    if not low.size:
        raise InvalidPlugin(f"{name} is empty; it must have at least one number")
    wrong = ~(low <= high)  # also NaN
    if wrong.any():
        i = int(np.argmax(wrong))
        raise InvalidPlugin(f"{name} has the bounds [{low[i]:g}, {high[i]:g}] at index {i}")
