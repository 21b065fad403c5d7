"""Settings of GrBAL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require
from metarl.core.ranges import Need, require_at_most, require_range


@dataclass(frozen=True)
class GrbalConfig:
    """Settings of GrBAL; those of Nagabandi et al. 2019 stand in docs/algorithms.md."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each tanh layer of the dynamics model, each >= 1."""

    past_steps: int = 16
    """Last transitions from which the model takes its gradient step, M, >= 1."""

    future_steps: int = 16
    """Transitions after them that the adapted model learns to predict, K, >= 1."""

    inner_lr: float = 0.01
    """Step size of the adaptation, > 0; with learn_rates at the start of the training."""

    learn_rates: bool = True
    """Learn the step size of each weight matrix and bias; otherwise it stays inner_lr."""

    reward_weight: float = 1.0
    """Weight of the reward's squared error beside the mean one of the observation's numbers, > 0;
    both in variances."""

    lr: float = 1e-3
    """Step size of Adam, > 0."""

    gradient_steps: int = 100
    """Steps of Adam in an iteration, >= 1."""

    batch_size: int = 64
    """Places in the replay store at which a step of Adam adapts the model, >= 1."""

    replay_steps: int = 1_000_000
    """Newest transitions from which the places are drawn, >= 1."""

    max_gradient: float = 10.0
    """Longer gradients are scaled down to this norm, > 0."""

    planner: Literal["mppi", "cem", "shooting"] = "mppi"
    """mppi: mean of all candidates, weighted by their returns. cem: mean and spread of the best,
    several times. shooting: the best candidate."""

    plan_steps: int = 10
    """Steps that the planner looks ahead, >= 1."""

    candidates: int = 64
    """Sequences of actions that the planner compares, >= 4 and even."""

    plan_rounds: int = 1
    """Times that the planner moves the candidates to the better ones, >= 1."""

    plan_std: float = 0.5
    """Standard deviation of the candidates' actions [action bounds], > 0."""

    plan_correlation: float = 0.5
    """Correlation of a candidate's noise in neighbouring steps, in [0, 1)."""

    temperature: float = 0.1
    """Temperature of the weights of mppi [standard deviations of the candidates' returns], > 0."""

    elite_fraction: float = 0.125
    """Share of the candidates that cem keeps, in (0, 1]."""

    action_bound: float = 1.0
    """Largest absolute value of an action, > 0 [policy output units]; the bound at
    which the environment clips them too."""

    exploration_std: float = 0.1
    """Standard deviation of the noise on the planned action in training [action bounds], > 0. In
    the first iteration, without a model, actions are noise of standard deviation 1 alone."""

    NEEDS = (
        Need(("temperature",), ("planner",), ("mppi",)),
        Need(("elite_fraction",), ("planner",), ("cem",)),
    )
    """Settings that others make meaningless."""

    def __post_init__(self) -> None:
        """Checks the ranges above.

        Raises:
            ConfigError: Names the field, its value and what it must be.
        """
        sizes = self.hidden_sizes
        require(min(sizes, default=1) >= 1, "learner.hidden_sizes", list(sizes), "each at least 1")
        require_at_most("learner.hidden_sizes", max(sizes, default=1))
        known = self.planner in ("mppi", "cem", "shooting")
        require(known, "learner.planner", self.planner, "mppi, cem or shooting")
        counts = ("past_steps", "future_steps", "gradient_steps", "batch_size", "replay_steps")
        widths = ("plan_std", "temperature", "action_bound", "exploration_std")
        for hint, names in (
            ("at least 1", (*counts, "plan_steps", "candidates", "plan_rounds")),
            ("a finite number > 0", ("reward_weight", "lr", "max_gradient")),
            ("a finite number > 0, at least 1e-30", ("inner_lr", *widths)),
            ("in (0, 1]", ("elite_fraction",)),
        ):
            require_range(self, "learner", names, hint)
        number = self.candidates
        is_even = number >= 4 and number % 2 == 0
        require(is_even, "learner.candidates", number, "even, and at least 4")
        correlation = self.plan_correlation
        require(0 <= correlation < 1, "learner.plan_correlation", correlation, "in [0, 1)")
