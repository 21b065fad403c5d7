"""Composition root: from a config to an environment, a learner and a trained policy.

Nothing heavy is imported at module level, so that --help and --list-envs answer without torch.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl.builders import (
    build_env,
    build_learner,
    check_plugin,
    is_baseline,
    is_batch_env,
    keep_robot,
    num_threads,
    training_tasks,
)
from metarl.collecting import (
    build_collector,
    collecting_env,
    describe_physics,
    require_experience,
)
from metarl.config.schema import TrainConfig, to_yaml
from metarl.config.trust import resume_command, trust
from metarl.core.errors import (
    CheckpointError,
    ConfigError,
    MetarlError,
    NumericalError,
)
from metarl.core.machine.files import write_atomically
from metarl.core.messages import notify, show
from metarl.learners import registry
from metarl.learners.modes import label
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.restoring import (
    initialise_from,
    read_config,
    restore_newest,
    restore_progress,
)
from metarl.runs import folder, hub, provenance, published
from metarl.runs.progress import heartbeat
from metarl.runs.recorded import RecordedEnv
from metarl.runs.sources import hash_sources
from metarl.trained_policy import TrainedPolicy
from metarl.training import curriculum, processes
from metarl.training.launch import read_launch
from metarl.training.place import FolderLost

# --- training -------------------------------------------------------------------------------------


def train(config: TrainConfig[Any], env: Any = None) -> TrainedPolicy:
    """Trains a policy in a run folder, without the evaluation and the videos at the end.

    Args:
        config: The settings.
        env: The environment that the config names, where it is given as an object (see `make_env`).

    Returns:
        The trained policy; of several processes that torchrun has started, it is the same in all.

    Raises:
        MetarlError: Settings, environment, numbers or machine do not allow the training; the
            message says how to resume.
    """
    from metarl.training.distributed import open_group, pick_own_device

    launch = read_launch()
    processes.require_tasks(config, launch)
    device = pick_own_device(config.device, launch)
    with open_group(launch, device, config.device) as group:
        return _train_in_group(config, env, device, group)


def _train_in_group(config: TrainConfig[Any], env: Any, device: Any, group: Any) -> TrainedPolicy:
    from metarl.evaluation.evaluate import held_out_tasks
    from metarl.runs.sinks import make_sink

    # all checks that can fail come before anything is written
    if config.resume:
        published.refuse_resume(config.resume)
    make_sink(config.trainer)
    is_given = is_batch_env(env)
    with ExitStack() as on_failure:
        with heartbeat("building the environment and the learner"):
            env = build_env(config, env)
            if not is_given:
                on_failure.callback(env.close)
            if config.check and not config.resume:
                check_plugin(config.env, env)
            collecting = collecting_env(config, env)
            learner = build_learner(config, collecting, device)
        processes.require_support(config, learner, group)
        require_experience(config)
        has_own_loop = registry.find_algorithm(config.algo).has_own_loop
        held_out_tasks(env.spec, config.seed, max(1, config.trainer.evaluate_tasks))
        tasks = training_tasks(env, config)
        curriculum.require_levels(config, env, tasks, has_own_loop=has_own_loop)
        source = None
        if config.init_from and not config.resume:
            source = initialise_from(config.init_from, config, learner)
        collector = build_collector(config, collecting, learner, group, is_given=is_given)
        facts = {"source": source, "group": group}
        with closing(collector), processes.join(learner, group):
            policy = _train_in_folder(config, (env, collector), learner, device, **facts)
        on_failure.pop_all()
    policy.is_env_owned = not is_given
    return policy


def _train_in_folder(
    config: TrainConfig[Any],
    places: tuple[Any, Any],
    learner: Any,
    device: Any,
    source: dict[str, Any] | None,
    group: Any,
) -> TrainedPolicy:
    """Trains in the run folder; places are the environment and the collector of the training."""
    from metarl.runs.logger import NoLog
    from metarl.training.trainer import Trainer

    env, collector = places
    facts = {"device": device.type, "version of the environment": env.spec.version}
    if not config.resume:  # the folder of a new run is created after all checks
        processes.require_same_start(config, learner, group, facts)
    with open_folder(config, group) as path:
        if config.resume:
            refuse_other_version(path, env.spec)
        progress = restore_progress(config, learner)
        policy = TrainedPolicy(path, config, learner, progress, _env=env)
        if config.resume:
            processes.require_same_start(config, learner, group, facts)
        if progress.iteration >= config.iterations:
            hint = "raise --iterations to train longer"
            show(f"{path} is finished: {progress.iteration} iterations are done; {hint}")
            return policy
        with resume_hint_on_failure(policy):
            if not group.rank:
                record_start(policy, device, source)
            with nullcontext(NoLog()) if group.rank else open_log(policy) as log:
                tasks = training_tasks(env, config)
                start = progress if config.resume else None
                trainer = Trainer(env, learner, tasks, config, path, log, start, collector)
                trainer.run(group)
    policy.num_trained = trainer.progress.iteration - progress.iteration
    policy.progress = trainer.progress
    return policy


@contextmanager
def open_folder(config: TrainConfig[Any], group: Any) -> Generator[Path]:
    """Creates the run folder, or takes that of a resumed run, and locks it.

    The first process of a group does it for all. The folder of a run that was stopped before its
    first checkpoint is emptied and taken.

    Raises:
        RunExists: It exists, and something was trained in it.
        ConfigError: Another process works there.
        ResourceError: It cannot be created.
    """
    with ExitStack() as held:

        def open_it() -> str:
            if group.rank:
                return ""
            name = label(config.algo, config.learner)
            path = config.run_dir or folder.choose_run_dir(config.env, name, config.seed)
            settings = to_yaml(config)
            if not config.resume:
                folder.create(path, settings)
            held.enter_context(folder.lock(path))
            if config.resume:
                folder.sweep(path / "checkpoints")
            else:
                folder.clear(path, settings)
            return str(path)

        yield Path(group.gather(open_it)[0])


def refuse_other_version(path: Path, spec: Any) -> None:
    """Refuses to resume a run that was started with another version of its environment.

    Raises:
        CheckpointError: The versions differ; names both.
    """
    if line := provenance.describe_version_change(path, spec):
        hint = "start a new run, or continue with the code that this one was started with"
        raise CheckpointError(f"{line}; {hint}")


def record_start(policy: TrainedPolicy, device: Any, source: dict[str, Any] | None = None) -> None:
    """Writes config.yaml and run.json, and prints a line about the training.

    Args:
        policy: The policy before training.
        device: Device of the update.
        source: The run that a fine-tuned policy starts from.
    """
    path, config, spec = policy.path, policy.config, policy.env.spec
    # a resumed run may have other iterations or threads than before; the next resume keeps them
    write_atomically(path / "config.yaml", to_yaml(config))
    keep_robot(config, path)
    facts: dict[str, Any] = {"device": _device_name(device), "threads": num_threads(config)}
    facts |= {"processes": read_launch().size, "physics": describe_physics(config)}
    facts |= {"is_deterministic": _is_deterministic(), "init_from": source}
    facts["sources"] = hash_sources(config.env, config.algo)
    for line in provenance.write_run_json(path, spec, **facts):
        notify(f"the run no longer repeats bit for bit: {line}")
    sampler, start = config.sampler, policy.progress.iteration
    rollouts = sampler.num_adaptations + 1
    steps = sampler.num_tasks * sampler.num_episodes * rollouts * spec.horizon
    begin = f"from iteration {start} on, training" if config.resume else "training"
    show(
        f"{begin} {label(config.algo, config.learner)} on {config.env}: "
        f"{config.iterations} iterations of {sampler.num_tasks} tasks x {sampler.num_episodes} "
        f"episodes x {rollouts} rollouts (up to {steps:,} steps), update on {device}, "
        f"run folder {path}",
    )


def open_log(policy: TrainedPolicy) -> Any:
    """Opens the log of a run: metrics.jsonl, the chosen logger, progress on the terminal."""
    from metarl.runs.logger import RunLog
    from metarl.runs.progress import estimate_finish
    from metarl.runs.sinks import make_sink

    config = policy.config
    return RunLog(
        policy.path,
        total_iterations=config.iterations,
        resume=config.resume is not None,
        start_iteration=policy.progress.iteration,
        sink=make_sink(config.trainer),
        finish_iterations=estimate_finish(config),
    )


@contextmanager
def resume_hint_on_failure(policy: TrainedPolicy) -> Generator[None]:
    """Adds the command that continues the run to an error or interrupt, where that can help."""
    try:
        yield
    except (NumericalError, FolderLost):
        raise  # the same numbers would come again, or the message has another folder
    except MetarlError as error:
        hint = f"resume with: {resume_hint(policy)}"
        if folder.newest_step(policy.path) is None:
            hint = "nothing is saved yet; the same command starts anew"
        raise type(error)(f"{error}; {hint}") from error
    except KeyboardInterrupt as error:
        if folder.newest_step(policy.path) is None:
            raise
        hint = f"the last checkpoint is kept; resume with: {resume_hint(policy)}"
        error.args = (hint,)
        raise


def resume_hint(policy: TrainedPolicy) -> str:
    """Returns the command that resumes a run, whose code the user has named already."""
    return resume_command(policy.path, policy.config.env, policy.config.algo)


def _is_deterministic() -> bool:
    """Tests whether torch and cuBLAS are set up to repeat sums on a GPU bit for bit."""
    import torch

    # without the variable, cuBLAS chooses among several streams with workspaces of their own
    has_workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG") in (":4096:8", ":16:8")
    return torch.are_deterministic_algorithms_enabled() and has_workspace


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


# --- trained runs ---------------------------------------------------------------------------------


def load(
    run: str | Path,
    threads: int = 0,
    env: Any = None,
    *,
    is_teacher: bool = False,
    trust_env: bool = False,
) -> TrainedPolicy:
    """Loads the newest good checkpoint of a run folder.

    The environment is built when it is first used, except for baselines from scratch, whose tasks
    are drawn from it, and for teachers, which are built with it.

    Args:
        run: The folder, wherever it has been moved to, or hf://ORG/NAME[@REVISION].
        threads: Physics and adaptation threads; 0 uses all cores.
        env: The environment of training as an object, where its name does not lead to it.
        is_teacher: Load the teacher of a student, which acts with the task observed: an oracle.
        trust_env: Load the plug-in environment and learner that the folder names, which runs code.

    Raises:
        CheckpointError: The folder is not a run, or none of its checkpoints can be verified.
        ConfigError: The run has no teacher, the address cannot be used (see
            `metarl.runs.hub.find_run`), or the learner is code that is not trusted.
        ResourceError: The hub cannot be reached.
    """
    path = hub.find_run(run)
    trust(env)
    config = read_config(path, trusts=trust_env)
    config = replace(config, sampler=replace(config.sampler, threads=threads))
    if is_teacher:
        if not isinstance(config.learner, TeacherStudentConfig):
            hint = "give a run of teacher-student"
            raise ConfigError(f"--teacher: {path} is a run of {config.algo}; {hint}")
        config = replace(config, learner=replace(config.learner, mode="oracle"))
    policy = TrainedPolicy(path, config, None, is_teacher=is_teacher)
    if env is not None:
        policy._env, policy.is_env_owned = build_env(config, env), not is_batch_env(env)
    with ExitStack() as on_failure, heartbeat(f"loading {path}"):
        on_failure.callback(policy.close)
        # from scratch the tasks are drawn from the environment, and a teacher observes them
        needs_env = is_teacher or is_baseline(config, "scratch")
        used = policy.env if needs_env else RecordedEnv(policy.spec)
        policy.learner = build_learner(config, used, "cpu")
        policy.progress = restore_newest(path, policy.learner)
        on_failure.pop_all()
    return policy
