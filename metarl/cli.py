"""The commands: `train.py` and `python -m metarl <verb>`. The one module of metarl that knows `envs`.

Nothing heavy is imported at module level: --help and --list-envs answer without torch.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metarl.baselines.configs import BASELINE_CONFIGS, label
from metarl.config import TrainConfig, from_yaml, parse, to_yaml
from metarl.errors import (
    CheckpointError,
    ConfigError,
    EnvironmentContractError,
    MetarlError,
    NumericalError,
    reporting,
)


@dataclass(frozen=True)
class Run:
    """A run folder with what was learned in it.

    Attributes:
        path: The folder.
        config: How it was trained.
        env: The environment.
        learner: The learner.
    """

    path: Path
    config: TrainConfig[Any]
    env: Any
    learner: Any


# ------------------------------------------------------------------------------------------------ train


def train_main(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py`; returns the exit code."""
    return reporting(lambda: _train(list(sys.argv[1:] if argv is None else argv)))


def _train(argv: list[str]) -> None:
    config = parse(argv)
    if config.list_envs:
        print(list_envs())
        return
    env = make_env(config.env, config.sampler.threads, observe_task=_is(config, "oracle"))
    from metarl import run_folder
    from metarl.trainer import pick_device

    # whatever can be refused is refused before anything is written
    device = pick_device(config.device)
    learner = build_learner(config, env, device)
    name = label(config.algo, config.learner)
    path = config.run_dir or run_folder.default_run_dir(config.env, name, config.seed)
    if not config.resume:
        run_folder.create(path)
    with run_folder.locked(path):
        _train_in(Run(path, config, env, learner), device)


def _train_in(run: Run, device: Any) -> None:
    """Trains in a folder that is there, evaluates and films."""
    from metarl.trainer import Progress

    resume, total = run.config.resume, run.config.iterations
    progress = _restored(run.path, run.learner) if resume else Progress()
    if progress.iteration >= total:
        cure = "raise --iterations to train on"
        print(f"{run.path} is finished, all {progress.iteration} iterations are done; {cure}")
        _finish(run, again=False)
        return
    _record_start(run, device)
    _say_start(run, device, progress.iteration)
    _iterate(run, progress)
    _finish(run, again=True)
    print(f"done: {run.path}")


def _record_start(run: Run, device: Any) -> None:
    """Writes config.yaml and run.json; says what makes a resumed run differ from an uninterrupted one."""
    from metarl import run_folder

    # a resumed run may have other iterations or threads than before; the next resume keeps them
    run_folder.write_atomically(run.path / "config.yaml", to_yaml(run.config))
    where = _device_name(device)
    changed = run_folder.write_run_json(run.path, device=where, threads=num_threads(run.config))
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


def _iterate(run: Run, progress: Any) -> None:
    """Trains; a failure says how to go on where that can help."""
    from metarl.log import RunLog
    from metarl.trainer import Trainer

    config = run.config
    log = RunLog(
        run.path,
        total_iterations=config.iterations,
        resume=config.resume is not None,
        start_iteration=progress.iteration,
        tensorboard=config.trainer.tensorboard,
    )
    tasks = _training_tasks(run.env, config)
    try:
        Trainer(run.env, run.learner, tasks, config, run.path, log, progress).run()
    except NumericalError:
        raise  # the same numbers would come again
    except MetarlError as error:
        program = sys.argv[0] if sys.argv[0].endswith("train.py") else "train.py"
        cure = shlex.join(["python", program, "--resume", str(run.path)])
        raise type(error)(f"{error}; go on with: {cure}") from error
    finally:
        log.close()


def _finish(run: Run, *, again: bool) -> None:
    """Evaluates and films what was trained; if not `again`, only what a kill at the end left undone."""
    trainer = run.config.trainer
    if trainer.evaluate_tasks and (again or _outdated(run, _EVALUATION)):
        _evaluate(run, trainer.evaluate_tasks, 3)
    if trainer.video and (again or _outdated(run, _VIDEO)):
        path = _film(run, 2, max(1, run.config.sampler.num_adaptations))
        print(f"video: {path}")


