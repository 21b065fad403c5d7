"""Settings of Bayesian MAML."""

from __future__ import annotations

from dataclasses import dataclass

from metarl.core.errors import require
from metarl.core.ranges import Need, require_at_most, require_range
from metarl.learners.ppo_settings import check_noise


@dataclass(frozen=True)
class BmamlConfig:
    """Settings of Bayesian MAML."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each tanh layer of a particle's network, each >= 1."""

    num_particles: int = 4
    """Particles, >= 1; episode e of a task is played by particle e modulo their number, so there
    should be at least as many episodes. One particle is first-order MAML with Adam."""

    inner_lr: float = 0.2
    """Step size of the adaptation, > 0. With P particles a step is about 2 / P as long as the
    gradient, because the kernel averages over them."""

    repulsion: float = 1e-3
    """Weight 1 / M of the term that keeps particles apart in a step, >= 1e-30: the temperature of
    the distribution of parameters, whose log-density is the surrogate return over it."""

    outer_lr: float = 1e-3
    """Step size of Adam for the first particles, > 0."""

    outer_epochs: int = 5
    """Steps of Adam in an update, each from particles adapted anew, >= 1."""

    clip: float = 0.3
    """Half width of the clipping interval of the ratio after adaptation, > 0."""

    discount: float = 0.99
    """Discount gamma of one environment step, in [0, 1]."""

    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation, in [0, 1]; 1 is return minus baseline."""

    output_gain: float = 1.0
    """Factor on the initial weights of the last layer, > 0; small values start with actions near
    zero."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units], >= min_log_std."""

    min_log_std: float = -3.0
    """Lower bound on the log of the action noise [log of policy output units], in [-20, 20]."""

    normalize_obs: bool = False
    """Scale observations to mean 0 and variance 1 by running statistics, which change only between
    iterations. The first iteration measures the scale and leaves the particles as they are."""

    NEEDS = (Need(("repulsion",), ("num_particles",), besides=(1,)),)
    """Settings that others make meaningless."""

    def __post_init__(self) -> None:
        """Checks the ranges above.

        Raises:
            ConfigError: Names the field, its value and what it must be.
        """
        sizes = self.hidden_sizes
        ok = min(sizes, default=0) >= 1
        require(ok, "learner.hidden_sizes", sizes, "numbers >= 1, at least one")
        require_at_most("learner.hidden_sizes", max(sizes))
        for hint, names in (
            ("at least 1", ("num_particles", "outer_epochs")),
            ("a finite number > 0", ("inner_lr", "outer_lr", "clip", "output_gain")),
            ("a finite number > 0, at least 1e-30", ("repulsion",)),
            ("in [0, 1]", ("discount", "gae_lambda")),
        ):
            require_range(self, "learner", names, hint)
        require(self.num_particles <= 1000, "learner.num_particles", self.num_particles, "<= 1000")
        check_noise(self)
