"""Settings of VariBAD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require
from metarl.core.ranges import LARGEST_SIZE, Need, require_range
from metarl.learners.memory_settings import check_memory
from metarl.learners.ppo_settings import check_ppo


@dataclass(frozen=True)
class VaribadConfig:
    """Settings of VariBAD."""

    memory: Literal["gru", "lstm", "mingru", "transformer"] = "gru"
    """Kind of the encoder's memory, as of rl2: gru, lstm, mingru or transformer."""

    memory_size: int = 128
    """Units of the encoder's memory, >= 1 (VariBAD); for a transformer a multiple of 4 heads."""

    latent_size: int = 5
    """Numbers that describe a task, >= 1 (VariBAD); the policy reads a mean and a log-variance of
    each."""

    hidden_size: int = 128
    """Units of each of the two tanh layers of actor and critic, >= 1."""

    lr: float = 1e-3
    """Step size of Adam for actor and critic, > 0."""

    target_kl: float = 0.01
    """KL divergence of a pass of PPO [nats], >= 0, that the step size aims at, as of rl2; 0 keeps
    lr."""

    epochs: int = 5
    """Passes of PPO over the steps of an iteration, >= 1."""

    minibatches: int = 4
    """Minibatches of steps in a pass, >= 1."""

    clip: float = 0.2
    """Half width of the clipping interval of the probability ratio, > 0."""

    max_gradient: float = 1.0
    """Longer gradients of PPO are scaled down to this norm, > 0."""

    value_weight: float = 0.5
    """Weight of the value's squared error [in variances of the returns], >= 0."""

    entropy_weight: float = 0.0
    """Weight of the policy's entropy [1 / nats], >= 0."""

    discount: float = 0.99
    """Discount gamma of one environment step, in [0, 1]."""

    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, in [0, 1]."""

    credit: Literal["trial", "episode"] = "trial"
    """How far the consequences of an action reach: through the later episodes of its trial (trial),
    or to the end of its episode (episode). With trial a policy can learn to search in an episode
    for what helps in the next one."""

    falls: Literal["continue", "end"] = "continue"
    """What a fall costs, as of rl2; credit episode ends the consequences at every fall."""

    encoder_lr: float = 1e-3
    """Step size of Adam for encoder and decoders, > 0 (VariBAD)."""

    encoder_max_gradient: float = 1.0
    """Longer gradients of the ELBO are scaled down to this norm, > 0. They become small as the
    predictions become good (0.05 on half-cheetah-dir), so that a few longer ones move the encoder
    far, and the policy reads other beliefs; a limit near the usual length prevents that."""

    encoder_updates: int = 3
    """Steps of encoder and decoders on the ELBO in an iteration, >= 1."""

    elbo_trials: int = 20
    """Trials in each of these steps, >= 1, drawn from the buffer."""

    elbo_steps: int = 50
    """Steps of a trial whose belief is decoded, drawn anew each time, >= 0 (VariBAD); 0 means
    all."""

    decoded_steps: int = 50
    """Steps of a trial, past and future, whose reward a belief predicts, drawn anew each time, >= 0
    (VariBAD); 0 means all."""

    kl_weight: float = 0.1
    """Weight of the KL divergence of a belief from the previous one, >= 0 (VariBAD)."""

    transition_weight: float = 0.0
    """Weight of the error of the next observation beside that of the reward, >= 0; 0 builds no such
    decoder. Tasks that differ in the robot's body or its ground need it."""

    decoder_size: int = 64
    """Units of a decoder's first tanh layer, >= 1 (VariBAD); the second has half as many."""

    buffer_trials: int = 100
    """Newest trials that the ELBO learns from, >= 1. They are part of each checkpoint: 100 trials
    of 400 steps of half-cheetah are 8 MB."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units], >= min_log_std."""

    min_log_std: float = -3.0
    """Lower bound on the log of the action noise [log of policy output units], in [-20, 20]."""

    NEEDS = (Need(("falls",), ("credit",), ("trial",)),)
    """Settings that others make meaningless."""

    def __post_init__(self) -> None:
        """Checks the ranges above.

        Raises:
            ConfigError: Names the field, its value and what it must be.
        """
        check_memory(self)
        known = self.credit in ("trial", "episode")
        require(known, "learner.credit", self.credit, "trial or episode")
        known = self.falls in ("continue", "end")
        require(known, "learner.falls", self.falls, "continue or end")
        sizes = ("memory_size", "latent_size", "hidden_size", "decoder_size", "buffer_trials")
        for hint, names in (
            ("at least 1", (*sizes, "encoder_updates", "elbo_trials")),
            ("at least 0", ("elbo_steps", "decoded_steps")),
            ("a finite number > 0", ("encoder_lr", "encoder_max_gradient")),
            ("a finite number >= 0", ("kl_weight", "transition_weight")),
        ):
            require_range(self, "learner", names, hint)
        check_ppo(self)
        number = self.buffer_trials  # memory for all of them is taken at once
        require(
            number <= LARGEST_SIZE, "learner.buffer_trials", number, f"at most {LARGEST_SIZE:,}"
        )
