"""Guesses of the keys of a robot's file, and the file with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metarl.core.machine.yaml_files import dump_yaml

IN_ONE_LINE = ("health", "physics")
"""Keys whose mapping stands in one line of the file."""


@dataclass(frozen=True)
class Guess:
    """A key of the file.

    Attributes:
        key: Its name.
        value: Its value, as YAML takes it.
        reason: Where the value comes from.
        comments: Meaning of the lines of a mapping, by their keys.
    """

    key: str
    value: Any
    reason: str
    comments: Mapping[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The value in a few words."""
        if self.key == "feet":
            return ", ".join(self.value) or "none"
        if isinstance(self.value, list):
            return f"{len(self.value)} numbers"
        if isinstance(self.value, dict) and self.key not in IN_ONE_LINE:
            return f"{len(self.value)}: {', '.join(list(self.value)[:2])}, ..."
        return _flow(self.value)


def to_yaml(guesses: Sequence[Guess], source: str) -> str:
    """Writes a robot's file with a comment on every line: its meaning, unit and reason."""
    lines = [
        f"# A robot of metarl, guessed from {source}; metarl train --env FILE:{goal_of(guesses)}"
    ]
    for guess in guesses:
        if isinstance(guess.value, dict) and guess.key not in IN_ONE_LINE:
            lines.append(f"{guess.key}: # {guess.reason}")
            for key, value in guess.value.items():
                lines.append(f"  {_flow(key)}: {_flow(value)} # {guess.comments[key]}")
        else:
            lines.append(f"{guess.key}: {_flow(guess.value)} # {guess.reason}")
    return "\n".join(lines) + "\n"


def goal_of(guesses: Sequence[Guess]) -> str:
    """Returns a goal that the robot can have."""
    is_fixed = any(guess.key == "base" and guess.value == "fixed" for guess in guesses)
    return "reach" if is_fixed else "dir"


def _flow(value: Any) -> str:
    """Writes a value in one line of YAML."""
    text = dump_yaml(value, default_flow_style=True, width=10**9)
    return text.removesuffix("...\n").strip()
