"""Settings of RL^2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require
from metarl.core.ranges import Need, require_range
from metarl.learners.memory_settings import check_memory
from metarl.learners.ppo_settings import check_ppo


@dataclass(frozen=True)
class Rl2Config:
    """Settings of RL^2."""

    memory: Literal["gru", "lstm", "mann", "mingru", "transformer"] = "gru"
    """Kind of memory: a gated recurrent unit, a long short-term memory, one with an external memory
    that it reads by content, a minimal gated recurrent unit that trains in parallel over time, or
    causal attention."""

    memory_size: int = 128
    """Units of the memory, >= 1 (VariBAD's RL^2); for a transformer a multiple of its 4 heads."""

    attention_window: int = 0
    """Steps that a transformer's step attends to, itself included, >= 0; 0 means the whole trial so
    far. A window bounds the time of acting; each of the two layers reaches back another window."""

    value_memory: Literal["shared", "own"] = "shared"
    """The value reads the policy's memory (shared) or a second one of the same kind and size (own).
    With own, the value loss does not change what the policy remembers, and an update takes up to
    twice the time. On navigation-2d, own explained more of the returns (0.82 instead of 0.77 at
    0.6 M steps), and the policy learned no faster (one seed)."""

    actor: Literal["mlp", "hypernetwork"] = "mlp"
    """The actor reads the memory's features and the observation (mlp, with the skip connection that
    Beck et al. 2023 call RNN+S), or is a network on the observation whose weights the memory
    generates (hypernetwork, the strongest published baseline; five times the actor's time). A
    hypernetwork needs small steps: lr 1e-4, or target_kl. The default lr moved it by 0.2 to 3.4
    nats in an update of half-cheetah-vel, and an mlp by 0.01."""

    hidden_size: int = 64
    """Units of the tanh layers between memory and action, and between memory and value, >= 1."""

    lr: float = 1e-3
    """Step size of Adam, > 0 (ProMP's RL^2)."""

    target_kl: float = 0.0
    """KL divergence of a pass from the sampling policy [nats], >= 0, that the step size aims at: it
    is divided by 1.5 after a pass with more than twice this and multiplied by 1.5 after one with
    less than half, within a factor of 100 of lr (Schwarke et al. 2025, rsl_rl). 0 keeps lr."""

    epochs: int = 5
    """Passes over the trials of an iteration, >= 1 (ProMP's RL^2)."""

    minibatches: int = 4
    """Minibatches of whole trials in a pass, >= 1."""

    clip: float = 0.2
    """Half width of the clipping interval of the probability ratio, > 0 (Schulman et al. 2017)."""

    max_kl: float = 0.0
    """KL divergence from the sampling policy after which an update ends early [nats], >= 0; 0 makes
    all passes. The limit 0.03 ended most updates on navigation-2d after one or two passes."""

    max_gradient: float = 1.0
    """Longer gradients are scaled down to this norm, > 0."""

    value_weight: float = 0.5
    """Weight of the value's squared error [in variances of the returns], >= 0."""

    entropy_weight: float = 0.0
    """Weight of the policy's entropy [1 / nats], >= 0."""

    discount: float = 0.99
    """Discount gamma of one environment step, across the ends of episodes, in [0, 1]."""

    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation over the trial, in [0, 1]."""

    credit: Literal["trial", "episode"] = "trial"
    """How far the consequences of an action reach: through the later episodes of its trial, whose
    end nothing follows (trial), or to the end of its episode, after which the value of the last
    observation stands for the rest (episode). With trial a policy can learn to search in an episode
    for what helps in the next one. Where the first steps tell the task, episode learns faster."""

    falls: Literal["continue", "end"] = "continue"
    """What a fall costs: an episode that the task ends early is followed by the next one, whose
    rewards count as consequences (continue, the return of the trial), or by nothing (end, and with
    credit episode in any case)."""

    truncation: int = 0
    """Steps that gradients go back in time, >= 0; 0 means the whole trial."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units], >= min_log_std. It should
    not exceed the log of the range to which an environment clips actions. Larger noise favours
    means far outside the range, where neither mean nor noise has a gradient."""

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
        known = self.value_memory in ("shared", "own")
        require(known, "learner.value_memory", self.value_memory, "shared or own")
        require(
            self.actor in ("mlp", "hypernetwork"),
            "learner.actor",
            self.actor,
            "mlp or hypernetwork",
        )
        known = self.credit in ("trial", "episode")
        require(known, "learner.credit", self.credit, "trial or episode")
        known = self.falls in ("continue", "end")
        require(known, "learner.falls", self.falls, "continue or end")
        for hint, names in (
            ("at least 1", ("memory_size", "hidden_size")),
            ("at least 0", ("truncation", "attention_window")),
            ("a finite number >= 0", ("max_kl",)),
        ):
            require_range(self, "learner", names, hint)
        check_ppo(self)
        if self.memory == "transformer":
            steps = self.truncation
            require(steps == 0, "learner.truncation", steps, "0: attention is never truncated")
        else:
            window = self.attention_window
            require(window == 0, "learner.attention_window", window, f"0 with {self.memory}")
        if self.memory == "mingru":
            steps = self.truncation
            require(steps == 0, "learner.truncation", steps, "0: a scan is never truncated")
