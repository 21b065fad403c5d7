"""The commands: `train.py` and `python -m metarl <verb>`. The one module of metarl that knows `envs`.

Nothing heavy is imported at module level: --help and --list-envs answer without torch.
"""

from __future__ import annotations

import argparse
import json
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
from metarl.options import check_env_options, evaluate_options, report_options, video_options


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
    env = make_env(config.env, config.sampler.threads, **_sight(config))
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
        from envs.base import NoPictures

        try:
            paths = _film(run, 2, max(1, run.config.sampler.num_adaptations))
        except NoPictures as error:
            print(f"no video: {error}")
            return
        for path in paths:
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


def _sight(config: TrainConfig[Any]) -> dict[str, bool]:
    """What the observation holds beside the robot."""
    oracle = config.observe_task or _is(config, "oracle")
    return {"observe_task": oracle, "observe_terrain": config.observe_terrain}


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
    from envs.base import UnsupportedHere
    from envs.foreign import PluginFailure
    from envs.registry import ENVIRONMENTS, UnknownEnvironment, make

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
    lacking = [verb for verb in ("spec", "set_tasks", "reset", "step") if not hasattr(env, verb)]
    if lacking:
        raise EnvironmentContractError(
            f"--env {name}: made a {type(env).__name__}, which lacks {', '.join(lacking)}; "
            "envs/base.py says what a BatchEnv is"
        )
    if not observe_task:
        return env
    if getattr(env.spec.tasks, "opaque", False):
        raise ConfigError(f"--observe-task: the tasks of {name} are no numbers; leave the flag out")
    from envs.observe import ObserveTask

    try:
        return ObserveTask(env)
    except UnsupportedHere as error:
        raise ConfigError(f"--observe-task: {error}") from error


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
        discrete=getattr(env.spec, "discrete", False),
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
    from envs.listing import listing
    from envs.plugins import entry_points

    # by name only: a plug-in is loaded when it is asked for
    installed = f"\ninstalled plug-ins: {', '.join(entry_points())}" if entry_points() else ""
    return listing() + installed


# ------------------------------------------------------------------------------------------- run folders


def open_run(path: Path, threads: int = 0) -> Run:
    """Opens a run folder with its newest good checkpoint.

    Args:
        path: The folder, wherever it has been moved to.
        threads: Of the physics and of the adaptation; 0 takes all cores.

    Raises:
        CheckpointError: The folder is not a run, or no checkpoint verifies.
    """
    config = _read_config(path)
    config = replace(config, sampler=replace(config.sampler, threads=threads))
    env = make_env(config.env, threads, **_sight(config))
    learner = build_learner(config, env, "cpu")
    _restored(path, learner)
    return Run(path, config, env, learner)


def _read_config(path: Path) -> TrainConfig[Any]:
    try:
        return from_yaml(path / "config.yaml")
    except ConfigError as error:
        raise CheckpointError(f"{path} is not a run folder: {error}") from error


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


