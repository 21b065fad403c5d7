"""Evaluation: the trial without the update, on held-out tasks, with honest statistics.

The task is the unit: episodes of one task are averaged first, and standard errors and intervals are over tasks.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.core.env import BatchEnv, supports
from metarl.core.errors import name_failures
from metarl.core.learner import Learner
from metarl.core.parallel import one_torch_thread
from metarl.core.rng import stream
from metarl.core.tasks import HasTestTasks
from metarl.evaluation import statistics
from metarl.sampling.sampler import Collector, Key


@dataclass(frozen=True)
class Evaluation:
    """Returns of a learner on tasks, adaptation by adaptation.

    Attributes:
        tasks: (N, D).
        returns: (K + 1, N, E) undiscounted, policy noise on.
        env_steps: Mean environment steps of one task in one rollout, for each of the K + 1.
        faults: (K + 1, N, E) episodes that the simulation broke off; their returns lack what would have followed.
        pools_episodes: Whether an adaptation learned from all E episodes of a task (see `Learner`).
    """

    tasks: np.ndarray
    returns: np.ndarray
    env_steps: list[float]
    faults: np.ndarray
    pools_episodes: bool = True


def held_out_tasks(spec: Any, seed: int, num_tasks: int) -> np.ndarray:
    """Draws test tasks (num_tasks, D) from a stream of their own, so that they are fixed by the seed.

    They come from `spec.tasks.test`, which can be other kinds than those of training. Where the environment has a
    handful of tasks only (`spec.tasks.held_out` is false) they are the training tasks, and `spec.note` says so.
    """
    tasks = spec.tasks.test if supports(spec.tasks, HasTestTasks) else spec.tasks
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

    Args:
        env: The environment.
        learner: The learner; it is not changed.
        tasks: (N, D).
        num_episodes: E, episodes per task and rollout, as many as the learner adapts from.
        num_adaptations: K.
        key: The streams.

    Returns:
        The returns after 0..K adaptations; they do not depend on the number of threads.

    Raises:
        NumericalError: A gradient of the adaptation is not finite.
        EnvironmentContractError: A task had no valid step to adapt to.
    """
    with name_failures(f"evaluation of {env.spec.name}"), one_torch_thread():
        with closing(Collector(env)) as collector:
            rollouts, _ = collector.trial(learner, tasks, num_episodes, num_adaptations, key)
            return Evaluation(
                tasks=tasks,
                returns=np.stack([r.returns().numpy() for r in rollouts]),
                env_steps=[r.num_steps() / len(tasks) for r in rollouts],
                faults=np.stack([r.truncated.numpy() for r in rollouts]),
                pools_episodes=learner.pools_episodes,
            )


def summary(evaluation: Evaluation, spec: Any, algo: str, seed: int) -> dict[str, Any]:
    """Builds the contents of evaluation.json.

    Args:
        evaluation: What was measured.
        spec: The environment's spec: name, floors, note, variables of a task.
        algo: Name of the learner.
        seed: Seed of the bootstrap.

    Returns:
        A tree for JSON; NaN (one task has no standard error) becomes null.
    """
    per_task = evaluation.returns.mean(axis=2)
    pooled, strata = statistics.over_tasks([(evaluation.tasks, per_task)], seed)
    num_tasks, num_episodes = evaluation.returns.shape[1:]
    pools = evaluation.pools_episodes
    return {
        "env": spec.name,
        "env_version": spec.version,
        "algo": algo,
        "seed": seed,
        "num_tasks": num_tasks,
        "episodes_per_task": num_episodes,
        "env_steps_per_rollout": evaluation.env_steps,
        "experience": statistics.count_experience(evaluation.env_steps, num_episodes, pools=pools),
        "held_out": spec.tasks.held_out,
        "note": spec.note,
        "strata": strata,
        "returns": {**pooled, **statistics.per_task(evaluation.returns, seed)},
        "share_of_tasks_made_worse": statistics.share_made_worse(per_task),
        "faulted_episodes": evaluation.faults.sum(axis=(1, 2)).tolist(),
        "task_variables": [{"name": v.name, "unit": v.unit} for v in spec.tasks.variables],
        "tasks": evaluation.tasks.tolist(),
        "floors": spec.floors,
    }
