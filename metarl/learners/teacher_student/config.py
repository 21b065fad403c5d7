"""Settings of teacher and student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import ConfigError, require
from metarl.core.ranges import Need, require_range
from metarl.learners.memory_settings import check_memory
from metarl.learners.ppo_settings import check_ppo


@dataclass(frozen=True)
class TeacherStudentConfig:
    """Settings of teacher and student."""

    mode: Literal["student", "oracle"] = "student"
    """student: train a teacher, then the student, which alone is evaluated. oracle: train the
    teacher in all iterations, and evaluate it with the task observed."""

    teacher_updates: int = 300
    """Updates of the teacher, >= 1, before those of the student, so a run needs more iterations
    than this; with --init-from also 0, which begins with the student."""

    student_updates: int = 0
    """Updates of the student by imitation, >= 0; in all later iterations PPO fine-tunes it. 0 means
    imitation to the end."""

    latent_size: int = 8
    """Numbers to which the task is encoded, >= 1 (Kumar et al. 2021)."""

    hidden_size: int = 128
    """Units of each tanh layer of encoder, actor and critic, >= 1."""

    memory: Literal["gru", "lstm", "mann", "mingru", "transformer"] = "mingru"
    """Kind of the student's memory, as of rl2."""

    memory_size: int = 128
    """Units of the student's memory, >= 1."""

    lr: float = 1e-3
    """Step size of Adam in PPO, of the teacher and of fine-tuning, > 0."""

    target_kl: float = 0.01
    """KL divergence of a pass of PPO [nats], >= 0, that the step size aims at; 0 keeps lr."""

    epochs: int = 5
    """Passes of PPO over the experience of an iteration, >= 1."""

    minibatches: int = 4
    """Minibatches in a pass, >= 1: of steps for the teacher, of whole trials for the student."""

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

    student_lr: float = 1e-3
    """Step size of Adam in imitation, > 0."""

    student_epochs: int = 5
    """Passes of imitation over the trials of an iteration, >= 1."""

    latent_weight: float = 1.0
    """Weight of the squared error of the student's latent numbers, beside the KL divergence of its
    actions from the teacher's, >= 0."""

    initial_log_std: float = 0.0
    """Log of the action noise at the start [log of policy output units], >= min_log_std."""

    min_log_std: float = -3.0
    """Lower bound on the log of the action noise [log of policy output units], in [-20, 20]."""

    NEEDS = (
        Need(("teacher_updates", "student_updates"), ("mode",), ("student",)),
        Need(("student_lr", "student_epochs", "latent_weight"), ("mode",), ("student",)),
    )
    """Settings that others make meaningless."""

    def __post_init__(self) -> None:
        """Checks the ranges above.

        Raises:
            ConfigError: Names the field, its value and what it must be.
        """
        known = self.mode in ("student", "oracle")
        require(known, "learner.mode", self.mode, "student or oracle")
        for hint, names in (
            ("at least 1", ("latent_size", "hidden_size", "memory_size", "student_epochs")),
            ("at least 0", ("teacher_updates", "student_updates")),
            ("a finite number > 0", ("student_lr",)),
            ("a finite number >= 0", ("latent_weight",)),
        ):
            require_range(self, "learner", names, hint)
        check_ppo(self)
        check_memory(self)

    def require_phases(self, iterations: int, *, starts_from_run: bool) -> None:
        """Requires that a training reaches its last phase, and that its student has a teacher.

        Args:
            iterations: Of the training.
            starts_from_run: Another run's parameters are taken at the start.

        Raises:
            ConfigError: It has too few iterations, or a student and nobody who teaches it.
        """
        if self.mode == "oracle":
            return
        if self.teacher_updates == 0 and not starts_from_run:
            hint = "at least 1: the student imitates it; 0 goes with --init-from"
            raise ConfigError(f"--learner.teacher-updates = 0: must be {hint}")
        names, last = "learner.teacher_updates", "the student"
        if self.student_updates:
            names, last = f"{names} + learner.student_updates", "fine-tuning"
        updates = self.teacher_updates + self.student_updates
        if iterations <= updates:
            hint = f"more than {names} = {updates}: {last} is last"
            raise ConfigError(f"--iterations = {iterations}: must be {hint}")
