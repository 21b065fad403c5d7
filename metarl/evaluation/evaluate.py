"""Evaluation: a trial without the update, on held-out tasks.

The task is the unit of the statistics: the episodes of a task are averaged first, then standard
errors and intervals are over tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from metarl.core.env import BatchEnv, supports
from metarl.core.errors import ConfigError, name_failures
from metarl.core.learner import C, Learner, SplittableContext
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.rng import stream
from metarl.core.rollout import Rollout
from metarl.core.task_limits import require_usable
from metarl.core.tasks import HasTestTasks, full_range
from metarl.evaluation import statistics
from metarl.sampling.sampler import Collector, Key
from metarl.sampling.trials import run_trial


@dataclass(frozen=True)
class Evaluation:
    """Returns of a learner on tasks, adaptation by adaptation.

    Attributes:
        tasks: (N, D).
        returns: (K + 1, N, E), undiscounted.
        env_steps: Mean environment steps of one task in each of the K rollouts that the learner
            adapted to, and in the last measured rollout.
        faults: (K + 1, N, E), episodes whose simulation failed; their returns lack the rest.
        pools_episodes: Each adaptation used all E episodes of a task (see `Learner`).
        deterministic: The returns are those of the policy's mode, without exploration noise.
        distances: (K + 1, N, E), from the start to the end of an episode in the ground plane
            [m, world]; 0 where the simulation failed. None without a base that moves.
    """

    tasks: np.ndarray
    returns: np.ndarray
    env_steps: list[float]
    faults: np.ndarray
    pools_episodes: bool = True
    deterministic: bool = False
    distances: np.ndarray | None = None


def held_out_tasks(spec: Any, seed: int, num_tasks: int) -> np.ndarray:
    """Draws test tasks (num_tasks, D) from a stream of their own; they depend on the seed only.

    They come from `spec.tasks.test`, which can have other kinds of tasks than training. If the
    environment has only a few tasks (`spec.tasks.held_out` is false) they are the training tasks,
    and `spec.note` says so.

    Raises:
        EnvironmentContractError: The environment fails to draw them.
    """
    tasks = spec.tasks.test if supports(spec.tasks, HasTestTasks) else spec.tasks
    with name_failures("test tasks"):
        return tasks.sample(stream(seed, "test-tasks"), num_tasks)


def evaluate(
    env: BatchEnv,
    learner: Learner[Any],
    tasks: np.ndarray,
    *,
    num_episodes: int,
    num_adaptations: int,
    key: Key,
    explore: bool = True,
) -> Evaluation:
    """Runs one trial on the tasks.

    Without exploration, every return is that of a rollout in which the policy sends its mode:

    * A learner that adapts between rollouts to all episodes of a task (`pools_episodes`, as MAML)
      needs varied actions to adapt to: the policy gradient of its mode is zero. Its adaptation
      rollouts explore, with the same random numbers as in an evaluation with exploration. Each
      context is measured in an additional rollout, from the same initial states.
    * A learner that adapts while it acts (a memory, as RL^2) sends the mode in every rollout, as a
      deployed policy does.

    Args:
        env: The environment.
        learner: The learner; it is not changed.
        tasks: (N, D).
        num_episodes: E, episodes per task and rollout, as many as the learner adapts to.
        num_adaptations: K.
        key: The random streams.
        explore: Measure the policy with its exploration noise, as in training.

    Returns:
        The returns after 0..K adaptations; they do not depend on the number of threads.

    Raises:
        NumericalError: A gradient of the adaptation is not finite.
        EnvironmentContractError: A task had no valid step to adapt to.
    """
    with name_failures(f"evaluation of {env.spec.name}"), one_torch_thread():
        with closing(Collector(env)) as collector:
            size = (num_episodes, num_adaptations)
            if explore:
                player = _Measuring(collector)
                rollouts, _ = run_trial(player, learner, tasks, size, key)
                rows = player.rows
                num_steps = [rollout.num_steps() for rollout in rollouts]
            else:
                measure = partial(_measure, collector)
                played = play_without_noise(collector, learner, tasks, *size, key, measure)
                rows, num_steps = played
    returns, faults, distances = zip(*rows, strict=True)
    return Evaluation(
        tasks=tasks,
        returns=np.stack(returns),
        env_steps=[steps / len(tasks) for steps in num_steps],
        faults=np.stack(faults),
        pools_episodes=learner.pools_episodes,
        deterministic=not explore,
        distances=None if distances[0] is None else np.stack(distances),
    )


Measured = TypeVar("Measured")
"""Numbers of one rollout."""


def _measure(
    collector: Collector, rollout: Rollout
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns the returns, faults and distances (N, E) of the last rollout."""
    # a copy, since the next rollout may use the memory again
    faults = rollout.truncated.numpy().copy()
    distances = collector.distances()
    if distances is not None:
        distances = np.where(faults, 0.0, distances)  # a failed simulation can be anywhere
    return rollout.returns().numpy(), faults, distances


