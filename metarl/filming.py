"""Films of a policy before and after adaptation, and of several policies side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.builders import is_baseline
from metarl.config.identity import label_config
from metarl.core.env import NoPictures, RenderableEnv, SceneEnv, supports
from metarl.core.errors import ConfigError, require
from metarl.core.learner import adapts_while_acting
from metarl.core.machine.files import check_output
from metarl.core.ranges import MOST_ADAPTATIONS, MOST_TASKS, require_count
from metarl.learners.modes import find_mode
from metarl.policies import Given, list_policies, open_policy
from metarl.reporting.limits import FORMATS, MAX_SIZE, MIN_SIZE
from metarl.runs.folder import is_old_film, record_films
from metarl.runs.progress import heartbeat
from metarl.runs.published import name_of
from metarl.sampling.sampler import Key
from metarl.trained_policy import TrainedPolicy

if TYPE_CHECKING:
    from metarl.reporting.episode import View

VIDEO = "videos/adaptation.mp4"
"""Film of held-out tasks in the output folder of a policy."""

CHOSEN = "videos/chosen-tasks.mp4"
"""Film of chosen tasks there, beside that of held-out ones."""


def film(
    policy: Given,
    *,
    tasks: Sequence[Sequence[float]] | np.ndarray | None = None,
    num_tasks: int = 2,
    num_adaptations: int = 1,
    formats: Sequence[str] | None = None,
    num_episodes: int = 1,
    camera: tuple[float, float] | None = None,
    size: int = 480,
    trust_env: bool = False,
) -> list[Path]:
    """Films held-out tasks before and after adaptation, without exploration noise.

    Args:
        policy: The trained policy, its run folder, or its address on the hub.
        tasks: Tasks (N, D) to film, by default held-out ones.
        num_tasks: Number of held-out tasks.
        num_adaptations: Adaptation steps between before and after.
        formats: Of "mp4", "gif" and "html" (a replay in 3-D); by default mp4, and html where
            possible.
        num_episodes: Episodes to show of each task.
        camera: Azimuth and elevation [degrees].
        size: Width and height [pixels], even.
        trust_env: Load the plug-ins that a run folder names, which runs their code.

    Returns:
        The files, in videos/ of the run folder, or of one in runs/ for a published policy.

    Raises:
        NoPictures: The environment cannot draw; says why.
        ConfigError: An argument is out of range or does not fit the run.
    """
    from metarl.reporting.episode import View

    _check(num_tasks, num_adaptations, formats, size)
    require(num_episodes >= 1, "num_episodes", num_episodes, "at least 1")
    with open_policy(policy, trust_env=trust_env) as loaded:
        if not supports(loaded.env, RenderableEnv):
            raise NoPictures(f"{loaded.env.spec.name} draws no pictures")
        chosen, name = _choose_tasks(loaded, tasks, num_tasks), VIDEO if tasks is None else CHOSEN
        view = View(size, camera)
        return _film(loaded, chosen, num_adaptations, formats, num_episodes, view, name)


def _film(
    policy: TrainedPolicy,
    tasks: np.ndarray,
    num_adaptations: int,
    formats: Sequence[str] | None,
    num_episodes: int,
    view: View,
    name: str,
) -> list[Path]:
    from metarl.reporting.film import write_films

    config, env = policy.config, policy.env
    if num_episodes > config.sampler.num_episodes:
        hint = f"the run adapts from {config.sampler.num_episodes} episodes, so there are no more"
        raise ConfigError(f"--episodes {num_episodes}: {hint}")
    title = f"{config.env}, {config.algo}: {name_of(policy.path)}"
    with heartbeat(f"filming {len(tasks)} tasks"):
        key = Key(config.seed, "video", 0)
        panels = _play(policy, tasks, num_adaptations, key, num_episodes)
        path = policy.output / name
        written = write_films(path, env, panels, formats, title=title, view=view)
    record_films(policy.output, written, policy.progress.iteration)
    return written


def film_together(
    policies: Given | Sequence[Given],
    output: str | Path,
    *,
    tasks: Sequence[Sequence[float]] | np.ndarray | None = None,
    num_tasks: int = 2,
    num_adaptations: int = 1,
    formats: Sequence[str] | None = None,
    camera: tuple[float, float] | None = None,
    size: int = 480,
    trust_env: bool = False,
) -> list[Path]:
    """Films policies side by side on the same tasks, after adaptation and without noise.

    All play from the same random streams, so that they start in the same states.

    Args:
        policies: Trained policies of one environment, their run folders, or their addresses on the
            hub; the environment may show the task to some of them.
        output: One of the files; with `formats` the suffix is replaced.
        tasks: Tasks (N, D) to play; by default held-out ones of the first policy.
        num_tasks: Number of held-out tasks.
        num_adaptations: Adaptation steps before the episode that is shown.
        formats: Of "mp4", "gif" and "html"; by default that of the suffix, and for mp4 or none mp4,
            and html where possible.
        camera: Azimuth and elevation [degrees].
        size: Width and height of a picture [pixels], even.
        trust_env: Load the plug-ins that the run folders name, which runs their code.

    Returns:
        The files.

    Raises:
        NoPictures: The environment cannot draw; says why.
        ConfigError: An argument is out of range, the policies have different environments, or the
            folder does not exist.
    """
    from metarl.reporting.episode import View
    from metarl.reporting.film import write_films

    given, output = list_policies(policies), Path(output)
    _check(num_tasks, num_adaptations, formats, size)
    check_output("--output", output, [f".{name}" for name in FORMATS])
    if formats is None and output.suffix.lower() not in ("", ".mp4"):
        formats = (output.suffix.lower()[1:],)
    with ExitStack() as stack:
        loaded = [stack.enter_context(open_policy(each, trust_env=trust_env)) for each in given]
        _require_comparable(loaded)
        first = loaded[0]
        tasks = _choose_tasks(first, tasks, num_tasks)
        key = Key(first.config.seed, "video", 0)
        with heartbeat(f"filming {len(tasks)} tasks with {len(loaded)} policies"):
            columns = [
                _play_last(policy, name, tasks, num_adaptations, key)
                for policy, name in zip(loaded, _name_policies(loaded), strict=True)
            ]
            panels = [list(row) for row in zip(*columns, strict=True)]
            title = f"{first.config.env}: {', '.join(name_of(policy.path) for policy in loaded)}"
            view = View(size, camera)
            return write_films(output, first.env, panels, formats, title=title, view=view)


def _choose_tasks(
    policy: TrainedPolicy, tasks: Sequence[Sequence[float]] | np.ndarray | None, num_tasks: int
) -> np.ndarray:
    """Returns the tasks (N, D) to film: chosen ones, those of a policy from scratch, or held-out.

    Raises:
        ConfigError: Chosen tasks do not fit the environment, or the policy knows its own alone.
    """
    from metarl.evaluation.evaluate import check_chosen_tasks, held_out_tasks

    is_scratch = is_baseline(policy.config, "scratch")
    if tasks is not None:
        if is_scratch:
            raise ConfigError("--task: has no effect on policies from scratch; leave it out")
        return check_chosen_tasks(tasks, policy.env.spec)
    if is_scratch:
        return policy.learner.tasks[:num_tasks]
    return held_out_tasks(policy.env.spec, policy.config.seed, num_tasks)


def _require_comparable(policies: Sequence[TrainedPolicy]) -> None:
    """Requires policies that can play the same tasks of an environment that draws.

    Raises:
        NoPictures: The environment cannot draw.
        ConfigError: They have different environments, or one knows one task alone.
    """
    names = {policy.config.env for policy in policies}
    if len(names) > 1:
        raise ConfigError(f"runs of different environments: {', '.join(sorted(names))}")
    if any(is_baseline(policy.config, "scratch") for policy in policies):
        raise ConfigError("a policy from scratch knows one task; film it by itself")
    env = policies[0].env
    if not supports(env, RenderableEnv):
        raise NoPictures(f"{env.spec.name} draws no pictures")


def _check(num_tasks: int, num_adaptations: int, formats: Sequence[str] | None, size: int) -> None:
    """Checks what all films have in common.

    Raises:
        ConfigError: A number is out of range, or a format is unknown; names it.
    """
    require_count("num_tasks", num_tasks, 1, MOST_TASKS)
    require_count("num_adaptations", num_adaptations, 1, MOST_ADAPTATIONS)
    is_known = formats is None or (len(formats) > 0 and set(formats) <= set(FORMATS))
    require(is_known, "formats", formats, f"a list of {', '.join(FORMATS)}")
    is_size = size % 2 == 0 and MIN_SIZE <= size <= MAX_SIZE
    require(is_size, "size", size, f"even, from {MIN_SIZE} to {MAX_SIZE}")


def _name_policies(policies: Sequence[TrainedPolicy]) -> list[str]:
    """Names policies by learner and seed, and by the name of the run where these are the same."""
    names = [f"{label_config(each.config)}, seed {each.config.seed}" for each in policies]
    runs = [name_of(each.path) for each in policies]
    return [
        f"{run}: {name}" if names.count(name) > 1 else name
        for run, name in zip(runs, names, strict=True)
    ]


def _play_last(
    policy: TrainedPolicy, name: str, tasks: np.ndarray, num_adaptations: int, key: Key
) -> list[Any]:
    """Returns an episode of each task after adaptation, whose caption has the policy's name."""
    played = _play(policy, tasks, num_adaptations, key)
    return [replace(row[-1], name=name, env=policy.env) for row in played]


def _play(
    policy: TrainedPolicy, tasks: np.ndarray, num_adaptations: int, key: Key, num_shown: int = 1
) -> list[list[Any]]:
    """Returns episodes of tasks before and after adaptation; one alone if it does not adapt."""
    from metarl.reporting.film import film_trial

    config = policy.config
    adapts = "memory" if adapts_while_acting(policy.learner) else "gradient"
    return film_trial(
        policy.env,
        policy.learner,
        tasks,
        num_episodes=config.sampler.num_episodes,
        num_adaptations=num_adaptations,
        key=key,
        num_shown=num_shown,
        adapts=adapts if find_mode(config.learner) is None else "no",
    )


def is_film_stale(policy: TrainedPolicy) -> bool:
    """Returns whether a file that `film` writes is missing or not of the newest checkpoint."""
    video, newest = policy.path / VIDEO, policy.progress.iteration
    has_replay = supports(policy.env, SceneEnv)
    paths = [video, video.with_suffix(".html")] if has_replay else [video]
    return any(not p.exists() or is_old_film(policy.path, p, newest) for p in paths)