_EVALUATION = "evaluation.json"
_VIDEO = "videos/adaptation.mp4"


def _outdated(run: Run, name: str) -> bool:
    path, checkpoints = run.path / name, run.path / "checkpoints"
    return not path.exists() or path.stat().st_mtime < checkpoints.stat().st_mtime


def num_threads(config: TrainConfig[Any]) -> int:
    """Threads of the physics and of the update: as asked for, or the cores this process may use."""
    return config.sampler.threads or len(os.sched_getaffinity(0))


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def make_env(name: str, threads: int = 0, *, observe_task: bool = False) -> Any:
    """Builds an environment; one of a plug-in is looked for in the current directory too.

    With observe_task the task stands in the observation.

    Raises:
        ConfigError: There is no such name; the message names the nearest.
        EnvironmentContractError: The code of a plug-in fails; the message names the line.
    """
    from envs.registry import UnknownEnvironment, make

    if ":" in name and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # python puts the folder of train.py there, not this one
    try:
        env = make(name, threads)
    except UnknownEnvironment as error:
        raise ConfigError(f"--env {name}: {error}") from error
    except Exception as error:
        if ":" not in name:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise EnvironmentContractError(
            f"--env {name}: {words} ({place.filename}, line {place.lineno})"
        ) from error
    lacking = [verb for verb in ("spec", "set_tasks", "reset", "step") if not hasattr(env, verb)]
    if lacking:
        raise EnvironmentContractError(
            f"--env {name}: made a {type(env).__name__}, which lacks {', '.join(lacking)}; "
            "envs/base.py says what a BatchEnv is"
        )
    if observe_task:
        from envs.adapters import ObserveTask

        return ObserveTask(env)
    return env


def build_learner(config: TrainConfig[Any], env: Any, device: Any) -> Any:
    """Builds the learner of a config for an environment, with fresh parameters."""
    if config.algo in BASELINE_CONFIGS:
        return _build_baseline(config, env, device)
    from metarl.learners import build

    return build(
        config.algo,
        config.learner,
        env.spec.obs_size,
        env.spec.action_size,
        seed=config.seed,
        device=device,
        num_threads=num_threads(config),
    )


def _is(config: TrainConfig[Any], mode: str) -> bool:
    """Whether the learner is a baseline of this mode."""
    return getattr(config.learner, "mode", None) == mode


def _build_baseline(config: TrainConfig[Any], env: Any, device: Any) -> Any:
    from envs.sb3 import vec_env
    from metarl.baselines.sb3 import build

    try:
        return build(config, env, _training_tasks(env, config), vec_env, device=device)
    except ValueError as error:
        raise EnvironmentContractError(f"--env {config.env}: {error}") from error


def _training_tasks(env: Any, config: TrainConfig[Any]) -> Any:
    """The distribution of the environment, or a fixed set drawn once from it."""
    size = config.sampler.train_tasks
    if size == 0:
        return env.spec.tasks
    from envs.tasks import fixed_set
    from metarl.rng import stream

    return fixed_set(env.spec.tasks, stream(config.seed, "train-tasks"), size)


