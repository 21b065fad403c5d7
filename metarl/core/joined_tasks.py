"""Tasks of several parts, such as a goal and variations, with different names of all numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from metarl.core.tasks import Product, TaskDistribution, Variable


@dataclass(frozen=True)
class Renamed:
    """A distribution whose numbers have other names.

    Attributes:
        all: The distribution.
        names: Names of its D numbers.
    """

    all: TaskDistribution
    names: tuple[str, ...]

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The D numbers, in order."""
        pairs = zip(self.all.variables, self.names, strict=True)
        return tuple(replace(variable, name=name) for variable, name in pairs)

    @property
    def held_out(self) -> bool:
        """A test task can differ from every training task."""
        return self.all.held_out

    @property
    def test(self) -> TaskDistribution:
        """Distribution of the held-out tasks."""
        return Renamed(self.all.test, self.names)

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) [units of `variables`]."""
        return self.all.sample(rng, num_tasks)


def join_tasks(*parts: TaskDistribution, owners: Sequence[str] = ()) -> TaskDistribution:
    """Returns the product of the parts that have numbers; a single such part as it is.

    Where parts have a number of the same name, that of one part keeps it: of a part without owner,
    of the part whose owner has this name, or of the first owner in the alphabet. So it does not
    depend on their order. That of another part gets its owner's name in front: "weak limb". Within
    a part, the second one ends in 2.

    Args:
        *parts: The parts.
        owners: Name of each part, "" of one without; () is none.
    """
    names = _name_numbers(parts, owners or [""] * len(parts))
    joined = tuple(
        part if tuple(v.name for v in part.variables) == own else Renamed(part, own)
        for part, own in zip(parts, names, strict=True)
        if own
    )
    return joined[0] if len(joined) == 1 else Product(joined)


def _name_numbers(
    parts: Sequence[TaskDistribution], owners: Sequence[str]
) -> list[tuple[str, ...]]:
    """Returns different names of the numbers of each part."""
    keeper: dict[str, tuple[bool, str, int]] = {}
    for index, (part, owner) in enumerate(zip(parts, owners, strict=True)):
        for name in {v.name for v in part.variables}:
            rank = bool(owner) and owner != name, owner, index
            keeper[name] = min(rank, keeper.get(name, rank))
    taken: set[str] = set()
    found = []
    for index, (part, owner) in enumerate(zip(parts, owners, strict=True)):
        own = []
        for name in [v.name for v in part.variables]:
            base = name if keeper[name][2] == index else f"{owner} {name}".strip()
            new, number = base, 1
            while new in taken:
                number += 1
                new = f"{base} {number}"
            taken.add(new)
            own.append(new)
        found.append(tuple(own))
    return found
