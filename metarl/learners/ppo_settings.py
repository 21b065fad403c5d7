"""Settings that learners with PPO on single steps have in common, without torch."""

from __future__ import annotations

import math
from typing import Protocol

from metarl.core.errors import require
from metarl.core.ranges import require_range


class PpoSettings(Protocol):
    """Settings of PPO; each learner's config documents them."""

    @property
    def lr(self) -> float: ...  # noqa: D102

    @property
    def target_kl(self) -> float: ...  # noqa: D102

    @property
    def epochs(self) -> int: ...  # noqa: D102

    @property
    def minibatches(self) -> int: ...  # noqa: D102

    @property
    def clip(self) -> float: ...  # noqa: D102

    @property
    def max_gradient(self) -> float: ...  # noqa: D102

    @property
    def value_weight(self) -> float: ...  # noqa: D102

    @property
    def entropy_weight(self) -> float: ...  # noqa: D102

    @property
    def discount(self) -> float: ...  # noqa: D102

    @property
    def gae_lambda(self) -> float: ...  # noqa: D102


class NoiseSettings(Protocol):
    """Settings of the action noise."""

    @property
    def initial_log_std(self) -> float: ...  # noqa: D102

    @property
    def min_log_std(self) -> float: ...  # noqa: D102


def check_ppo(config: PpoSettings) -> None:
    """Checks the settings of PPO.

    Raises:
        ConfigError: Names the field, its value and what it must be.
    """
    for hint, names in (
        ("at least 1", ("epochs", "minibatches")),
        ("a finite number > 0", ("lr", "clip", "max_gradient")),
        ("a finite number >= 0", ("target_kl", "value_weight", "entropy_weight")),
        ("in [0, 1]", ("discount", "gae_lambda")),
    ):
        require_range(config, "learner", names, hint)


def check_noise(config: NoiseSettings) -> None:
    """Checks the action noise at the start. Beyond 20 its square or density overflows in float32.

    Raises:
        ConfigError: Names the field, its value and what it must be.
    """
    require_range(config, "learner", ("min_log_std",), "in [-20, 20]")
    low, value = config.min_log_std, config.initial_log_std
    hint = f"finite and >= learner.min_log_std = {low}"
    require(low <= value < math.inf, "learner.initial_log_std", value, hint)
    require_range(config, "learner", ("initial_log_std",), "in [-20, 20]")
