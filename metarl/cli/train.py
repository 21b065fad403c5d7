"""The command line: `train.py` and `python -m metarl <verb>`.

Nothing heavy is imported at module level: --help and --list-envs answer without torch.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from metarl import experiment
from metarl.config.schema import parse, to_yaml
from metarl.core import files
from metarl.core.errors import (
    CheckpointError,
    MetarlError,
    NumericalError,
    Preempted,
    reporting,
)
from metarl.experiment import (
    Run,
    build_env,
    build_learner,
    num_threads,
    restore_newest,
    training_tasks,
)
from metarl.learners.sb3.config import label
from metarl.runs import provenance

# ------------------------------------------------------------------------------------------------ train


def train_main(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py`; returns the exit code."""
    return reporting(lambda: _train(list(sys.argv[1:] if argv is None else argv)))


def _train(argv: list[str]) -> None:
    config = parse(argv)
    if config.list_envs:
        print(_description(config) if config.env else list_envs())
        return
    env = build_env(config)
    from metarl.runs import folder as run_folder
    from metarl.runs.sinks import make_sink
    from metarl.training.trainer import pick_device

    # whatever can be refused is refused before anything is written
    make_sink(config.trainer)
    device = pick_device(config.device)
    learner = build_learner(config, env, device)
    name = label(config.algo, config.learner)
    path = config.run_dir or run_folder.choose_run_dir(config.env, name, config.seed)
    if not config.resume:
        run_folder.create(path)
    with run_folder.lock(path):
        _train_in(Run(path, config, env, learner), device)


def _train_in(run: Run, device: Any) -> None:
    """Trains in a folder that is there, evaluates and films."""
    from metarl.training.trainer import Progress

    resume, total = run.config.resume, run.config.iterations
    if resume:
        _refuse_other_version(run)
    progress = restore_newest(run.path, run.learner) if resume else Progress()
    if progress.iteration >= total:
        cure = "raise --iterations to train on"
        print(f"{run.path} is finished, all {progress.iteration} iterations are done; {cure}")
        _finish(replace(run, progress=progress), again=False)
        return
    with _saying_where_it_stands(run):
        _record_start(run, device)
        _say_start(run, device, progress.iteration)
        reached = _iterate(run, progress)
    _finish(replace(run, progress=reached), again=True)
    print(f"done: {run.path}")


def _refuse_other_version(run: Run) -> None:

    if line := provenance.describe_version_change(run.path, run.env.spec):
        cure = "start a new run, or go on with the code that this one was started with"
        raise CheckpointError(f"{line}; {cure}")


def _record_start(run: Run, device: Any) -> None:
    """Writes config.yaml and run.json; says what makes a resumed run differ from an uninterrupted one."""
    # a resumed run may have other iterations or threads than before; the next resume keeps them
    files.write_atomically(run.path / "config.yaml", to_yaml(run.config))
    where = _device_name(device)
    spec, threads = run.env.spec, num_threads(run.config)
    changed = provenance.write_run_json(run.path, spec, device=where, threads=threads)
    for line in changed:
        print(f"metarl: bit-for-bit resume is void: {line}", file=sys.stderr)


def _say_start(run: Run, device: Any, start: int) -> None:
    config, sampler = run.config, run.config.sampler
    steps = sampler.num_tasks * sampler.num_episodes * (sampler.num_adaptations + 1)
    verb = f"from iteration {start} on, training" if config.resume else "training"
    print(
        f"{verb} {label(config.algo, config.learner)} on {config.env}: {sampler.num_tasks} tasks x "
        f"{sampler.num_episodes} episodes x {sampler.num_adaptations + 1} rollouts, up to "
        f"{steps * run.env.spec.horizon:,} steps an iteration, update on {device}, "
        f"run folder {run.path}",
        flush=True,
    )


def _iterate(run: Run, progress: Any) -> Any:
    """Trains and returns how far; a failure says how to go on where that can help."""
    from metarl.runs.logger import RunLog
    from metarl.runs.progress import estimate_finish
    from metarl.runs.sinks import make_sink
    from metarl.training.trainer import Trainer

    config = run.config
    log = RunLog(
        run.path,
        total_iterations=config.iterations,
        resume=config.resume is not None,
        start_iteration=progress.iteration,
        sink=make_sink(config.trainer),
        finish_iterations=estimate_finish(config),
    )
    tasks = training_tasks(run.env, config)
    # only of a resumed run is there a checkpoint of where it stands
    standing = progress if config.resume else None
    try:
        with log:
            trainer = Trainer(run.env, run.learner, tasks, config, run.path, log, standing)
            trainer.run()
        return trainer.progress
    except NumericalError:
        raise  # the same numbers would come again
    except MetarlError as error:
        raise type(error)(f"{error}; go on with: {_resuming(run)}") from error


@contextmanager
def _saying_where_it_stands(run: Run) -> Generator[None]:
    """Says how to go on after a Ctrl-C that waited for no iteration, if there is something to go on from."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not any(run.path.glob("checkpoints/it_*")):
            raise
        words = f"the last checkpoint stands; go on with: {_resuming(run)}"
        raise type(error)(words) from error


def _resuming(run: Run) -> str:
    """The command that goes on with a run."""
    program = sys.argv[0] if sys.argv[0].endswith("train.py") else "train.py"
    return shlex.join(["python", program, "--resume", str(run.path)])


def _finish(run: Run, *, again: bool) -> None:
    """Evaluates and films what was trained; if not `again`, only what a kill at the end left undone.

    Raises:
        Preempted: Ctrl-C or SIGTERM; the training is saved.
    """
    try:
        _evaluate_and_film(run, again=again)
    except KeyboardInterrupt as error:
        raise Preempted(
            f"stopped after training; what is missing is made by: {_resuming(run)}"
        ) from error


def _evaluate_and_film(run: Run, *, again: bool) -> None:

    trainer = run.config.trainer
    if trainer.evaluate_tasks and (again or experiment.outdated(run, experiment.EVALUATION)):
        from metarl.runs.sinks import log_evaluation, make_sink

        result = experiment.evaluate_run(run, trainer.evaluate_tasks, 3)
        log_evaluation(make_sink(trainer), run.path, result)
    if trainer.video and (again or experiment.unfilmed(run)):
        from metarl.core.env import NoPictures

        try:
            paths = experiment.film_run(run, 2, max(1, run.config.sampler.num_adaptations))
        except NoPictures as error:
            print(f"no video: {error}")
            return
        for path in paths:
            print(f"video: {path}")


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _description(config: Any) -> str:
    """What --list-envs prints of the environment that --env names, whatever its name."""
    from metarl.envs.listing import described

    env = build_env(config)
    return described(env.spec, getattr(env, "variations", ()))


def list_envs() -> str:
    """The table that --list-envs prints."""
    from metarl.envs.listing import listing
    from metarl.envs.plugins.discovery import entry_points

    # by name only: a plug-in is loaded when it is asked for
    installed = f"\ninstalled plug-ins: {', '.join(entry_points())}" if entry_points() else ""
    return listing() + installed


# ------------------------------------------------------------------------------------------------ verbs
