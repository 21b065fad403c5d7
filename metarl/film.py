"""Plays held-out tasks before and after adaptation and records what a video shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.collect import Key, rollout
from metarl.errors import naming_failures
from metarl.threads import one_torch_thread
from metarl.types import BatchEnv, Learner
from metarl.video import Episode


def film_trial(
    env: BatchEnv,
    learner: Learner[Any],
    tasks: np.ndarray,
    *,
    num_episodes: int,
    num_adaptations: int,
    key: Key,
) -> list[list[Episode]]:
    """Adapts with exploration, as in training, and records the policy's mode before and after.

    Args:
        env: The environment.
        learner: The learner; it is not changed.
        tasks: (N, D).
        num_episodes: E, episodes that one adaptation learns from.
        num_adaptations: K.
        key: The streams.

    Returns:
        For each task the first episode before and the first one after K adaptations.

    Raises:
        NumericalError: A gradient of the adaptation is not finite.
        EnvironmentContractError: A task had no valid step to adapt to.
    """
    size = (len(tasks), num_episodes)
    label = f"after {num_adaptations} adaptation" + ("s" if num_adaptations > 1 else "")
    with naming_failures(f"video of {env.spec.name}"), one_torch_thread():
        env.set_tasks(tasks, num_episodes)
        context = learner.begin(*size)
        before = _recorded(env, learner, context, key, 0, tasks, num_episodes, "before adaptation")
        for k in range(num_adaptations):
            collected, context = rollout(env, learner, context, key, k, size)
            context = learner.adapt(context, collected)
        after = _recorded(env, learner, context, key, num_adaptations, tasks, num_episodes, label)
    return [list(pair) for pair in zip(before, after, strict=True)]


def _recorded(
    env: BatchEnv,
    learner: Learner[Any],
    context: Any,
    key: Key,
    k: int,
    tasks: np.ndarray,
    num_episodes: int,
    label: str,
) -> list[Episode]:
    rows = np.arange(len(tasks)) * num_episodes
    states: list[np.ndarray] = []
    played, _ = rollout(
        env,
        learner,
        context,
        key,
        k,
        (len(tasks), num_episodes),
        explore=False,
        observer=lambda _k, snapshot, _alive: states.append(snapshot[rows]),
    )
    # an episode that broke down in its first step is shown as the state it was left in
    words = getattr(env, "task_words", lambda task: "")  # what numbers do not say
    lengths = played.valid[:, 0].sum(dim=1).clamp(min=1).tolist()
    return [
        Episode(
            states=np.stack([s[i] for s in states[:length]]),
            reward=played.reward[i, 0, :length].numpy(),
            task=task,
            label=label,
            task_words=words(task),
        )
        for i, (task, length) in enumerate(zip(tasks, lengths, strict=True))
    ]
