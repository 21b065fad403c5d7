"""Checks that the settings of learners with a memory have in common, without torch."""

from __future__ import annotations

from typing import Protocol

from metarl.core.errors import require
from metarl.learners.ppo_settings import check_noise


class MemorySettings(Protocol):
    """Settings of a policy with a memory and with action noise."""

    @property
    def memory(self) -> str:
        """Kind of memory."""

    @property
    def memory_size(self) -> int:
        """Units of the memory."""

    @property
    def initial_log_std(self) -> float:
        """Log of the action noise at the start."""

    @property
    def min_log_std(self) -> float:
        """Lower bound on it."""


def check_memory(config: MemorySettings) -> None:
    """Checks the kind of the memory, its size, and the action noise at the start.

    Raises:
        ConfigError: Names the field, its value and what it must be.
    """
    known = config.memory in ("gru", "lstm", "mann", "mingru", "transformer")
    require(known, "learner.memory", config.memory, "gru, lstm, mann, mingru or transformer")
    if config.memory == "transformer":
        size = config.memory_size
        require(size % 4 == 0, "learner.memory_size", size, "a multiple of 4 heads")
    check_noise(config)