def _evaluate(
    run: Run, num_tasks: int, num_adaptations: int, oracle: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Evaluates on held-out tasks, prints the table and writes evaluation.json."""
    from metarl import evaluate, results

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
    if oracle:
        result["oracle"] = oracle
    print(results.table(result), flush=True)
    results.write(run.path / _EVALUATION, result)
    return result


def _film(
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
    from metarl import evaluate
    from metarl.film import film_trial, write_films

    seed, num_episodes = run.config.seed, run.config.sampler.num_episodes
    if num_shown > num_episodes:
        cure = f"the run adapts from {num_episodes} episodes, so there are no more"
        raise ConfigError(f"--episodes {num_shown}: {cure}")
    if _is(run.config, "scratch"):
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
    path = run.path / _VIDEO
    title = f"{run.config.env}, {run.config.algo}: {run.path.resolve().name}"
    return write_films(path, run.env, panels, formats, title=title, camera=camera, size=size)


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
    for name, (function, add_options, text) in _VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        add_options(verb)
        verb.set_defaults(function=function)
    return parser


def _evaluate_verb(options: argparse.Namespace) -> None:
    from metarl import results

    _check_folder("--json", options.json)
    env = _check_are_seeds(options.runs)
    oracle = results.oracle(options.oracle, env) if options.oracle else None
    found = []
    for path in options.runs:
        run = open_run(path, options.threads)
        if len(options.runs) > 1:
            print(f"{path}:")
        found.append(_evaluate(run, options.num_tasks, options.num_adaptations, oracle))
        run.env.close()
    result = found[0]
    if len(found) > 1:
        result = results.aggregate(found)
        result |= {"runs": [str(path) for path in options.runs]}
        result |= {"oracle": oracle} if oracle else {}
        print(f"all:\n{results.table(result)}")
    if options.json:
        results.write(options.json, result)


def _check_folder(name: str, path: Path | None) -> None:
    if path and not path.absolute().parent.is_dir():
        raise ConfigError(f"{name} {path}: there is no folder {path.parent}")


def _check_are_seeds(runs: Sequence[Path]) -> str:
    """Refuses run folders that are not one learner on one environment with different seeds; returns the environment."""
    configs = [_read_config(path) for path in runs]
    for name in ("env", "algo"):
        values = [c.env if name == "env" else label(c.algo, c.learner) for c in configs]
        for path, value in zip(runs, values, strict=True):
            if value != values[0]:
                cure = "give runs of one environment and one learner"
                raise ConfigError(f"{path}: {name} is {value}, of {runs[0]} {values[0]}; {cure}")
    seeds = [config.seed for config in configs]
    for i, seed in enumerate(seeds):
        if seed in seeds[:i]:
            other = runs[seeds.index(seed)]
            raise ConfigError(
                f"{runs[i]}: seed {seed} is that of {other} too; they are no two samples"
            )
    return configs[0].env


def _check_env_verb(options: argparse.Namespace) -> None:
    from envs.check import Finding, check, report
    from metarl.run_folder import write_atomically

    _check_folder("--json", options.json)
    try:
        findings = check(lambda threads: make_env(options.env, threads))
    except EnvironmentContractError as error:
        findings = [Finding("start", str(error))]
    print(report(findings))
    violations = sum(bool(finding.violation) for finding in findings)
    if options.json:
        tree = {"env": options.env, "violations": violations, "checks": [vars(f) for f in findings]}
        write_atomically(options.json, json.dumps(tree, indent=1) + "\n")
    if violations:
        raise EnvironmentContractError(
            f"{options.env} breaks the contract: {violations} of {len(findings)} checks failed"
        )


def _video_verb(options: argparse.Namespace) -> None:
    from envs.base import NoPictures

    run = open_run(options.run, options.threads)
    formats = (options.format,) if options.format else None
    shown = {"num_shown": options.episodes, "camera": options.camera, "size": options.size}
    try:
        paths = _film(run, options.num_tasks, options.num_adaptations, formats, **shown)
    except NoPictures as error:
        raise EnvironmentContractError(str(error)) from error
    for path in paths:
        print(path)


def _report_verb(options: argparse.Namespace) -> None:
    from metarl import results
    from metarl.report import numbers, write_report

    if options.output is None and len(options.runs) > 1:
        raise ConfigError("--output is missing: say where the page of several runs goes")
    output = options.output or options.runs[0] / "report.html"
    _check_folder("--json", options.json)
    groups = write_report(options.runs, output, options.oracle)
    if options.json:
        results.write(options.json, numbers(groups))
    print(output)


_Options = Callable[[argparse.ArgumentParser], None]
_VERBS: dict[str, tuple[Callable[[argparse.Namespace], None], _Options, str]] = {
    "evaluate": (
        _evaluate_verb,
        evaluate_options,
        "return after 0..K adaptations on held-out tasks",
    ),
    "check-env": (
        _check_env_verb,
        check_env_options,
        "test whether an environment keeps the contract",
    ),
    "video": (_video_verb, video_options, "film held-out tasks before and after adaptation"),
    "report": (_report_verb, report_options, "one page with figures and numbers of runs"),
}
