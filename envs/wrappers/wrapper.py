"""Base of the wrappers of a BatchEnv: forwards what a wrapper does not change."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from metarl.core.env import supports


class Wrapper:
    """Forwards threads, reward parts, levels and the end of an environment.

    Args:
        env: The environment. It may offer more than BatchEnv; `capabilities` says what.

    Attributes:
        forwarded: The capabilities that the wrapper has where its environment has them.
    """

    forwarded: Collection[type] = ()

    def __init__(self, env: Any):
        self._env = env

    @property
    def inner(self) -> Any:
        """The environment that is wrapped."""
        return self._env

    @property
    def capabilities(self) -> Collection[type]:
        """The capabilities of the environment that the wrapper forwards."""
        return [each for each in self.forwarded if supports(self._env, each)]

    @property
    def threads(self) -> int:
        """Physics threads of the environment."""
        return self._env.threads

    @property
    def restarts(self) -> int:
        """See `HasWorkers`."""
        return self._env.restarts

    def hurry(self) -> None:
        """See `HasWorkers`."""
        self._env.hurry()

    def take_reward_sums(self) -> tuple[dict[str, np.ndarray], int]:
        """See `HasRewardTerms`."""
        return self._env.take_reward_sums()

    def distances(self) -> np.ndarray | None:
        """See `HasDistances`."""
        return self._env.distances()

    def fingerprint(self) -> str:
        """See `HasFingerprint`."""
        return self._env.fingerprint()

    @property
    def graded(self) -> tuple[str, ...]:
        """See `GradedEnv`."""
        return self._env.graded

    def set_level(self, level: float) -> None:
        """See `GradedEnv`."""
        self._env.set_level(level)

    def close(self) -> None:
        """Releases threads and memory."""
        self._env.close()
