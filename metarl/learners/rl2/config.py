"""Settings of RL^2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require


@dataclass(frozen=True)
class Rl2Config:
    """Settings of RL^2."""

    memory: Literal["gru", "lstm", "transformer"] = "gru"
    """What lives through the trial: a gated recurrent unit, a long short-term memory, or causal attention."""

    memory_size: int = 128
    """Units of the memory, >= 1 (VariBAD's RL^2); for a transformer a multiple of its 4 heads."""

    value_memory: Literal["shared", "own"] = "shared"
    """Whether the value reads the policy's memory or has one of its own, of the same kind and size. Its loss then no longer
    shapes what the policy remembers; an update takes up to twice the time, acting the same. On navigation-2d it explained more of
    the returns, 0.82 instead of 0.77 at 0.6 M steps, and the policy learned no faster (one seed)."""

    hidden_size: int = 64
    """Units of the tanh layers between memory and action, and memory and value, >= 1."""

    lr: float = 1e-3
    """Step size of Adam, > 0 (ProMP's RL^2)."""

    epochs: int = 5
    """Passes over the trials of an iteration, >= 1 (ProMP's RL^2)."""

    minibatches: int = 4
    """Minibatches of whole trials in a pass, >= 1."""

    clip: float = 0.2
    """Half width of the interval of the probability ratio, > 0 (Schulman et al. 2017)."""

    max_kl: float = 0.0
    """Divergence from the policy that acted after which no further pass is made [nats]; 0 makes all passes, for 0.03 ended
    most updates of navigation-2d after one or two."""

    max_gradient: float = 1.0
    """Longer gradients are shortened to this norm, > 0."""

    value_weight: float = 0.5
    """Weight of the value's squared error [in variances of the returns], >= 0."""

    entropy_weight: float = 0.0
    """Weight of the policy's entropy [1 / nats], >= 0."""

    discount: float = 0.99
    """Discount gamma of one environment step, through the ends of episodes, in [0, 1]."""

    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation over the trial, in [0, 1]."""

    truncation: int = 0
    """Steps that gradients go back in time; 0 takes the whole trial."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units], >= min_log_std. No more than the log of the range to
    which an environment clips actions: larger noise makes means far outside it pay, where neither mean nor noise still learns."""

    min_log_std: float = -3.0
    """Lower bound on the log of the action noise [log of policy output units]."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above.

        Raises:
            ConfigError: Names the field, its value and the cure.
        """

        def check(name: str, ok: bool, cure: str) -> None:
            require(ok, f"learner.{name}", getattr(self, name), cure)

        check("memory", self.memory in ("gru", "lstm", "transformer"), "gru, lstm or transformer")
        for name in ("memory_size", "hidden_size", "epochs", "minibatches"):
            check(name, getattr(self, name) >= 1, "at least 1")
        check("value_memory", self.value_memory in ("shared", "own"), "shared or own")
        attends = self.memory == "transformer"
        check("memory_size", not attends or self.memory_size % 4 == 0, "a multiple of 4 heads")
        check("truncation", self.truncation >= 0, "at least 0")
        check("truncation", not (attends and self.truncation), "0: attention is never truncated")
        for name in ("lr", "clip", "max_gradient"):
            check(name, 0 < getattr(self, name) < math.inf, "a finite number > 0")
        for name in ("max_kl", "value_weight", "entropy_weight"):
            check(name, 0 <= getattr(self, name) < math.inf, "a finite number >= 0")
        for name in ("discount", "gae_lambda"):
            check(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        check("min_log_std", math.isfinite(self.min_log_std), "a finite number")
        low = self.min_log_std
        ok = low <= self.initial_log_std < math.inf
        check("initial_log_std", ok, f"finite and >= learner.min_log_std = {low}")