class _Measuring:
    """Player of a trial that measures every rollout before the next one begins."""

    def __init__(self, collector: Collector):
        self._collector = collector
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def set_tasks(self, tasks: np.ndarray, num_episodes: int, *, whole: bool = False) -> None:
        """See `Collector.set_tasks`."""
        self._collector.set_tasks(tasks, num_episodes, whole=whole)

    def rollout(
        self, learner: Learner[C], context: C, key: Key, k: int, *, explore: bool = True
    ) -> tuple[Rollout, C]:
        """See `Collector.rollout`."""
        rollout, after = self._collector.rollout(learner, context, key, k, explore=explore)
        self.rows.append(_measure(self._collector, rollout))
        return rollout, after


def play_without_noise(
    collector: Collector,
    learner: Learner[Any],
    tasks: np.ndarray,
    num_episodes: int,
    num_adaptations: int,
    key: Key,
    measure: Callable[[Rollout], Measured],
    measured_key: Key | None = None,
) -> tuple[list[Measured], list[int]]:
    """Plays a trial in which the measured rollouts send the mode of the policy; see `evaluate`.

    Args:
        collector: Of the environment.
        learner: The learner; it is not changed.
        tasks: (N, D).
        num_episodes: E.
        num_adaptations: K.
        key: The random streams.
        measure: Called with the measured rollout after 0..K adaptations, whose memory the next
            rollout overwrites.
        measured_key: Streams of the measured rollouts; by default those of `key`.

    Returns:
        The K + 1 results of `measure`, and the environment steps of the K rollouts that the learner
        adapted to and of the last measured one.
    """
    num_tasks, results, num_steps = len(tasks), [], []
    context = learner.begin(num_tasks, num_episodes, key.tasks("begin", 0, num_tasks))
    collector.set_tasks(tasks, num_episodes, whole=not supports(context, SplittableContext))
    for k in range(num_adaptations + 1):
        collector.take_reward_terms()  # forgets those of the rollout that was adapted to
        rollout, after = collector.rollout(learner, context, measured_key or key, k, explore=False)
        results.append(measure(rollout))
        if k < num_adaptations:
            if learner.pools_episodes:
                rollout, after = collector.rollout(learner, context, key, k)
            context = learner.adapt(after, rollout, key.tasks("adapt", k + 1, num_tasks))
        num_steps.append(rollout.num_steps())
    return results, num_steps


def summary(
    evaluation: Evaluation,
    spec: Any,
    algo: str,
    seed: int,
    without_noise: Evaluation | None = None,
) -> dict[str, Any]:
    """Returns the contents of evaluation.json.

    Args:
        evaluation: The measured returns.
        spec: Spec of the environment: name, reference returns, note, variables of a task.
        algo: Name of the learner.
        seed: Seed of the bootstrap.
        without_noise: Returns of the policy's mode on the same tasks, to be kept beside the others.

    Returns:
        A tree for JSON; NaN (the standard error of a single task) becomes null.
    """
    num_tasks, num_episodes = evaluation.returns.shape[1:]
    pools = evaluation.pools_episodes
    measured, pooled = _summarise_returns(evaluation, seed)
    measured["returns"] |= statistics.per_task(evaluation.returns, seed)
    if without_noise is not None:
        quiet, _ = _summarise_returns(without_noise, seed)
        quiet["returns"]["per_task"] = without_noise.returns.mean(axis=2).tolist()
        measured["without_noise"] = quiet
    return {
        "env": spec.name,
        "env_version": spec.version,
        "algo": algo,
        "seed": seed,
        "num_tasks": num_tasks,
        "episodes_per_task": num_episodes,
        "deterministic": evaluation.deterministic,
        "env_steps_per_rollout": evaluation.env_steps,
        "experience": statistics.count_experience(evaluation.env_steps, num_episodes, pools=pools),
        "held_out": spec.tasks.held_out,
        "note": spec.note,
        "strata": pooled.strata,
        "intervals": pooled.intervals,
        **measured,
        "task_variables": [{"name": v.name, "unit": v.unit} for v in spec.tasks.variables],
        "tasks": evaluation.tasks.tolist(),
        "floors": spec.floors,
    }


