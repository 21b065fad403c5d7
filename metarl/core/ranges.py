"""Checks of a config: ranges of its numbers, and conditions under which settings have an effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

from metarl.core.errors import require

LARGEST = 1e30
"""Largest absolute value of a setting; torch computes in float32, which ends at 3.4e38."""

LARGEST_SIZE = 100_000
"""Most units of a layer or a memory; a square matrix of as many has 40 GB."""

LARGEST_COUNT = 1_000_000_000
"""Largest whole number of anything else that is counted."""

MOST_TASKS, MOST_ADAPTATIONS = 1_000_000, 10_000
"""Most tasks of an evaluation, and most adaptations of a trial."""

LARGEST_SEED = 2**64 - 1
"""Largest key of random numbers."""

MOST_THREADS = 4096
"""Most threads of an environment."""

RANGES = {
    "a finite number": math.isfinite,
    "a finite number > 0": lambda x: 0 < x < math.inf,
    "a finite number > 0, at least 1e-30": lambda x: 1e-30 <= x < math.inf,
    "a finite number >= 0": lambda x: 0 <= x < math.inf,
    "in [-20, 20]": lambda x: -20 <= x <= 20,
    "in [0, 1]": lambda x: 0 <= x <= 1,
    "in (0, 1]": lambda x: 0 < x <= 1,
    "in (0, 1)": lambda x: 0 < x < 1,
    "at least 0": lambda x: x >= 0,
    "at least 1": lambda x: x >= 1,
}
"""Tests by the words that say in a message what a value must be.

Settings whose logarithm or reciprocal is taken are at least 1e-30: in float32 1e-50 is zero.
"""


def require_range(config: object, group: str, names: Iterable[str], hint: str) -> None:
    """Raises if a field of a config is outside a range.

    Args:
        config: A dataclass.
        group: Put before the name of the field, for example "learner".
        names: Fields.
        hint: A key of RANGES.

    Raises:
        ConfigError: Names the first such field, its value and the range.
    """
    for name in names:
        value = read_field(config, name)
        require(RANGES[hint](value), f"{group}.{name}", value, hint)
        if hint in ("at least 0", "at least 1"):
            require_at_most(f"{group}.{name}", value)
        is_small = abs(value) <= LARGEST
        require(is_small, f"{group}.{name}", value, f"at most {LARGEST:g} in absolute value")


def require_at_most(field: str, value: int) -> None:
    """Raises if a whole number is above LARGEST_SIZE, for a field `..._size(s)`, or LARGEST_COUNT.

    Raises:
        ConfigError: Names field, value and limit.
    """
    largest = LARGEST_SIZE if field.endswith(("_size", "_sizes")) else LARGEST_COUNT
    require(value <= largest, field, value, f"at most {largest:,}")


def require_count(field: str, value: Any, low: int, high: int) -> None:
    """Raises if a value is no whole number of a range.

    Raises:
        ConfigError: Names field, value and limit.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    require(is_whole, field, value, "a whole number")
    require(value >= low, field, value, f"at least {low}")
    require(value <= high, field, value, f"at most {high:,}")


def require_seed(value: Any, field: str = "seed") -> None:
    """Raises ConfigError if a value is no seed, of which a stream would silently make another."""
    require_count(field, value, 0, LARGEST_SEED)


def require_between(group: str, config: object, ranges: Mapping[str, tuple[int, int]]) -> None:
    """Raises if a whole number of a config is outside its range.

    Args:
        group: Put before the name of the field, for example "sampler.".
        config: A dataclass.
        ranges: Smallest and largest value of each field.

    Raises:
        ConfigError: Names the first such field, its value and the limit.
    """
    for name, (low, high) in ranges.items():
        value = read_field(config, name)
        require(value >= low, group + name, value, f"at least {low}")
        require(value <= high, group + name, value, f"at most {high:,}")


def read_field(config: object, name: str) -> Any:
    """Returns the value of a field of a dataclass.

    `getattr`, because the settings of a plug-in may have slots, and then have no `__dict__`.
    """
    return getattr(config, name)


# --- settings that other settings make meaningless ------------------------------------------------


@dataclass(frozen=True)
class Need:
    """Settings that have an effect only with certain values of others.

    A class of settings declares its own in a tuple `NEEDS`.

    Attributes:
        names: The settings, dotted where they are in a group of the declaring class.
        others: Those on which they depend; one of them must have such a value. One that the
            settings at hand lack does not matter.
        values: Values that give an effect; empty stands for all but `besides`.
        besides: Values that give none.
        always: Values of the named settings that have an effect in any case.
    """

    names: tuple[str, ...]
    others: tuple[str, ...]
    values: tuple[Any, ...] = ()
    besides: tuple[Any, ...] = ()
    always: tuple[Any, ...] = ()

    def is_met(self, settings: Mapping[str, Any], value: Any) -> bool:
        """Returns whether a value of a named setting has an effect.

        Args:
            settings: All settings by their dotted names.
            value: Of one of the named ones.
        """
        found = [settings[other] for other in self.others if other in settings]
        return value in self.always or not found or any(map(self._fits, found))

    def describe(self, settings: Mapping[str, Any], spell: Callable[[str], str] = str) -> str:
        """Says what is missing; `spell` turns a dotted name into the form of the message."""
        names = " or ".join(map(spell, self.others))
        if None in self.besides:
            return f"without {names}"
        values = " or ".join(map(str, self.values)) or f"other than {self.besides[0]}"
        found = settings[self.others[0]]
        return f"with {spell(self.others[0])} {found}; it needs {names} {values}"

    def _fits(self, value: Any) -> bool:
        return value in self.values if self.values else value not in self.besides


@runtime_checkable
class HasNeeds(Protocol):
    """Settings of which some have an effect only with certain values of others."""

    @property
    def NEEDS(self) -> tuple[Need, ...]:  # noqa: N802
        """Their conditions, with names as in the class."""
