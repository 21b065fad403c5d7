"""Settings of the learner that adapts by a Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require
from metarl.core.ranges import require_range
from metarl.learners.ppo_settings import check_noise, check_ppo


@dataclass(frozen=True)
class GpConfig:
    """Settings of the learner that adapts by a Gaussian process."""

    choice: Literal["thompson", "mean"] = "mean"
    """Latent of the next episodes: the best one of the posterior's mean (mean), or of a function
    drawn from the posterior, anew for every episode (thompson), which goes on to search."""

    num_candidates: int = 256
    """Latents among which it chooses: those of the last training tasks, >= 1."""

    probe_every: int = 5
    """One of so many training episodes is played with another task's latent, >= 2, and one of each
    rollout with fewer episodes; the kernel learns from it, and the policy does not."""

    kernel_lr: float = 3e-2
    """Step size of Adam for the kernel's parameters, > 0."""

    kernel_steps: int = 20
    """Steps of the kernel in an update, >= 1."""

    hidden_size: int = 64
    """Units of each of the two tanh layers of actor and critic, >= 1."""

    lr: float = 1e-3
    """Step size of Adam for actor and critic, > 0."""

    target_kl: float = 0.01
    """KL divergence of a pass of PPO [nats], >= 0, that the step size aims at; 0 keeps lr."""

    epochs: int = 5
    """Passes of PPO over the experience of an iteration, >= 1."""

    minibatches: int = 4
    """Minibatches of steps in a pass, >= 1."""

    clip: float = 0.2
    """Half width of the clipping interval of the probability ratio, > 0."""

    max_gradient: float = 1.0
    """Longer gradients are scaled down to this norm, > 0."""

    value_weight: float = 0.5
    """Weight of the value's squared error [in variances of the returns], >= 0."""

    entropy_weight: float = 0.0
    """Weight of the policy's entropy [1 / nats], >= 0."""

    discount: float = 0.99
    """Discount gamma of one environment step, in [0, 1]."""

    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, in [0, 1]."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units], >= min_log_std."""

    min_log_std: float = -3.0
    """Lower bound on the log of the action noise [log of policy output units], in [-20, 20]."""

    def require_tasks(self, num_tasks: int, train_tasks: int) -> None:
        """Requires tasks whose numbers differ, for the probes and as candidates.

        Args:
            num_tasks: N.
            train_tasks: Size of the fixed set of training tasks; 0 if there is none.

        Raises:
            ConfigError: There is one task.
        """
        hint = "at least 2 for gp, which learns from episodes with the numbers of another task"
        require(num_tasks > 1, "--sampler.num-tasks", num_tasks, hint)
        require(train_tasks != 1, "--sampler.train-tasks", train_tasks, hint)

    def __post_init__(self) -> None:
        """Checks the ranges above.

        Raises:
            ConfigError: Names the field, its value and what it must be.
        """
        known = self.choice in ("thompson", "mean")
        require(known, "learner.choice", self.choice, "thompson or mean")
        for hint, names in (
            ("at least 1", ("num_candidates", "kernel_steps", "hidden_size", "probe_every")),
            ("a finite number > 0", ("kernel_lr",)),
        ):
            require_range(self, "learner", names, hint)
        require(self.probe_every >= 2, "learner.probe_every", self.probe_every, "at least 2")
        most = 4096
        hint = f"at most {most}: the posterior takes its cube of operations"
        ok = self.num_candidates <= most
        require(ok, "learner.num_candidates", self.num_candidates, hint)
        check_ppo(self)
        check_noise(self)
