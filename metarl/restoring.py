"""Reading runs: settings, recorded environment, and the newest checkpoint into a learner.

Nothing heavy is imported at module level, so that --help and --list-envs answer without torch.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl.builders import build_env, is_baseline
from metarl.config.identity import describe_identity
from metarl.config.schema import TrainConfig, from_yaml
from metarl.config.trust import Untrusted
from metarl.core.env import supports
from metarl.core.errors import CheckpointError, ConfigError
from metarl.core.messages import notify, show
from metarl.runs import published
from metarl.runs.folder import is_untrained
from metarl.runs.recorded import read_spec


def read_config(path: Path, flag: str = "", *, trusts: bool = False) -> TrainConfig[Any]:
    """Reads the settings of a run; a message begins with the flag that names it.

    Args:
        path: The folder.
        flag: The flag, followed by a space.
        trusts: The user trusts the environment and the learner that it names.

    Raises:
        CheckpointError: The folder is not a run, or is a published policy that is damaged.
        Untrusted: Its learner is code that the user has not named.
    """
    published.read(path)
    try:
        return from_yaml(path / "config.yaml", trusts=trusts)
    except Untrusted:
        raise
    except ConfigError as error:
        raise CheckpointError(f"{flag}{path} is not a run folder: {error}") from error


def load_newest(run: Path) -> Any:
    """Returns the newest checkpoint of a run that can be verified and is finite.

    Raises:
        CheckpointError: There is none; names the folder.
    """
    from metarl.runs import checkpoint

    return checkpoint.load_newest(
        run / "checkpoints",
        report=notify,
        needs_finite=True,
    )


def check_settings(run: Path, saved: Any) -> None:
    """Refuses a config.yaml that is not the one that a checkpoint was trained with.

    Checkpoints of older versions and of published policies say nothing of it.

    Raises:
        CheckpointError: A setting differs; names it, and both values.
    """
    now = describe_identity(read_config(run)) if saved.settings else {}
    for name, value in now.items():
        trained = saved.settings.get(name, value)
        if trained != value:
            text = f"{run / 'config.yaml'} has {name}: {value:.80}"
            was = f"iteration {saved.step} was trained with {trained:.80}"
            raise CheckpointError(f"{text}, but {was}; restore the file")


def restore_newest(run: Path, learner: Any) -> Any:
    """Restores a learner from the newest checkpoint that can be verified; returns its progress.

    Raises:
        CheckpointError: None can be verified, it is not of config.yaml, or it does not fit the
            learner; names the folder.
    """
    from metarl.training.trainer import restore

    saved = load_newest(run)
    check_settings(run, saved)
    if record := published.read(run):
        fresh = learner.state_dict()
        omitted = {name: fresh[name] for name in record.omitted if name in fresh}
        saved = replace(saved, tensors={**saved.tensors, **omitted})
    try:
        return restore(learner, saved)
    except CheckpointError as error:
        raise CheckpointError(f"{run}: {error}") from error


def restore_progress(config: TrainConfig[Any], learner: Any) -> Any:
    """Restores the learner of a resumed run, and returns the progress of the training.

    Raises:
        CheckpointError: No checkpoint can be used.
    """
    from metarl.training.trainer import Progress

    if not config.resume:
        return Progress()
    if is_untrained(config.resume):
        place = shlex.quote(str(config.resume))
        hint = f"the command that started it, with --run-dir {place}, starts it anew"
        raise CheckpointError(f"{config.resume} stopped before anything was trained; {hint}")
    return restore_newest(config.resume, learner)


def initialise_from(run: Path, config: TrainConfig[Any], learner: Any) -> dict[str, Any]:
    """Starts a learner from the newest checkpoint of another run; returns what run.json records.

    A replay store starts empty, because its entries may be of other tasks. What `HasSchedule`
    resets, such as step sizes and counts of updates, begins anew.

    Raises:
        ConfigError: The other run has another learner, or this one trains from scratch.
        CheckpointError: It is not a run, or its checkpoint does not fit.
    """
    from metarl.core.learner import HasReplay, HasSchedule, StartsFromOtherTasks

    if is_baseline(config, "scratch"):
        hint = "leave the flag out, or take another --learner.mode"
        raise ConfigError(f"--init-from {run}: policies from scratch start untrained; {hint}")
    source = read_config(run, "--init-from ", trusts=config.trust_env)
    if source.algo != config.algo:
        hint = f"give a run of {config.algo}, or --algo {source.algo}"
        raise ConfigError(f"--init-from {run}: a run of {source.algo}; {hint}")
    if supports(learner, StartsFromOtherTasks):
        state = _start_from(run, source, learner)
    else:
        state = restore_newest(run, learner).state()
        if supports(learner, HasReplay):
            learner.load_replay({})
        if supports(learner, HasSchedule):
            learner.reset_schedule()
    return {"run": str(run), "iteration": state["iteration"], "env_steps": state["env_steps"]}


def _start_from(run: Path, source: TrainConfig[Any], learner: Any) -> dict[str, Any]:
    """Starts a learner from a run that may have other tasks; returns the progress of that run.

    Raises:
        CheckpointError: None can be verified, or it does not fit the learner; names the folder.
    """
    saved = load_newest(run)
    check_settings(run, saved)
    tasks = _read_tasks(source, run)
    try:
        text = learner.start_from(saved.tensors, tasks)
    except ValueError as error:
        hint = "it is of other observations, actions or networks"
        raise CheckpointError(f"--init-from {run}: does not fit ({error}): {hint}") from error
    show(f"from iteration {saved.step} of {run} on {source.env}: {text}")
    return saved.state


def _read_tasks(config: TrainConfig[Any], run: Path) -> Any:
    """Returns the distribution of the tasks of a run, recorded or built."""
    if recorded := read_spec(run):
        return recorded.tasks
    env = build_env(config, run=run)
    env.close()
    return env.spec.tasks