def list_envs() -> str:
    """The table that --list-envs prints."""
    from envs.registry import ENVIRONMENTS, make

    lines = []
    for name in ENVIRONMENTS:
        spec = make(name).spec
        tasks = ", ".join(
            f"{v.name} in [{v.low:g}, {v.high:g}] {v.unit}" for v in spec.tasks.variables
        )
        floors = ", ".join(f"{k} {v:.0f}" for k, v in spec.floors.items())
        lines.append(
            f"{name:24} T={spec.horizon} dt={spec.dt:g} s  S={spec.obs_size} A={spec.action_size} "
            f"action x{spec.action_scale:g}\n    task    {tasks}"
            + (f"  ({spec.note})" if spec.note else "")
            + f"\n    reward  {spec.reward}\n    floors  {floors}"
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------- run folders


def open_run(path: Path, threads: int = 0) -> Run:
    """Opens a run folder with its newest good checkpoint.

    Args:
        path: The folder, wherever it has been moved to.
        threads: Of the physics and of the adaptation; 0 takes all cores.

    Raises:
        CheckpointError: The folder is not a run, or no checkpoint verifies.
    """
    try:
        config = from_yaml(path / "config.yaml")
    except ConfigError as error:
        raise CheckpointError(f"{path} is not a run folder: {error}") from error
    config = replace(config, sampler=replace(config.sampler, threads=threads))
    env = make_env(config.env, threads, observe_task=_is(config, "oracle"))
    learner = build_learner(config, env, "cpu")
    _restored(path, learner)
    return Run(path, config, env, learner)


def _restored(run: Path, learner: Any) -> Any:
    """Brings a learner to the newest checkpoint that verifies and says where that is."""
    from metarl import checkpoint
    from metarl.trainer import restore

    saved = checkpoint.load_newest(
        run / "checkpoints", report=lambda line: print(f"metarl: {line}", file=sys.stderr)
    )
    try:
        return restore(learner, saved)
    except CheckpointError as error:
        raise CheckpointError(f"{run}: {error}") from error


def _evaluate(run: Run, num_tasks: int, num_adaptations: int) -> dict[str, Any]:
    """Evaluates on held-out tasks, prints the table and writes evaluation.json."""
    from metarl import evaluate

    if _is(run.config, "scratch"):  # what has learned one task each is evaluated on these
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
    print(evaluate.table(result), flush=True)
    evaluate.write(run.path / _EVALUATION, result)
    return result


def _film(run: Run, num_tasks: int, num_adaptations: int) -> Path:
    """Films held-out tasks before and after adaptation."""
    from metarl import evaluate
    from metarl.film import film_trial
    from metarl.video import write_video

    seed = run.config.seed
    if _is(run.config, "scratch"):
        tasks = run.learner.tasks[:num_tasks]
    else:
        tasks = evaluate.held_out_tasks(run.env.spec, seed, num_tasks)
    panels = film_trial(
        run.env,
        run.learner,
        tasks,
        num_episodes=run.config.sampler.num_episodes,
        num_adaptations=num_adaptations,
        key=evaluate.Key(seed, "video", 0),
    )
    return write_video(run.path / _VIDEO, run.env, panels)


# ------------------------------------------------------------------------------------------------ verbs


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m metarl <verb>`; returns the exit code."""

    def command() -> None:
        options = _parser().parse_args(argv)
        options.function(options)

    return reporting(command)


class _Parser(argparse.ArgumentParser):
    """Argparse, whose errors are those of every other command."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} ({self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m metarl", description="Work on run folders.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (function, text) in _VERBS.items():
        evaluates = name == "evaluate"
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("run", type=Path, metavar="RUN", help="run folder")
        verb.add_argument("--num-tasks", type=_at_least(1), default=20 if evaluates else 2)
        verb.add_argument("--num-adaptations", type=_at_least(1), default=3 if evaluates else 1)
        verb.add_argument("--threads", type=_at_least(0), default=0, help="0: all cores")
        if evaluates:
            verb.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")
        verb.set_defaults(function=function)
    return parser


def _at_least(bound: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < bound:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number >= {bound}")
        return int(text)

    return number


def _evaluate_verb(options: argparse.Namespace) -> None:
    from metarl import evaluate

    if options.json and not options.json.absolute().parent.is_dir():
        raise ConfigError(f"--json {options.json}: there is no folder {options.json.parent}")
    run = open_run(options.run, options.threads)
    result = _evaluate(run, options.num_tasks, options.num_adaptations)
    if options.json:
        evaluate.write(options.json, result)


def _video_verb(options: argparse.Namespace) -> None:
    run = open_run(options.run, options.threads)
    print(_film(run, options.num_tasks, options.num_adaptations))


_VERBS: dict[str, tuple[Callable[[argparse.Namespace], None], str]] = {
    "evaluate": (_evaluate_verb, "return after 0..K adaptations on held-out tasks"),
    "video": (_video_verb, "film held-out tasks before and after adaptation"),
}
