"""Settings of MAML-TRPO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require


@dataclass(frozen=True)
class MamlTrpoConfig:
    """Settings of MAML-TRPO."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden tanh layer, at least one layer (Finn et al. 2017 use 100 100)."""

    inner_lr: float = 0.1
    """Step size alpha of the adaptation, > 0 [parameter units per unit gradient] (Finn et al. 2017)."""

    later_lr: float = 0.5
    """Factor on inner_lr from the second step of a trial on, > 0. Advantages are standardised, so a step does not get
    shorter by itself as the policy gets better (Finn et al. 2017 halve it)."""

    later_decay: float = 1.0
    """Factor from each later step to the one after it, in (0, 1]; 1 keeps them equal. Where the sign of the error steers
    and not its size, steps of equal length end up about half a step away on either side; shrinking ones close in."""

    surrogate: Literal["lvc", "loglik", "dice"] = "lvc"
    """Inner loss: likelihood ratio (ProMP, Rothfuss et al. 2019), plain log-likelihood, or DiCE (Foerster et al. 2018)."""

    first_order: bool = False
    """Leave out the derivative of the inner step: first-order MAML."""

    max_kl: float = 0.01
    """Trust region: mean KL divergence after one update, > 0 [nats] (Finn et al. 2017)."""

    kl_halving: int = 0
    """Updates after which max_kl has half its size, again and again; 0 keeps it. Large steps learn fast while the
    meta-gradient is strong; later its noise makes them a random walk."""

    cg_iterations: int = 10
    """Conjugate-gradient iterations for the natural step, >= 1 (Schulman et al. 2015)."""

    cg_damping: float = 0.1
    """Added to the diagonal of the curvature, >= 0 (sb3-contrib's TRPO). Less lets a curvature of few states fit their noise."""

    curvature_fraction: float = 0.25
    """Share of the states that the curvature product reads, in (0, 1]. With the damping 0.1 a quarter learns as all do (README)."""

    line_search_steps: int = 15
    """Most step sizes that the backtracking line search tries, >= 1."""

    line_search_decay: float = 0.8
    """Factor from one step size of the line search to the next, in (0, 1)."""

    discount: float = 0.99
    """Discount gamma of one environment step, in [0, 1]."""

    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation, in [0, 1]; 1 is return minus baseline."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units], >= min_log_std."""

    output_gain: float = 1.0
    """Factor on the first weights of the last layer, > 0; small ones start near the action zero."""

    min_log_std: float = -3.0
    """Lower bound on the log of the action noise [log of policy output units]."""

    normalize_obs: bool = False
    """Scale observations to mean 0 and variance 1 by what was seen so far, frozen within an iteration."""

    task_chunk: int = 0
    """Tasks processed at once in the update; 0 means one at a time on a CPU and all on a GPU."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above.

        Raises:
            ConfigError: Names the field, its value and the cure.
        """

        def check(name: str, ok: bool, cure: str) -> None:
            require(ok, f"learner.{name}", getattr(self, name), cure)

        sizes = self.hidden_sizes
        check("hidden_sizes", len(sizes) > 0 and min(sizes, default=0) >= 1, "numbers >= 1")
        for name in ("inner_lr", "later_lr", "max_kl", "output_gain"):
            check(name, 0 < getattr(self, name) < math.inf, "a finite number > 0")
        check("cg_damping", 0 <= self.cg_damping < math.inf, "a finite number >= 0")
        check("later_decay", 0 < self.later_decay <= 1, "in (0, 1]")
        check("curvature_fraction", 0 < self.curvature_fraction <= 1, "in (0, 1]")
        check("line_search_decay", 0 < self.line_search_decay < 1, "in (0, 1)")
        for name in ("discount", "gae_lambda"):
            check(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("cg_iterations", "line_search_steps"):
            check(name, getattr(self, name) >= 1, "at least 1")
        check("min_log_std", math.isfinite(self.min_log_std), "a finite number")
        low = self.min_log_std
        ok = low <= self.initial_log_std < math.inf
        check("initial_log_std", ok, f"finite and >= learner.min_log_std = {low}")
        check("kl_halving", self.kl_halving >= 0, "at least 0")
        check("task_chunk", self.task_chunk >= 0, "at least 0")
