"""Settings of the metric-based learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require
from metarl.core.ranges import Need, require_range
from metarl.learners.ppo_settings import check_noise, check_ppo


@dataclass(frozen=True)
class MetricConfig:
    """Settings of the metric-based learner."""

    loss: Literal["prototypical", "siamese"] = "prototypical"
    """Loss of the encoder: tell the task of a set of transitions among those of the meta-batch
    (prototypical; Snell et al. 2017), or pull sets of one task together and push others apart
    (siamese; FOCAL, Li et al. 2021)."""

    embedding_size: int = 16
    """Numbers of an embedding, >= 1."""

    encoder_size: int = 64
    """Units of each of the encoder's two tanh layers, >= 1."""

    encoder_lr: float = 1e-3
    """First step size of Adam for the encoder, > 0."""

    encoder_halving: int = 30
    """Updates in which the encoder's step size falls to half, continuously, >= 0; 0 keeps it. A
    policy follows embeddings that hardly change (FOCAL trains the encoder first)."""

    encoder_steps: int = 20
    """Steps of the encoder in an update, >= 1."""

    set_size: int = 64
    """Transitions in a set whose mean embedding is compared, >= 1."""

    temperature: float = 1.0
    """Squared distance that changes the odds of two tasks by a factor of e, > 0 (prototypical)."""

    repulsion: float = 1.0
    """Weight of the term that pushes other tasks apart, >= 0 (siamese; beta of FOCAL)."""

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

    NEEDS = (
        Need(("temperature",), ("loss",), ("prototypical",)),
        Need(("repulsion",), ("loss",), ("siamese",)),
    )
    """Settings that others make meaningless."""

    def require_sets(
        self, num_tasks: int, num_episodes: int, num_adaptations: int, train_tasks: int = 0
    ) -> None:
        """Requires tasks to tell apart, and two episodes of each.

        Args:
            num_tasks: N.
            num_episodes: E.
            num_adaptations: K.
            train_tasks: Size of the fixed set of training tasks; 0 if there is none.

        Raises:
            ConfigError: There is one task, or one episode.
        """
        hint = "at least 2 for metric, whose encoder learns to tell tasks apart"
        require(num_tasks > 1, "--sampler.num-tasks", num_tasks, hint)
        require(train_tasks != 1, "--sampler.train-tasks", train_tasks, hint)
        hint = "at least 2 for metric without adaptations: the encoder compares two episodes"
        is_enough = num_episodes * (num_adaptations + 1) > 1
        require(is_enough, "--sampler.num-episodes", num_episodes, hint)

    def __post_init__(self) -> None:
        """Checks the ranges above.

        Raises:
            ConfigError: Names the field, its value and what it must be.
        """
        known = self.loss in ("prototypical", "siamese")
        require(known, "learner.loss", self.loss, "prototypical or siamese")
        sizes = ("embedding_size", "encoder_size", "hidden_size")
        for hint, names in (
            ("at least 0", ("encoder_halving",)),
            ("at least 1", (*sizes, "encoder_steps", "set_size")),
            ("a finite number > 0", ("encoder_lr",)),
            ("a finite number > 0, at least 1e-30", ("temperature",)),
            ("a finite number >= 0", ("repulsion",)),
        ):
            require_range(self, "learner", names, hint)
        check_ppo(self)
        check_noise(self)