def _summarise_returns(
    evaluation: Evaluation, seed: int
) -> tuple[dict[str, Any], statistics.Pooled]:
    """Returns the statistics over the tasks as a tree for JSON, and as estimates."""
    per_task = evaluation.returns.mean(axis=2)
    pooled = statistics.over_tasks(evaluation.tasks, per_task, seed)
    tree = {
        "returns": dict(pooled.returns),
        "share_of_tasks_made_worse": statistics.share_made_worse(per_task),
        "faulted_episodes": evaluation.faults.sum(axis=(1, 2)).tolist(),
    }
    if evaluation.distances is not None:
        of_tasks = evaluation.distances.mean(axis=2)
        estimates = statistics.over_tasks(evaluation.tasks, of_tasks, seed).returns
        tree["distance"] = {name: estimates[name] for name in ("mean", "ci95")}
        tree["distance"]["per_task"] = of_tasks.tolist()
    return tree, pooled


def check_chosen_tasks(tasks: Any, spec: Any) -> np.ndarray:
    """Returns chosen tasks (N, D) in float64.

    Raises:
        ConfigError: They are not (N, D) with N >= 1, or not finite; names the numbers of a task.
            Or a number is beyond the limits of its variable; names both.
    """
    variables = spec.tasks.variables
    try:
        chosen = np.array(tasks, dtype=float, ndmin=1)
    except ValueError:
        chosen = np.empty(0)
    shape_fits = len(chosen) > 0 and chosen.shape[1:] == (len(variables),)
    if not shape_fits or not np.isfinite(chosen).all():
        if not variables:
            raise ConfigError(f"--task: tasks of {spec.name} have no numbers; leave it out")
        names = ", ".join(f"{v.name} [{v.unit}]" for v in variables)
        hint = f"a task of {spec.name} is {len(variables)} finite numbers: {names}"
        raise ConfigError(f"--task {_describe_misfit(tasks, len(variables))}: {hint}")
    try:
        require_usable(spec.name, variables, chosen)
    except ValueError as error:
        raise ConfigError(f"--task: {error}") from error
    return chosen


def _describe_misfit(tasks: Any, size: int) -> str:
    """Describes the first of some tasks that is not numbers (size,), as a flag has it."""
    rows = tasks if isinstance(tasks, (list, tuple, np.ndarray)) and len(tasks) else [tasks]
    flat = [row if isinstance(row, (list, tuple, np.ndarray)) else None for row in rows]
    if any(row is None for row in flat):  # a single task, or no sequence at all
        return _join(tasks)
    return next((_join(row) for row in flat if not _is_task(row, size)), _join(rows[0]))


def _is_task(row: Any, size: int) -> bool:
    try:
        numbers = np.array(row, dtype=float)
    except (TypeError, ValueError):
        return False
    return numbers.shape == (size,) and bool(np.isfinite(numbers).all())


def _join(row: Any) -> str:
    """Returns the numbers of a task as a flag has them, or anything else as Python writes it."""
    is_flat = isinstance(row, (list, tuple, np.ndarray)) and len(row) > 0
    if is_flat and not any(isinstance(each, (list, tuple, np.ndarray)) for each in row):
        return ",".join(map(str, row))[:80]
    return f"{row!r:.80}"


def describe_outside(tasks: np.ndarray, spec: Any) -> list[str]:
    """Returns a line for every number of tasks (N, D) outside the ranges of training and test."""
    low, high = full_range(spec.tasks)
    lines = []
    for task, number in np.argwhere((tasks < low) | (tasks > high)):
        variable = spec.tasks.variables[number]
        lines.append(
            f"task {task}: {variable.name} {tasks[task, number]:g} {variable.unit} is outside "
            f"[{low[number]:g}, {high[number]:g}], so the reference returns are not those of this "
            "task"
        )
    return lines
