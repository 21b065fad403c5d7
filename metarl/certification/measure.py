"""Measurement of one cell: survival, returns and parts of the reward after each attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.core.env import BatchEnv
from metarl.core.errors import name_failures
from metarl.core.learner import Learner
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.rollout import Rollout
from metarl.evaluation import statistics
from metarl.evaluation.evaluate import play_without_noise
from metarl.sampling.sampler import Collector, Key


@dataclass(frozen=True)
class SameStarts(Key):
    """Streams with which every rollout of a trial has the same starts, commands and pushes.

    The attempts of a policy that neither remembers nor adapts are then equal, and what differs
    between those of another one is what it has learned.
    """

    def episodes(self, k: int, num_tasks: int, num_episodes: int) -> list[np.random.Generator]:
        """Returns the generators of the first rollout, row by row (N * E)."""
        return super().episodes(0, num_tasks, num_episodes)


@dataclass(frozen=True)
class Attempts:
    """Outcome of a cell; n attempts at each of N tasks, in E episodes.

    Attributes:
        returns: (n, N, E).
        survived: (n, N, E) the episode lasted to its time limit: no fall, and no failure of the
            simulation.
        steps: Control steps of the episodes (n, N, E).
        faults: (n, N, E) the simulation failed.
        terms: Mean of each part of the reward per step, over all steps of an attempt; {} where the
            environment does not tell them.
    """

    returns: np.ndarray
    survived: np.ndarray
    steps: np.ndarray
    faults: np.ndarray
    terms: Sequence[Mapping[str, float]]


def play(
    env: BatchEnv,
    learner: Learner[Any],
    tasks: np.ndarray,
    *,
    num_episodes: int,
    attempts: int,
    key: Key,
    name: str,
) -> Attempts:
    """Plays a trial on tasks (N, D), in which the policy sends its mode.

    A memory keeps what it knows from attempt to attempt. A learner that adapts between attempts
    does so from rollouts with noise, see `evaluation/evaluate.py`.

    Args:
        env: The environment.
        learner: The policy.
        tasks: (N, D).
        num_episodes: E.
        attempts: n.
        key: The random streams.
        name: Of the cell, for messages.

    Raises:
        NumericalError: An action or a gradient is not finite.
        EnvironmentContractError: The environment gave a number that is not finite.
    """
    with name_failures(name), one_torch_thread(), closing(Collector(env)) as collector:

        def measure(rollout: Rollout) -> tuple[Any, ...]:
            ended = rollout.terminated | rollout.truncated
            steps = rollout.valid.sum(dim=2).numpy()
            faults = rollout.truncated.numpy().copy()
            terms = collector.take_reward_terms()
            return rollout.returns().numpy(), ~ended.numpy(), steps, faults, terms

        size = (num_episodes, attempts - 1)
        starts = SameStarts(key.seed, key.stream, key.iteration)
        rows, _ = play_without_noise(collector, learner, tasks, *size, key, measure, starts)
    *arrays, terms = zip(*rows, strict=True)
    return Attempts(*map(np.stack, arrays), terms=terms)


def summarise(played: Attempts, tasks: np.ndarray, dt: float, seed: int) -> dict[str, Any]:
    """Returns the statistics of a cell as a tree for JSON.

    The task is the unit: its episodes are averaged first.

    Args:
        played: The outcome.
        tasks: (N, D).
        dt: Duration of a control step [s].
        seed: Of the bootstrap.

    Returns:
        Lists over the n attempts: `survival` (`mean`, `ci95`, `per_task`), `returns` (also `iqm`),
        `seconds` (mean duration of an episode [s]), `reward_terms` and `faulted_episodes`; and
        `gain`, the return of the last attempt minus that of the first.
    """
    per_task = played.returns.mean(axis=2)
    found = statistics.over_tasks(tasks, per_task, seed).returns
    share = played.survived.mean(axis=2)
    survival = share.mean(axis=1).tolist()
    ends = [list(statistics.share_interval(each, len(tasks))) for each in survival]
    gained = statistics.over_tasks(tasks, (per_task[-1] - per_task[0])[None], seed).returns
    return {
        "num_tasks": len(tasks),
        "survival": {"mean": survival, "ci95": ends, "per_task": share.tolist()},
        "returns": {name: found[name] for name in ("mean", "ci95", "iqm")}
        | {"per_task": per_task.tolist()},
        "gain": {name: gained[name][0] for name in ("mean", "ci95")},
        "seconds": (dt * played.steps.mean(axis=(1, 2))).tolist(),
        "reward_terms": [dict(terms) for terms in played.terms],
        "faulted_episodes": played.faults.sum(axis=(1, 2)).tolist(),
    }
