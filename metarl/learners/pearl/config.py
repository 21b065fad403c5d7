"""Settings of PEARL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require
from metarl.core.ranges import require_at_most, require_range


@dataclass(frozen=True)
class PearlConfig:
    """Settings of PEARL."""

    latent_size: int = 5
    """Numbers that describe the task, >= 1 (Rakelly et al. 2019)."""

    hidden_sizes: tuple[int, ...] = (256, 256)
    """Units of each ReLU layer of the actor and of both critics, each >= 1."""

    encoder_sizes: tuple[int, ...] = (128, 128)
    """Units of each ReLU layer of the encoder, and of the decoder if there is one, each >= 1."""

    guess: Literal["episode", "step"] = "episode"
    """When the guess is renewed: between rollouts (episode, as published), or after every step too
    (step), so that a robot adapts within its first episode."""

    encode_next_obs: bool = True
    """The encoder reads the observation after an action too; False reads observation, action and
    reward, as published."""

    action_limit: float = 1.0
    """Actions are in (-limit, limit), > 0 [policy output units]; best as wide as what the
    environment clips to."""

    update_ratio: float = 0.2
    """Gradient steps for each environment step collected, > 0; at least one an iteration."""

    tasks_per_step: int = 16
    """Tasks in the batch of a gradient step, >= 1."""

    steps_per_task: int = 16
    """Transitions of each task in the batch of actor and critics, >= 1."""

    context_size: int = 64
    """Transitions of each task from which the encoder guesses it in training, >= 1."""

    task_memory: int = 1000
    """Newest tasks whose episodes stay in the replay buffer, >= 1."""

    recent_tasks: int = 1000
    """Newest tasks whose contexts train the encoder, >= 1; half of each batch is drawn from these,
    the other half from all tasks in the buffer."""

    kl_weight: float = 0.2
    """Weight of the KL divergence of the guess from the standard normal distribution
    [squared scaled rewards / nats], >= 0; fits reward_scale and discount, as it is beside the
    squared errors of values."""

    decoder_weight: float = 0.0
    """Weight of the squared error of a network that predicts a transition's reward from z [in
    variances of the rewards in the replay buffer], >= 0; 0 leaves it out, as published. The encoder
    then learns what tasks differ in before the values show it."""

    reward_scale: float = 1.0
    """Factor on the rewards, > 0, as encoder and critics see them."""

    discount: float = 0.97
    """Discount gamma of one environment step, in [0, 1]."""

    lr: float = 1e-3
    """First step size of Adam, > 0."""

    lr_halving: int = 0
    """Updates in which the step size falls to half, continuously, >= 0; 0 keeps it."""

    target_rate: float = 0.02
    """Share by which the target critics move to the critics after each gradient step, in (0, 1]."""

    initial_temperature: float = 0.1
    """First temperature of every action dimension [scaled rewards / nats], > 0."""

    target_entropy: float = -1.0
    """Entropy of each action dimension, of actions scaled to (-1, 1), at which its temperature
    stays [nats]; below log 2 = 0.69, the largest there is."""

    exploration_updates: int = 0
    """Updates after which final_target_entropy takes the place of target_entropy, >= 0; 0 keeps
    it."""

    final_target_entropy: float = -2.0
    """Target entropy after exploration_updates [nats], below log 2: less noise than exploring
    needs, so that returns with noise are nearer to those without."""

    max_gradient: float = 1000.0
    """Longer gradients of actor, of critics with encoder, and of temperatures are scaled down to
    this norm, > 0."""

    def target_entropy_at(self, updates: int) -> float:
        """Returns the target entropy after a number of updates [nats]."""
        explores = not self.exploration_updates or updates < self.exploration_updates
        return self.target_entropy if explores else self.final_target_entropy

    def __post_init__(self) -> None:
        """Checks the ranges above.

        Raises:
            ConfigError: Names the field, its value and what it must be.
        """
        for name in ("hidden_sizes", "encoder_sizes"):
            sizes = vars(self)[name]
            require(len(sizes) > 0 and min(sizes) >= 1, f"learner.{name}", sizes, "each at least 1")
            require_at_most(f"learner.{name}", max(sizes))
        counts = ("latent_size", "tasks_per_step", "steps_per_task", "context_size")
        positive = ("update_ratio", "reward_scale", "lr", "max_gradient")
        for hint, names in (
            ("at least 0", ("lr_halving", "exploration_updates")),
            ("at least 1", (*counts, "task_memory", "recent_tasks")),
            ("a finite number > 0", positive),
            ("a finite number > 0, at least 1e-30", ("action_limit", "initial_temperature")),
            ("a finite number >= 0", ("kl_weight", "decoder_weight")),
            ("in [0, 1]", ("discount",)),
            ("in (0, 1]", ("target_rate",)),
            ("a finite number", ("target_entropy", "final_target_entropy")),
        ):
            require_range(self, "learner", names, hint)
        known = self.guess in ("episode", "step")
        require(known, "learner.guess", self.guess, "episode or step")
        for name in ("target_entropy", "final_target_entropy"):
            value = vars(self)[name]
            require(value < math.log(2.0), f"learner.{name}", value, "below log 2 = 0.69")
