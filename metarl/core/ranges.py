"""Checks of a config's numbers against the range that the message names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from metarl.core.errors import require

LARGEST = 1e30
"""Largest absolute value of a setting; torch computes in float32, which ends at 3.4e38."""

RANGES = {
    "a finite number": math.isfinite,
    "a finite number > 0": lambda x: 0 < x < math.inf,
    "a finite number >= 0": lambda x: 0 <= x < math.inf,
    "in [0, 1]": lambda x: 0 <= x <= 1,
    "in (0, 1]": lambda x: 0 < x <= 1,
    "in (0, 1)": lambda x: 0 < x < 1,
    "at least 0": lambda x: x >= 0,
    "at least 1": lambda x: x >= 1,
}
"""Tests by the words that say in a message what a value must be."""


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
        is_small = abs(value) <= LARGEST
        require(is_small, f"{group}.{name}", value, f"at most {LARGEST:g} in absolute value")


def read_field(config: object, name: str) -> Any:
    """Returns the value of a field of a dataclass.

    `getattr`, because the settings of a plug-in may have slots, and then have no `__dict__`.
    """
    return getattr(config, name)
