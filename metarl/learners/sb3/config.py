"""Settings of the baselines, without torch: `--help` reads them and must answer at once.

Unless stated otherwise, a default is that of Stable-Baselines3 (SB3) or sb3-contrib. The sampler's
settings decide how much an iteration collects, as for every learner: N tasks x E episodes x K + 1
rollouts of whole episodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require
from metarl.core.ranges import require_at_most, require_range

Mode = Literal["scratch", "oracle", "multi-task"]


@dataclass(frozen=True)
class Sb3PpoConfig:
    """Settings of PPO (Schulman et al. 2017) in SB3."""

    mode: Mode = "multi-task"
    """scratch: N policies, each trained from nothing on one held-out task (the cost without
    meta-learning). oracle: one policy that observes the task. multi-task: one policy for all tasks
    that cannot tell them apart (the reference without adaptation)."""

    normalize: bool = False
    """Standardise observations and scale rewards by running statistics (VecNormalize)."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden tanh layer of the policy, and of the value function."""

    learning_rate: float = 3e-4
    """Step size of Adam, > 0."""

    epochs: int = 10
    """Passes over an iteration's experience, >= 1."""

    minibatches: int = 32
    """Minibatches in a pass, >= 1 (32 is a batch of 64 out of 2,048 steps, SB3's defaults)."""

    clip: float = 0.2
    """Largest |ratio - 1| that the surrogate rewards, > 0."""

    target_kl: float = 0.0
    """An update stops early at 1.5 times this approximate KL divergence [nats]; 0 never stops."""

    discount: float = 0.99
    """Discount gamma of one environment step, in [0, 1]."""

    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, in [0, 1]."""

    entropy_weight: float = 0.0
    """Weight of the entropy bonus, >= 0."""

    value_weight: float = 0.5
    """Weight of the value function's loss, >= 0."""

    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm, > 0."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units]."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above, naming the field."""
        _check_sizes(self, "hidden_sizes")
        require_range(
            self, "learner", ("learning_rate", "clip", "max_grad_norm"), "a finite number > 0"
        )
        require_range(
            self, "learner", ("target_kl", "entropy_weight", "value_weight"), "a finite number >= 0"
        )
        require_range(self, "learner", ("discount", "gae_lambda"), "in [0, 1]")
        require_range(self, "learner", ("epochs", "minibatches"), "at least 1")
        require_range(self, "learner", ("initial_log_std",), "in [-20, 20]")


@dataclass(frozen=True)
class Sb3TrpoConfig:
    """Settings of TRPO (Schulman et al. 2015) in sb3-contrib."""

    mode: Mode = "multi-task"
    """scratch: N policies, each trained from nothing on one held-out task (the cost without
    meta-learning). oracle: one policy that observes the task. multi-task: one policy for all tasks
    that cannot tell them apart (the reference without adaptation)."""

    normalize: bool = False
    """Standardise observations and scale rewards by running statistics (VecNormalize)."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden tanh layer of the policy, and of the value function."""

    max_kl: float = 0.01
    """Trust region: mean KL divergence after one update, > 0 [nats]."""

    cg_iterations: int = 15
    """Most conjugate-gradient iterations for the natural step, >= 1."""

    cg_damping: float = 0.1
    """Added to the diagonal of the curvature, >= 0."""

    line_search_steps: int = 10
    """Most step sizes that the backtracking line search tries, >= 1."""

    line_search_decay: float = 0.8
    """Factor from one step size of the line search to the next, in (0, 1)."""

    learning_rate: float = 1e-3
    """Step size of Adam for the value function, > 0."""

    epochs: int = 10
    """Passes of the value function over an iteration's experience, >= 1."""

    minibatches: int = 16
    """Minibatches in a pass, >= 1 (16 is a batch of 128 out of 2,048 steps, SB3's defaults)."""

    discount: float = 0.99
    """Discount gamma of one environment step, in [0, 1]."""

    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, in [0, 1]."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units]."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above, naming the field."""
        _check_sizes(self, "hidden_sizes")
        require_range(self, "learner", ("learning_rate", "max_kl"), "a finite number > 0")
        require_range(self, "learner", ("cg_damping",), "a finite number >= 0")
        require_range(self, "learner", ("discount", "gae_lambda"), "in [0, 1]")
        require_range(self, "learner", ("line_search_decay",), "in (0, 1)")
        counts = ("epochs", "minibatches", "cg_iterations", "line_search_steps")
        require_range(self, "learner", counts, "at least 1")
        require_range(self, "learner", ("initial_log_std",), "in [-20, 20]")


@dataclass(frozen=True)
class Sb3Rl2Config:
    """Settings of RL^2 (Duan et al. 2016) as recurrent PPO of sb3-contrib over trials."""

    lstm_size: int = 128
    """Units of the LSTM of the policy, and of that of the value function, >= 1."""

    hidden_sizes: tuple[int, ...] = ()
    """Units of each tanh layer between LSTM and output."""

    scale_rewards: bool = False
    """Learn from rewards scaled by running statistics (VecNormalize); the previous reward as an
    input stays raw."""

    learning_rate: float = 3e-4
    """Step size of Adam, > 0."""

    epochs: int = 10
    """Passes over an iteration's experience, >= 1."""

    minibatches: int = 8
    """Minibatches in a pass, >= 1; a trial at a border is cut, and its second half starts from the
    stored memory state."""

    clip: float = 0.2
    """Largest |ratio - 1| that the surrogate rewards, > 0."""

    target_kl: float = 0.0
    """An update stops early at 1.5 times this approximate KL divergence [nats]; 0 never stops."""

    discount: float = 0.99
    """Discount gamma of one environment step, in [0, 1]; it ignores the ends of episodes within a
    trial."""

    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation over the whole trial, in [0, 1]."""

    entropy_weight: float = 0.0
    """Weight of the entropy bonus, >= 0."""

    value_weight: float = 0.5
    """Weight of the value function's loss, >= 0."""

    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm, > 0."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units]."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above, naming the field."""
        _check_sizes(self, "hidden_sizes")
        require_range(
            self, "learner", ("learning_rate", "clip", "max_grad_norm"), "a finite number > 0"
        )
        require_range(
            self, "learner", ("target_kl", "entropy_weight", "value_weight"), "a finite number >= 0"
        )
        require_range(self, "learner", ("discount", "gae_lambda"), "in [0, 1]")
        require_range(self, "learner", ("epochs", "minibatches", "lstm_size"), "at least 1")
        require_range(self, "learner", ("initial_log_std",), "in [-20, 20]")


def _check_sizes(config: object, name: str) -> None:
    sizes = vars(config)[name]
    require(min(sizes, default=1) >= 1, f"learner.{name}", sizes, "numbers >= 1")
    require_at_most(f"learner.{name}", max(sizes, default=1))


Sb3Config = Sb3PpoConfig | Sb3TrpoConfig | Sb3Rl2Config
"""Settings of any of the baselines."""
