"""Settings of MAML and its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require
from metarl.core.ranges import Need, read_field, require_at_most, require_range
from metarl.learners.ppo_settings import check_noise


@dataclass(frozen=True)
class MamlConfig:
    """Settings of MAML and its relatives."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden layer, at least one layer (Finn et al. 2017 use 100 100)."""

    activation: Literal["tanh", "relu", "elu", "silu"] = "tanh"
    """Activation of the hidden layers. The derivatives of a tanh network are written by hand; those
    of another one are automatic, and an update takes 3 to 4 times as long."""

    layer_norm: bool = False
    """Normalise the units of each hidden layer before the activation. The derivatives are
    automatic, and an update takes 6 times as long."""

    inner_lr: float = 0.1
    """Step size alpha of the adaptation, > 0 [parameter units per unit gradient]
    (Finn et al. 2017)."""

    later_lr: float = 0.5
    """Factor on inner_lr from the second adaptation step of a trial on, > 0. Advantages are
    standardised, so steps do not become shorter by themselves as the policy improves
    (Finn et al. 2017 halve them)."""

    later_decay: float = 1.0
    """Factor between successive later steps, in (0, 1]; 1 keeps them equal. If the gradient gives
    the direction of the error but not its size, equal steps end about half a step from the optimum
    and shrinking steps converge."""

    surrogate: Literal["lvc", "loglik", "dice"] = "lvc"
    """Inner loss: likelihood ratio (lvc; ProMP, Rothfuss et al. 2019), plain log-likelihood
    (loglik), or DiCE (dice; Foerster et al. 2018)."""

    adapts: Literal["all", "head", "context", "latent"] = "all"
    """Parameters that an adaptation moves: all (MAML), the last layer and the noise (head; ANIL,
    Raghu et al. 2020), inputs of the first layer that each task has of its own (context; CAVIA,
    Zintgraf et al. 2019), or a code that decodes to the last layer (latent; LEO, Rusu et al.
    2019)."""

    context_size: int = 8
    """Number of context parameters with `adapts context`, >= 1."""

    context_layers: Literal["first", "all"] = "first"
    """Layers that read the context with `adapts context`: the first one (CAVIA), or all."""

    latent_size: int = 8
    """Numbers of the code of each action with `adapts latent`, >= 1."""

    encoder_size: int = 32
    """Units with which `adapts latent` encodes the first rollout into the code, before the first
    gradient step, >= 0; 0 has no encoder."""

    inner: Literal["gradient", "lstm"] = "gradient"
    """Step of an adaptation: along the gradient, or by an LSTM that reads the gradient and starts
    with steps of inner_lr (lstm; meta-LSTM, Ravi & Larochelle 2017)."""

    optimiser_size: int = 8
    """Units of the LSTM with `inner lstm`, >= 1."""

    learn_rates: bool = False
    """Learn a step size for every parameter, from inner_lr on (Meta-SGD, Li et al. 2017)."""

    outer: Literal["trpo", "ppo", "reptile"] = "trpo"
    """Outer step: TRPO through the adaptation, steps of Adam on the clipped return after it (ppo;
    ProMP), or towards the adapted parameters (reptile; Nichol et al. 2018)."""

    outer_lr: float = 1e-3
    """Step size of Adam with `outer ppo` (ProMP), or fraction of the way with `outer reptile`,
    > 0."""

    outer_epochs: int = 5
    """Steps of Adam in an update with `outer ppo`, >= 1 (ProMP)."""

    clip: float = 0.3
    """Half width of the clipping interval of the ratio with `outer ppo`, > 0 (ProMP)."""

    inner_kl: float = 0.0
    """Divergence of an update before adaptation [nats], >= 0, at which `outer ppo` aims by a
    penalty whose weight is doubled and halved; 0 has no penalty (ProMP: 0.01)."""

    inner_kl_weight: float = 5e-4
    """First weight of that penalty [1 / nats], >= 0 (ProMP)."""

    sampling_weight: float = 0.0
    """Weight of the term of E-MAML, >= 0: makes the rollouts before adaptation likelier in tasks
    whose return after it is high (Stadie et al. 2018)."""

    task_conflict: Literal["none", "pcgrad"] = "none"
    """Remove from each task's meta-gradient what points against another task's (pcgrad; Yu et al.
    2020). TRPO only."""

    first_order: bool = False
    """Ignore the derivative of the inner step (first-order MAML)."""

    max_kl: float = 0.01
    """Trust region: mean KL divergence after one update, > 0 [nats] (Finn et al. 2017)."""

    kl_halving: int = 0
    """Number of updates in which max_kl falls to half, continuously; 0 keeps it constant. Large
    updates learn fast while the meta-gradient is strong; later its noise makes them a random
    walk."""

    cg_iterations: int = 10
    """Conjugate-gradient iterations for the natural step, >= 1 (Schulman et al. 2015)."""

    cg_damping: float = 0.1
    """Added to the diagonal of the curvature, >= 0 (sb3-contrib's TRPO). With less damping, a
    curvature estimated from few states fits their noise."""

    curvature_fraction: float = 0.25
    """Fraction of the states used in the curvature product, in (0, 1]. With damping 0.1, a quarter
    of the states learns as well as all of them (docs/settings.md)."""

    line_search_steps: int = 15
    """Largest number of step sizes that the backtracking line search tries, >= 1."""

    line_search_decay: float = 0.8
    """Factor between successive step sizes of the line search, in (0, 1)."""

    discount: float = 0.99
    """Discount gamma of one environment step, in [0, 1]."""

    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation, in [0, 1]; 1 is return minus baseline."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units], >= min_log_std."""

    output_gain: float = 1.0
    """Factor on the initial weights of the last layer, > 0; small values start with actions near
    zero."""

    min_log_std: float = -3.0
    """Lower bound on the log of the action noise [log of policy output units], in [-20, 20]."""

    normalize_obs: bool = False
    """Scale observations to mean 0 and variance 1 by running statistics, which change only between
    iterations. The first iteration measures the scale and leaves the policy as it is."""

    task_chunk: int = 0
    """Tasks processed at once in the update; 0 means one at a time on a CPU and all on a GPU."""

    NEEDS = (
        Need(("outer_lr",), ("outer",), ("ppo", "reptile")),
        Need(("outer_epochs", "clip", "inner_kl", "inner_kl_weight"), ("outer",), ("ppo",)),
        Need(("inner_kl_weight",), ("inner_kl",), besides=(0.0,)),
        Need(("max_kl", "kl_halving", "cg_iterations", "cg_damping"), ("outer",), ("trpo",)),
        Need(("curvature_fraction",), ("outer",), ("trpo",)),
        Need(("line_search_steps", "line_search_decay"), ("outer",), ("trpo",)),
        Need(("first_order",), ("outer",), ("trpo", "ppo")),
        Need(("context_size", "context_layers"), ("adapts",), ("context",)),
        Need(("latent_size", "encoder_size"), ("adapts",), ("latent",)),
        Need(("optimiser_size",), ("inner",), ("lstm",)),
        Need(("later_lr", "later_decay"), ("inner",), ("gradient",)),
    )
    """Settings that others make meaningless."""

    def __post_init__(self) -> None:
        """Checks the ranges above.

        Raises:
            ConfigError: Names the field, its value and what it must be.
        """
        sizes = self.hidden_sizes
        known = self.activation in ("tanh", "relu", "elu", "silu")
        require(known, "learner.activation", self.activation, "tanh, relu, elu or silu")
        ok = min(sizes, default=0) >= 1
        require(ok, "learner.hidden_sizes", sizes, "numbers >= 1, at least one")
        require_at_most("learner.hidden_sizes", max(sizes))
        self._check_kind()
        for hint, names in (
            ("a finite number > 0", ("inner_lr", "later_lr", "max_kl", "output_gain")),
            ("a finite number > 0", ("outer_lr", "clip")),
            ("a finite number >= 0", ("cg_damping", "inner_kl", "inner_kl_weight")),
            ("a finite number >= 0", ("sampling_weight",)),
            ("at least 1", ("context_size", "latent_size", "optimiser_size", "outer_epochs")),
            ("in (0, 1]", ("later_decay", "curvature_fraction")),
            ("in (0, 1)", ("line_search_decay",)),
            ("in [0, 1]", ("discount", "gae_lambda")),
            ("at least 1", ("cg_iterations", "line_search_steps")),
            ("at least 0", ("encoder_size", "kl_halving", "task_chunk")),
        ):
            require_range(self, "learner", names, hint)
        check_noise(self)

    def _check_kind(self) -> None:
        """Checks the choices, and that those that are made fit together."""
        for name, choices in (
            ("adapts", ("all", "head", "context", "latent")),
            ("context_layers", ("first", "all")),
            ("inner", ("gradient", "lstm")),
            ("outer", ("trpo", "ppo", "reptile")),
            ("task_conflict", ("none", "pcgrad")),
        ):
            value = read_field(self, name)
            require(value in choices, f"learner.{name}", value, f"one of {', '.join(choices)}")
        is_plain = self.activation == "tanh" and not self.layer_norm
        hint = "all with another activation than tanh, or with layer_norm"
        require(self.adapts == "all" or is_plain, "learner.adapts", self.adapts, hint)
        ok = self.adapts == "all" or self.outer != "reptile"
        fixed = {"head": "hidden layers", "context": "network", "latent": "decoder"}
        hint = (
            f"trpo or ppo with adapts {self.adapts}: the {fixed.get(self.adapts)} would not learn"
        )
        require(ok, "learner.outer", self.outer, hint)
        if self.inner == "lstm":
            self._check_lstm()
        ok = not (self.learn_rates and (self.first_order or self.outer == "reptile"))
        hint = "false with first_order or outer reptile: the step sizes would get no gradient"
        require(ok, "learner.learn_rates", self.learn_rates, hint)
        ok = self.outer == "trpo" or (self.task_conflict == "none" and not self.sampling_weight)
        hint = "trpo with task_conflict pcgrad or a sampling_weight"
        require(ok, "learner.outer", self.outer, hint)

    def _check_lstm(self) -> None:
        """Checks that the settings fit a learned optimiser."""
        ok = self.adapts == "all" and self.outer != "reptile"
        ok = ok and not (self.learn_rates or self.first_order)
        hint = (
            "gradient with adapts head, context or latent, outer reptile, learn_rates, first_order"
        )
        require(ok, "learner.inner", self.inner, hint)
        hint = "below 1 with inner lstm: it is the first value of a gate"
        require(self.inner_lr < 1.0, "learner.inner_lr", self.inner_lr, hint)
