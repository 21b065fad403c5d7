"""What is made of a run once it is trained: the evaluation on held-out tasks and the films."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarl.core.errors import ConfigError
from metarl.evaluation import evaluate, results
from metarl.experiment import Run, is_baseline
from metarl.learners.sb3.config import label
from metarl.reporting.film import film_trial, write_films

EVALUATION = "evaluation.json"
VIDEO = "videos/adaptation.mp4"


def outdated(run: Run, name: str) -> bool:
    """Whether a file of the run folder is missing or older than the newest checkpoint."""
    path, checkpoints = run.path / name, run.path / "checkpoints"
    return not path.exists() or path.stat().st_mtime < checkpoints.stat().st_mtime


def unfilmed(run: Run) -> bool:
    """Whether one of the films that `film_run` makes by default is missing or outdated."""
    replay = str(Path(VIDEO).with_suffix(".html"))
    films = (VIDEO, replay) if hasattr(run.env, "scene") else (VIDEO,)
    return any(outdated(run, film) for film in films)


def evaluate_run(
    run: Run, num_tasks: int, num_adaptations: int, oracle: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Evaluates on held-out tasks, prints the table and writes evaluation.json."""
    if is_baseline(run.config, "scratch"):  # what has learned one task each is evaluated on these
        result = run.learner.learning_curve(run.env)
    else:
        seed = run.config.seed
        measured = evaluate.evaluate(
            run.env,
            run.learner,
            evaluate.held_out_tasks(run.env.spec, seed, num_tasks),
            num_episodes=run.config.sampler.num_episodes,
            num_adaptations=num_adaptations,
            key=evaluate.Key(seed, "evaluate", 0),
        )
        name = label(run.config.algo, run.config.learner)
        result = evaluate.summary(measured, run.env.spec, name, seed)
    progress = run.progress
    result["checkpoint"] = {"iteration": progress.iteration, "env_steps": progress.env_steps}
    if oracle:
        result["oracle"] = oracle
    print(results.table(result), flush=True)
    results.write(run.path / EVALUATION, result)
    return result


def film_run(
    run: Run,
    num_tasks: int,
    num_adaptations: int,
    formats: Sequence[str] | None = None,
    *,
    num_shown: int = 1,
    camera: tuple[float, float] | None = None,
    size: int = 480,
) -> list[Path]:
    """Films held-out tasks before and after adaptation; by default as mp4, and as a replay where the environment can."""
    seed, num_episodes = run.config.seed, run.config.sampler.num_episodes
    if num_shown > num_episodes:
        cure = f"the run adapts from {num_episodes} episodes, so there are no more"
        raise ConfigError(f"--episodes {num_shown}: {cure}")
    if is_baseline(run.config, "scratch"):
        tasks = run.learner.tasks[:num_tasks]
    else:
        tasks = evaluate.held_out_tasks(run.env.spec, seed, num_tasks)
    panels = film_trial(
        run.env,
        run.learner,
        tasks,
        num_episodes=num_episodes,
        num_adaptations=num_adaptations,
        key=evaluate.Key(seed, "video", 0),
        num_shown=num_shown,
    )
    path = run.path / VIDEO
    title = f"{run.config.env}, {run.config.algo}: {run.path.resolve().name}"
    return write_films(path, run.env, panels, formats, title=title, camera=camera, size=size)
