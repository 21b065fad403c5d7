"""Plays held-out tasks before and after adaptation, records it, and writes films and replays."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.core.env import RenderableEnv, SceneEnv, TaskDescriber, supports
from metarl.core.errors import ConfigError, name_failures
from metarl.core.learner import Learner
from metarl.core.parallel import one_torch_thread
from metarl.core.tasks import describe_task
from metarl.reporting.episode import Episode
from metarl.reporting.replay import write_replay
from metarl.reporting.video import write_video
from metarl.sampling.sampler import Key, rollout


def film_trial(
    env: RenderableEnv,
    learner: Learner[Any],
    tasks: np.ndarray,
    *,
    num_episodes: int,
    num_adaptations: int,
    key: Key,
    num_shown: int = 1,
) -> list[list[Episode]]:
    """Adapts with exploration, as in training, and records the policy's mode before and after.

    Args:
        env: The environment.
        learner: The learner; it is not changed.
        tasks: (N, D).
        num_episodes: E, episodes that one adaptation learns from.
        num_adaptations: K.
        key: The streams.
        num_shown: Episodes of each task that are shown, at most E.

    Returns:
        For each task, and of it for each shown episode, a row of that episode before and after K adaptations.

    Raises:
        NumericalError: A gradient of the adaptation is not finite.
        EnvironmentContractError: A task had no valid step to adapt to.
    """
    size = (len(tasks), num_episodes)
    label = f"after {num_adaptations} adaptation" + ("s" if num_adaptations > 1 else "")
    with name_failures(f"video of {env.spec.name}"), one_torch_thread():
        env.set_tasks(tasks, num_episodes)
        context = learner.begin(*size, key.tasks("begin", 0, len(tasks)))
        before = _recorded(env, learner, context, (key, 0), size, num_shown)
        for k in range(num_adaptations):
            collected, context = rollout(env, learner, context, key, k, size)
            rngs = key.tasks("adapt", k + 1, len(tasks))
            context = learner.adapt(context, collected, rngs)
        after = _recorded(env, learner, context, (key, num_adaptations), size, num_shown)
    rows = []
    for index, pair in enumerate(zip(before, after, strict=True)):
        task, episode = tasks[index // num_shown], index % num_shown
        words = env.task_words(task) if supports(env, TaskDescriber) else ""
        if num_shown > 1:
            words = words or describe_task(env.spec.tasks.variables, task)
            words = f"{words}, episode {episode + 1}"
        labels = ("before adaptation", label)
        rows.append(
            [
                Episode(states, reward, task, stage, task_words=words)
                for (states, reward), stage in zip(pair, labels, strict=True)
            ]
        )
    return rows


def _recorded(
    env: RenderableEnv,
    learner: Learner[Any],
    context: Any,
    place: tuple[Key, int],
    size: tuple[int, int],
    num_shown: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """States (L, n) and rewards (L,) of the first episodes of every task in rollout k, place = (key, k)."""
    num_tasks, num_episodes = size
    rows = (np.arange(num_tasks)[:, None] * num_episodes + np.arange(num_shown)).ravel()
    seen: list[np.ndarray] = []
    played, _ = rollout(
        env,
        learner,
        context,
        *place,
        size,
        explore=False,
        observer=lambda _k, _valid: seen.append(env.snapshot()[rows]),
    )
    # an episode that broke down in its first step is shown as the state it was left in
    lengths = played.valid[:, :num_shown].sum(dim=2).clamp(min=1).flatten().tolist()
    rewards = played.reward[:, :num_shown].flatten(0, 1).numpy()
    return [
        (np.stack([states[i] for states in seen[:length]]), rewards[i, :length])
        for i, length in enumerate(lengths)
    ]


def write_films(
    path: Path,
    env: Any,
    panels: Sequence[Sequence[Episode]],
    formats: Sequence[str] | None = None,
    *,
    title: str = "",
    camera: tuple[float, float] | None = None,
    size: int = 480,
) -> list[Path]:
    """Writes episodes as files that differ in their suffix.

    Args:
        path: Of one of the files; the suffix is changed.
        env: Draws the episodes.
        panels: A row for each task, as `film_trial` returns them.
        formats: Of "mp4", "gif" and "html"; None is mp4, and html where the environment has a `scene`.
        title: Of the replay.
        camera: Azimuth and elevation of the view [degrees].
        size: Width and height of a picture [pixels].

    Returns:
        The files.

    Raises:
        ConfigError: The environment has no scene, or films from its own place only; names it and the cure.
    """
    name, staged = env.spec.name, supports(env, SceneEnv)
    formats = formats or (("mp4", "html") if staged else ("mp4",))
    if "html" in formats and not staged:
        raise ConfigError(f"--format html: {name} has no scene to show; take mp4 or gif")
    turns = "camera" in inspect.signature(env.render).parameters
    if camera and not turns and set(formats) != {"html"}:
        cure = "take --format html" if staged else "leave --camera out"
        raise ConfigError(f"--camera: {name} is drawn from its own place; {cure}")
    written = []
    for kind in formats:
        target = path.with_suffix(f".{kind}")
        if kind == "html":
            write_replay(target, env, panels, title=title, camera=camera)
        else:
            write_video(target, env, panels, size=size, camera=camera)
        written.append(target)
    return written
