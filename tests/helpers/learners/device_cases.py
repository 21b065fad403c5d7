"""Every learner of `learner_cases.CASES`, made small, on one device or another."""

from dataclasses import dataclass, fields, replace

import numpy as np
from learner_cases import CASES
from whole_trial import trial

from metarl.core.env import supports
from metarl.core.learner import HasBoundedReplay, HasReplay, SeesTasks
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.rng import stream
from metarl.envs.navigation import DenseGoal, NavigationEnv
from metarl.learners.registry import ALGORITHMS, build_learner
from metarl.sampling.sampler import Key

SIZE = (3, 4)
"""Tasks and episodes of a trial."""

FEW = {
    "epochs": 2,
    "minibatches": 2,
    "outer_epochs": 2,
    "cg_iterations": 4,
    "update_ratio": 0.01,
    "gradient_steps": 3,
    "encoder_steps": 3,
    "kernel_steps": 3,
    "encoder_updates": 2,
    "elbo_trials": 4,
    "buffer_trials": 32,
    "teacher_updates": 1,
    "student_epochs": 2,
    "candidates": 4,
    "batch_size": 8,
    "tasks_per_step": 4,
    "hidden_size": 8,
    "memory_size": 8,
    "hidden_sizes": (8, 8),
}
"""Settings of a few operations, for those learners that have them."""


@dataclass(frozen=True)
class Trial:
    """Rollouts of some tasks (N, D), and the key of the random numbers they were played with."""

    rollouts: list
    tasks: np.ndarray
    key: Key


def small_config(name, **changes):
    """Returns the settings of a case, with few operations."""
    config = CASES[name].config
    known = {field.name for field in fields(config)}
    few = {setting: value for setting, value in (FEW | changes).items() if setting in known}
    if getattr(config, "student_updates", 0):
        few["student_updates"] = 1
    return replace(config, **few)


class DeviceCase:
    """A learner of a case on navigation, with short episodes.

    Args:
        name: Of the case.
        device: Of its updates.
        horizon: Steps of an episode.
        changes: Settings.
    """

    def __init__(self, name, device="cpu", horizon=8, **changes):
        self.env = NavigationEnv("small", DenseGoal(), horizon=horizon)
        self.num_adaptations = CASES[name].num_adaptations
        algorithm, config = ALGORITHMS[name.partition(",")[0]], small_config(name, **changes)
        self.learner = build_learner(algorithm, config, self.env.spec, seed=0, device=device)

    def play(self, number):
        """Plays the training trial of iteration `number`; returns it and its context."""
        tasks = self.env.spec.tasks.sample(stream(0, "tasks", number), SIZE[0])
        key = Key(0, "train", number)
        parts = self.env, self.learner, tasks, SIZE[1], self.num_adaptations, key
        with one_torch_thread():
            rollouts, context = trial(*parts, is_training=True)
        return Trial(rollouts, tasks, key), context

    def replay(self, played):
        """Returns the context of this learner after a trial that another one has played."""
        tasks, key = played.tasks, played.key
        rngs = key.tasks("begin", 0, len(tasks))
        if supports(self.learner, SeesTasks):
            context = self.learner.begin_training(tasks, SIZE[1], rngs)
        else:
            context = self.learner.begin(*SIZE, rngs)
        for k, rollout in enumerate(played.rollouts[:-1], start=1):
            context = self.learner.adapt(context, rollout, key.tasks("adapt", k, len(tasks)))
        return context

    def update(self, played):
        """Learns from a trial that this learner or another one has played."""
        context = self.replay(played)
        with one_torch_thread():
            return self.learner.update(context, played.rollouts, played.tasks)

    def train(self, number):
        """Plays and learns from the training trial of iteration `number`."""
        played, context = self.play(number)
        with one_torch_thread():
            return self.learner.update(context, played.rollouts, played.tasks)

    def save(self):
        """Returns the state, and the entries of a replay store, as a checkpoint keeps them."""
        entries = {}
        if supports(self.learner, HasReplay) and self.learner.replay_size():
            is_bounded = supports(self.learner, HasBoundedReplay)
            start = self.learner.replay_start() if is_bounded else 0
            entries = self.learner.read_replay(start, self.learner.replay_size())
        return self.learner.state_dict(), {n: v.clone() for n, v in entries.items()}

    def load(self, saved):
        """Restores what `save` returned."""
        self.learner.load_state_dict(saved[0])
        if supports(self.learner, HasReplay):
            self.learner.load_replay(saved[1])
