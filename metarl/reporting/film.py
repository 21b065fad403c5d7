"""Plays held-out tasks before and after adaptation, and writes them as films and replays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metarl.core.env import MovableCamera, RenderableEnv, SceneEnv, TaskDescriber, supports
from metarl.core.errors import ConfigError, name_failures
from metarl.core.learner import Learner
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.messages import describe_error, warn
from metarl.core.tasks import describe_task
from metarl.reporting.episode import Episode, View
from metarl.reporting.replay import write_replay
from metarl.reporting.video import write_video
from metarl.sampling.sampler import Key, rollout

Adapts = Literal["gradient", "memory", "no"]
"""How a policy adapts: between episodes, while it acts, or not at all."""


def film_trial(
    env: RenderableEnv,
    learner: Learner[Any],
    tasks: np.ndarray,
    *,
    num_episodes: int,
    num_adaptations: int,
    key: Key,
    num_shown: int = 1,
    adapts: Adapts = "gradient",
) -> list[list[Episode]]:
    """Adapts with exploration, as in training, and records the policy's mode before and after.

    Args:
        env: The environment.
        learner: The learner; it is not changed.
        tasks: (N, D).
        num_episodes: E, episodes that one adaptation learns from.
        num_adaptations: K.
        key: Key of the random streams.
        num_shown: Episodes of each task that are shown, at most E.
        adapts: How the policy adapts, which stands above its episodes.

    Returns:
        N * num_shown rows, task by task: an episode before and after K adaptations; the latter
        alone of a policy that does not adapt.

    Raises:
        NumericalError: A gradient of the adaptation is not finite.
        EnvironmentContractError: A task had no valid step to adapt to.
    """
    size = (len(tasks), num_episodes)
    with name_failures(f"video of {env.spec.name}"), one_torch_thread():
        env.set_tasks(tasks, num_episodes)
        context = learner.begin(*size, key.tasks("begin", 0, len(tasks)))
        before = _record(env, learner, context, (key, 0), size, num_shown)
        for k in range(num_adaptations):
            explored, context = rollout(env, learner, context, key, k, size)
            context = learner.adapt(context, explored, key.tasks("adapt", k + 1, len(tasks)))
        after = _record(env, learner, context, (key, num_adaptations), size, num_shown)
    stages = _name_stages(adapts, num_adaptations)
    rows = []
    for index, pair in enumerate(zip(before, after, strict=True)):
        task, number = tasks[index // num_shown], index % num_shown
        text = _describe(env, task) + (f", episode {number + 1}" if num_shown > 1 else "")
        rows.append(
            [
                Episode(states, reward, task, text, stage, env.spec.dt)
                for (states, reward), stage in zip(pair, stages, strict=True)
            ]
        )
    return [row[-1:] for row in rows] if adapts == "no" else rows


def _name_stages(adapts: Adapts, num_adaptations: int) -> tuple[str, str]:
    """Returns what stands above an episode before and after K adaptations of a policy."""
    if adapts == "no":
        return "", "does not adapt"
    plural = "s" if num_adaptations > 1 else ""
    if adapts == "memory":
        return "adapts while it acts", f"after {num_adaptations} rollout{plural}"
    return "before adaptation", f"after {num_adaptations} adaptation{plural}"


def _describe(env: RenderableEnv, task: np.ndarray) -> str:
    """Describes a task (D,), in the environment's own words where it has some."""
    text = ""
    try:
        text = env.task_words(task) if supports(env, TaskDescriber) else ""
    except Exception as error:  # the code of a plug-in may raise anything
        reason = error if isinstance(error, ValueError) else describe_error(error)
        warn(f"{reason}; the numbers of the task describe it")
    return text or describe_task(env.spec.tasks.variables, task)


def _record(
    env: RenderableEnv,
    learner: Learner[Any],
    context: Any,
    place: tuple[Key, int],
    size: tuple[int, int],
    num_shown: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Plays the policy's mode, and returns states and rewards of the first episodes of every task.

    Args:
        env: The environment, with its tasks set.
        learner: The learner.
        context: The state of its adaptation.
        place: The key of the random streams, and k, the number of the rollout.
        size: (N, E).
        num_shown: Episodes of each task that are returned.

    Returns:
        States (L, n) and rewards (L,) of N * num_shown episodes, task by task.
    """
    num_tasks, num_episodes = size
    rows = (np.arange(num_tasks)[:, None] * num_episodes + np.arange(num_shown)).ravel()
    snapshots: list[np.ndarray] = []
    played, _ = rollout(
        env,
        learner,
        context,
        *place,
        size,
        explore=False,
        observer=lambda _k, _valid: snapshots.append(env.snapshot()[rows]),
    )
    # an episode whose simulation failed in its first step is shown as the state it was left in
    lengths = played.valid[:, :num_shown].sum(dim=2).clamp(min=1).flatten().tolist()
    rewards = played.reward[:, :num_shown].flatten(0, 1).numpy()
    return [
        (np.stack([states[i] for states in snapshots[:length]]), rewards[i, :length])
        for i, length in enumerate(lengths)
    ]


def write_films(
    path: Path,
    env: Any,
    panels: Sequence[Sequence[Episode]],
    formats: Sequence[str] | None = None,
    *,
    title: str = "",
    view: View | None = None,
) -> list[Path]:
    """Writes episodes as files that differ in their suffix.

    Args:
        path: Path of one of the files; the suffix is replaced.
        env: A `RenderableEnv`; some formats and a camera need more of it.
        panels: A row for each task, as `film_trial` returns them.
        formats: Of "mp4", "gif" and "html"; None is mp4, and html for a `SceneEnv`.
        title: Title of the replay; by default the name of the environment.
        view: Size and direction of the pictures; by default `View()`.

    Returns:
        The files.

    Raises:
        ValueError: There is no task, or a task without an episode.
        ConfigError: The environment has no scene, or its camera cannot be moved; names it and a
            hint.
    """
    if not panels or not all(panels):
        raise ValueError("a film needs at least one task, and every task at least one episode")
    name, view = env.spec.name, view or View()
    formats = formats or (("mp4", "html") if supports(env, SceneEnv) else ("mp4",))
    if "html" in formats and not supports(env, SceneEnv):
        raise ConfigError(f"--format html: {name} has no scene to show; take mp4 or gif")
    if view.camera and not supports(env, MovableCamera) and set(formats) != {"html"}:
        hint = "take --format html" if supports(env, SceneEnv) else "leave --camera out"
        raise ConfigError(f"--camera: {name} has a fixed camera; {hint}")
    written = []
    for suffix in formats:
        target = path.with_suffix(f".{suffix}")
        if suffix == "html":
            write_replay(target, env, panels, title=title or name, camera=view.camera)
        else:
            write_video(target, env, panels, view)
        written.append(target)
    return written
