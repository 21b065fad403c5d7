"""Comparison of learners on one environment by the intervals of their mean returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from metarl.runs.reader import Group

STAGES = ("first episode", "final", "final, without noise")
"""Returns that are compared: before adaptation, after the last one, and the same without noise."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of two learners on one environment.

    Attributes:
        env: Name of the environment.
        labels: Names of the two learners.
        num_seeds: Their numbers of evaluated seeds.
        versions: Versions of the environment in their evaluations; returns on two versions cannot
            be compared.
        better: For each of STAGES, the name of the learner whose 95 % interval lies wholly above
            that of the other; "" if the intervals overlap; None if one has no interval, or the
            versions differ.
    """

    env: str
    labels: tuple[str, str]
    num_seeds: tuple[int, int]
    versions: tuple[int | None, int | None]
    better: dict[str, str | None]


def compare(groups: Sequence[Group]) -> list[Comparison]:
    """Compares each pair of evaluated groups of one environment."""
    found = []
    for one, other in combinations([group for group in groups if group.result], 2):
        if one.env != other.env:
            continue
        first, second = one.result or {}, other.result or {}
        labels = (one.label, other.label)
        versions = (first["env_version"], second["env_version"])
        intervals = zip(_select_intervals(first), _select_intervals(second), strict=True)
        verdicts = [
            _find_better(*pair, labels) if versions[0] == versions[1] else None
            for pair in intervals
        ]
        num_seeds = (len(first["seeds"]), len(second["seeds"]))
        better = dict(zip(STAGES, verdicts, strict=True))
        found.append(Comparison(one.env, labels, num_seeds, versions, better))
    return found


def _select_intervals(result: Mapping[str, Any]) -> list[Sequence[float | None]]:
    """Returns the interval of each of STAGES; its ends are None where it is not known."""
    ends = result["returns"]["ci95"]
    quiet = result.get("without_noise")
    return [ends[0], ends[-1], quiet["returns"]["ci95"][-1] if quiet else (None, None)]


def _find_better(
    one: Sequence[float | None], other: Sequence[float | None], labels: tuple[str, str]
) -> str | None:
    """Returns the name of the learner whose interval is above the other, see `Comparison`."""
    (low, high), (other_low, other_high) = one, other
    if low is None or high is None or other_low is None or other_high is None:
        return None
    if low > other_high:
        return labels[0]
    return labels[1] if other_low > high else ""
