"""The one place that puts `envs` and `metarl` together: a config becomes an environment, a learner, an opened run.

Nothing heavy is imported at module level: --help and --list-envs answer without torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metarl.config.schema import TrainConfig, from_yaml
from metarl.core.env import BatchEnv, SceneEnv, missing_members, supports
from metarl.core.errors import CheckpointError, ConfigError, EnvironmentContractError
from metarl.core.tasks import HasOpaqueTasks
from metarl.learners.registry import BASELINE_CONFIGS
from metarl.learners.sb3.config import label
from metarl.runs import provenance


@dataclass(frozen=True)
class Run:
    """A run folder with what was learned in it.

    Attributes:
        path: The folder.
        config: How it was trained.
        env: The environment.
        learner: The learner.
        progress: Where in training the learner stands, once that is known.
    """

    path: Path
    config: TrainConfig[Any]
    env: Any
    learner: Any
    progress: Any = None


def num_threads(config: TrainConfig[Any]) -> int:
    """Threads of the physics and of the update: as asked for, or the cores this process may use."""
    return config.sampler.threads or len(os.sched_getaffinity(0))


def make_env(
    name: str, threads: int = 0, *, observe_task: bool = False, observe_terrain: bool = False
) -> Any:
    """Builds an environment; one of a plug-in is looked for in the current directory too.

    Args:
        name: See `envs/registry.py`.
        threads: Of the physics; 0 takes all cores.
        observe_task: Append the task's numbers to the observation.
        observe_terrain: Append heights of the ground around the robot to the observation.

    Raises:
        ConfigError: There is no such name; the message names the nearest.
        EnvironmentContractError: The code of a plug-in fails; the message names the line.
    """
    from metarl.core.env import UnsupportedHere
    from metarl.envs.plugins.subproc_env import PluginFailure
    from metarl.envs.registry import ENVIRONMENTS, UnknownEnvironment, make

    if ":" in name and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # python puts the folder of train.py there, not this one
    try:
        env = make(name, threads, observe_terrain=observe_terrain)
    except (UnknownEnvironment, UnsupportedHere) as error:
        raise ConfigError(f"--env {name}: {error}") from error
    except PluginFailure as error:
        raise EnvironmentContractError(f"--env {error}") from error
    except Exception as error:
        if name in ENVIRONMENTS:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise EnvironmentContractError(
            f"--env {name}: {words} ({place.filename}, line {place.lineno})"
        ) from error
    lacking = missing_members(env, BatchEnv)
    if lacking:
        raise EnvironmentContractError(
            f"--env {name}: made a {type(env).__name__}, which lacks {', '.join(lacking)}; "
            "metarl/core/env.py says what a BatchEnv is"
        )
    if not observe_task:
        return env
    if supports(env.spec.tasks, HasOpaqueTasks) and env.spec.tasks.opaque:
        raise ConfigError(f"--observe-task: the tasks of {name} are no numbers; leave the flag out")
    from metarl.envs.wrappers.observe_task import ObserveTask

    try:
        return ObserveTask(env)
    except UnsupportedHere as error:
        raise ConfigError(f"--observe-task: {error}") from error


def build_env(config: TrainConfig[Any]) -> Any:
    """Builds the environment of a config, its observation with what a learner shall see beside the robot.

    Raises:
        ConfigError: As `make_env`.
        EnvironmentContractError: As `make_env`.
    """
    return make_env(
        config.env,
        config.sampler.threads,
        observe_task=config.observe_task or is_baseline(config, "oracle"),
        observe_terrain=config.observe_terrain,
    )


def build_learner(config: TrainConfig[Any], env: Any, device: Any) -> Any:
    """Builds the learner of a config for an environment, with fresh parameters."""
    if config.algo in BASELINE_CONFIGS:
        return _build_baseline(config, env, device)
    from metarl.learners.registry import build

    return build(
        config.algo,
        config.learner,
        env.spec.obs_size,
        env.spec.action_size,
        discrete=env.spec.discrete,
        seed=config.seed,
        device=device,
        num_threads=num_threads(config),
    )


def is_baseline(config: TrainConfig[Any], mode: str) -> bool:
    """Whether the learner is a baseline of this mode."""
    return getattr(config.learner, "mode", None) == mode


def _build_baseline(config: TrainConfig[Any], env: Any, device: Any) -> Any:
    from metarl.envs.wrappers.sb3 import vec_env
    from metarl.learners.sb3.learner import build

    try:
        return build(config, env, training_tasks(env, config), vec_env, device=device)
    except ValueError as error:
        raise EnvironmentContractError(f"--env {config.env}: {error}") from error


def training_tasks(env: Any, config: TrainConfig[Any]) -> Any:
    """The distribution of the environment, or a fixed set drawn once from it, as the config or else the definition asks."""
    size = config.sampler.train_tasks or (env.spec.task_split or (0,))[0]
    if size == 0:
        return env.spec.tasks
    from metarl.core.rng import stream
    from metarl.core.tasks import fixed_set

    return fixed_set(env.spec.tasks, stream(config.seed, "train-tasks"), size)


def open_run(path: Path, threads: int = 0) -> Run:
    """Opens a run folder with its newest good checkpoint; warns if its environment has changed since.

    Args:
        path: The folder, wherever it has been moved to.
        threads: Of the physics and of the adaptation; 0 takes all cores.

    Raises:
        CheckpointError: The folder is not a run, or no checkpoint verifies.
    """
    config = read_config(path)
    config = replace(config, sampler=replace(config.sampler, threads=threads))
    env = build_env(config)
    if line := provenance.other_version(path, env.spec):
        print(f"metarl: warning: {line}", file=sys.stderr)
    learner = build_learner(config, env, "cpu")
    return Run(path, config, env, learner, restore_newest(path, learner))


def read_config(path: Path) -> TrainConfig[Any]:
    """Reads how a run was trained.

    Raises:
        CheckpointError: The folder is not a run.
    """
    try:
        return from_yaml(path / "config.yaml")
    except ConfigError as error:
        raise CheckpointError(f"{path} is not a run folder: {error}") from error


def restore_newest(run: Path, learner: Any) -> Any:
    """Brings a learner to the newest checkpoint that verifies and returns where in training that is.

    Raises:
        CheckpointError: None verifies, or it does not fit the learner; names the folder.
    """
    from metarl.runs import checkpoint
    from metarl.training.trainer import restore

    saved = checkpoint.load_newest(
        run / "checkpoints", report=lambda line: print(f"metarl: {line}", file=sys.stderr)
    )
    try:
        return restore(learner, saved)
    except CheckpointError as error:
        raise CheckpointError(f"{run}: {error}") from error


EVALUATION = "evaluation.json"


VIDEO = "videos/adaptation.mp4"


def outdated(run: Run, name: str) -> bool:
    """Whether a file of the run folder is missing or older than the newest checkpoint."""
    path, checkpoints = run.path / name, run.path / "checkpoints"
    return not path.exists() or path.stat().st_mtime < checkpoints.stat().st_mtime


def unfilmed(run: Run) -> bool:
    """Whether one of the films that `film_run` makes by default is missing or outdated."""
    replay = str(Path(VIDEO).with_suffix(".html"))
    films = (VIDEO, replay) if supports(run.env, SceneEnv) else (VIDEO,)
    return any(outdated(run, film) for film in films)


def evaluate_run(
    run: Run, num_tasks: int, num_adaptations: int, oracle: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Evaluates on held-out tasks, prints the table and writes evaluation.json."""
    from metarl.evaluation import evaluate, results, table

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
    print(table.table(result), flush=True)
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
    from metarl.evaluation import evaluate
    from metarl.reporting.episode import View
    from metarl.reporting.film import film_trial, write_films

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
    return write_films(path, run.env, panels, formats, title=title, view=View(size, camera))
