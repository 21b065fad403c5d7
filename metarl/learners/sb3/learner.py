"""Learners of Stable-Baselines3 (SB3) as baselines, trained by SB3's own loop.

They act like every `Learner`, so evaluation and videos need no special case; instead of `update`
they have `iterate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.core.env import BatchEnv
from metarl.core.errors import ConfigError
from metarl.core.learner import Experience
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.rng import stream
from metarl.core.rollout import Iteration
from metarl.evaluation import evaluate
from metarl.learners.modes import label
from metarl.learners.sb3.config import Sb3Config, Sb3Rl2Config
from metarl.learners.sb3.learning_curve import Curve
from metarl.learners.sb3.model import Member, Played
from metarl.learners.sb3.policies import FeedForward, Recurrent


class Restartable(Protocol):
    """A VecEnv of SB3 whose streams and tasks are set from outside (`envs/wrappers/sb3.py`)."""

    num_envs: int

    def restart(self, streams: Any, tasks: Any = None) -> None:
        """Sets streams(episode, row), and tasks: (D,) or a distribution; for the next reset."""


class Sb3Baseline:
    """One policy for all tasks, with or without memory; or, from scratch, one for each task.

    Every iteration starts new episodes in all rows and takes as many steps as the longest
    iteration of any other learner.

    Args:
        config: Settings.
        vec: The environments: E rows from scratch, else N * E.
        tasks: From scratch the tasks (N, D), else the distribution from which episodes (trials for
            RL^2) draw their tasks.
        horizon: T.
        num_rollouts: K + 1.
        name: The value of --algo.
        seed: Seed of the run.
        device: Of the models.
    """

    pools_episodes = False

    def __init__(
        self,
        config: Sb3Config,
        vec: Restartable,
        tasks: Any,
        horizon: int,
        num_rollouts: int,
        *,
        name: str,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self._label, self._seed, self._vec = label(name, config), seed, vec
        self.config = config
        self.tasks: np.ndarray | None = tasks if isinstance(tasks, np.ndarray) else None
        self._sources = [tasks] if self.tasks is None else list(self.tasks)
        self._members = [
            Member(
                config,
                vec,  # ty: ignore[invalid-argument-type]
                num_rollouts,
                horizon,
                rng=stream(seed, "sb3-initial", index),
                device=device,
            )
            for index in range(len(self._sources))
        ]
        self._curve = Curve.empty(len(self._sources), vec.num_envs * num_rollouts)
        recurrent = isinstance(config, Sb3Rl2Config)
        acting = Recurrent(self._members[0]) if recurrent else FeedForward(self._members)
        self.begin, self.act, self.adapt = acting.begin, acting.act, acting.adapt

    @property
    def members(self) -> list[Member]:
        """The models: one, or from scratch one for each task."""
        return self._members

    # ------------------------------------------------------------------------------------- training

    def iterate(self, iteration: int) -> Iteration:
        """Trains every policy for one iteration; any exception leaves all as it was before.

        Raises:
            FloatingPointError: A parameter is not finite.
            ValueError: The environment gave a number that is not finite without a fault.
        """
        before = self.state_dict()
        try:
            played = [self._play(iteration, index) for index in range(len(self._members))]
            if self.tasks is not None:
                self._curve = self._curve.extend(played)
        except BaseException:  # Ctrl-C too
            self._restore(before)
            raise
        return _summarize(played)

    def _play(self, iteration: int, index: int) -> Played:
        seed = self._seed

        def streams(episode: int, row: int) -> np.random.Generator:
            return stream(seed, "sb3-episode", iteration, index, episode, row)

        self._vec.restart(streams, self._sources[index])
        try:
            return self._members[index].iterate(stream(seed, "sb3-update", iteration, index))
        except FloatingPointError as error:
            raise FloatingPointError(f"policy {index}: {error}") from error

    # ---------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Tensor]:
        """Returns all policies with optimisers and statistics, and the curves from scratch.

        All tensors are copies on the CPU.
        """
        state = {
            f"{index:03d}/{name}": value
            for index, member in enumerate(self._members)
            for name, value in member.state_dict().items()
        }
        return state if self.tasks is None else state | self._curve.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state_dict().

        Raises:
            ValueError: It is of another network or another number of tasks, or not finite; nothing
                has changed.
        """
        expected = self.state_dict()
        for name in sorted(expected.keys() ^ state.keys()):
            raise ValueError(f"{name} is {'missing' if name in expected else 'not known'}")
        for name, value in expected.items():
            given, grows = state[name], name.startswith("curve/")
            shapes = (given.shape[grows:], value.shape[grows:])
            if given.dtype != value.dtype or given.ndim != value.ndim or shapes[0] != shapes[1]:
                raise ValueError(f"{name} is {tuple(given.shape)}, not {tuple(value.shape)}")
            if not bool(given.isfinite().all()):
                raise ValueError(f"{name} is not finite")
        self._restore(state)

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state that fits."""
        for index, member in enumerate(self._members):
            start = f"{index:03d}/"
            member.load_state_dict(
                {name[len(start) :]: v for name, v in state.items() if name.startswith(start)}
            )
        if self.tasks is not None:
            self._curve = Curve.from_state(state)

    def is_optimiser(self, name: str) -> bool:
        """Returns whether an entry of state_dict() is state of Adam."""
        return name.partition("/")[2].startswith("adam/")

    # ----------------------------------------------------------------------------------- evaluation

    def learning_curve(self, env: BatchEnv) -> dict[str, Any]:
        """Returns the evaluation of policies trained from scratch: return against experience.

        Entry i of `returns` is of the episodes that a policy played after the experience of entry
        i, and learned from in its next update. The last entry is measured anew after training.

        Raises:
            ValueError: The policies are not from scratch.
        """
        if self.tasks is None:
            raise ValueError("only mode scratch has a learning curve of single tasks")
        curve, shown = self._curve, self._curve.points()
        final = evaluate.evaluate(
            env,
            self,  # ty: ignore[invalid-argument-type]
            self.tasks,
            num_episodes=curve.returns.shape[2],
            num_adaptations=0,
            key=evaluate.Key(self._seed, "evaluate", 0),
        )
        steps, episodes = (each[[*shown, -1]].tolist() for each in curve.experience())
        whole = replace(
            final,
            returns=np.concatenate([curve.returns.numpy()[shown], final.returns]),
            env_steps=[*np.diff(steps).tolist(), final.env_steps[0]],
            faults=np.concatenate(
                [
                    curve.faults.numpy()[shown].astype(int)[..., None],
                    final.faults.sum(axis=2, keepdims=True),
                ]
            ),
        )
        result = evaluate.summary(whole, env.spec, self._label, self._seed)
        note = (
            "each task was trained on from scratch; entry i is the i-th point of its learning curve"
        )
        result["note"] = "; ".join(filter(None, [result["note"], note]))
        return result | {"experience": {"episodes": episodes, "env_steps": steps}}


def build(
    config: Sb3Config,
    experience: Experience,
    *,
    name: str,
    seed: int,
    device: torch.device | str = "cpu",
) -> Sb3Baseline:
    """Builds a baseline with fresh parameters.

    Args:
        config: Settings.
        experience: The environment (in mode oracle its observation holds the task), the training
            tasks (unused from scratch) and the sizes.
        name: The value of --algo.
        seed: Seed of the run.
        device: Of the models.

    Raises:
        ConfigError: The environment has discrete actions, or actions without an end.
        ValueError: The environment lacks what vec_env needs.
    """
    env = experience.env
    if env.spec.discrete:
        hint = "use --algo maml-trpo"
        raise ConfigError(f"--algo {name} has no policy for discrete actions; {hint}")
    if not np.isfinite(env.spec.action_range or 0.0).all():
        hint = "give its Box finite bounds, or use --algo maml-trpo"
        text = f"--algo {name} needs actions with two ends, and {env.spec.name} has infinite ones"
        raise ConfigError(f"{text}; {hint}")
    num_rollouts = experience.num_adaptations + 1
    num_rows, trial = experience.num_tasks * experience.num_episodes, 0
    tasks = experience.tasks
    if isinstance(config, Sb3Rl2Config):
        trial = num_rollouts
    elif config.mode == "scratch":
        tasks = evaluate.held_out_tasks(env.spec, seed, experience.num_tasks)
        num_rows = experience.num_episodes
    vec = experience.vec_env(env, num_rows, trial=trial)
    options: dict[str, Any] = {"name": name, "seed": seed, "device": device}
    with one_torch_thread():  # the last bit of SB3's orthogonal matrices depends on the threads
        return Sb3Baseline(config, vec, tasks, env.spec.horizon, num_rollouts, **options)


def _summarize(played: list[Played]) -> Iteration:
    """Averages over policies; rollout k of a trial is the k-th episode of a row."""
    names = played[0].metrics
    return Iteration(
        steps=sum(p.steps for p in played),
        returns=np.mean([p.returns.mean(axis=0) for p in played], axis=0).tolist(),
        length=float(np.mean([p.lengths[:, -1] for p in played])),
        terminated=float(np.mean([p.terminated[:, -1] for p in played])),
        faults=float(np.sum([p.faults.sum() for p in played])),
        metrics={name: float(np.mean([p.metrics[name] for p in played])) for name in names},
        collect=sum(p.collect for p in played),
        update=sum(p.update for p in played),
    )
