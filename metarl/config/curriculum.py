"""Settings of the curriculum, which begins a training with easy tasks."""

from __future__ import annotations

from dataclasses import dataclass

from metarl.core.errors import require
from metarl.core.ranges import Need, require_range


@dataclass(frozen=True)
class CurriculumConfig:
    """Level of difficulty of the training: from 0, the easiest, to 1, all tasks."""

    success: float | None = None
    """Return of an episode from which it is a success; None is no curriculum: all tasks from the
    start. --list-envs shows reference returns."""

    start: float = 0.0
    """Level of the first iteration, in [0, 1]."""

    step: float = 0.05
    """Change of the level after an iteration, in (0, 1]."""

    raise_at: float = 0.8
    """Share of successful episodes from which the level goes up, in [0, 1]."""

    lower_below: float = 0.5
    """Share of successful episodes below which it goes down, in [0, 1], at most raise_at."""

    NEEDS = (Need(("start", "step", "raise_at", "lower_below"), ("success",), besides=(None,)),)
    """Settings that others make meaningless."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above, naming the field."""
        if self.success is not None:
            require_range(self, "curriculum", ["success"], "a finite number")
        require_range(self, "curriculum", ["start", "raise_at", "lower_below"], "in [0, 1]")
        require_range(self, "curriculum", ["step"], "in (0, 1]")
        hint = f"at most curriculum.raise_at = {self.raise_at:g}"
        is_ordered = self.lower_below <= self.raise_at
        require(is_ordered, "curriculum.lower_below", self.lower_below, hint)
