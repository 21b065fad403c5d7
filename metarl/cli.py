"""The commands: `train.py` and `python -m metarl <verb>`. The one module of metarl that knows `envs`.

Nothing heavy is imported at module level: --help and --list-envs answer without torch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl.config import TrainConfig, from_yaml, parse, to_yaml
from metarl.errors import CheckpointError, ConfigError, MetarlError, Preempted

# ------------------------------------------------------------------------------------------------ train


def train_main(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py`; returns the exit code."""
    return _reporting(lambda: _train(list(sys.argv[1:] if argv is None else argv)))


def _train(argv: list[str]) -> None:
    config = parse(argv)
    if config.list_envs:
        print(list_envs())
        return
    env = make_env(config.env, config.sampler.threads)
    from metarl import run_folder
    from metarl.log import RunLog
    from metarl.trainer import Trainer, pick_device

    device = pick_device(config.device)  # before anything is written
    learner = build_learner(config, env, device)
    saved = _newest(config.resume) if config.resume else None
    if config.resume:
        run = config.resume
    else:
        run = config.run_dir or run_folder.default_run_dir(config.env, config.algo, config.seed)
        run_folder.create(run)
        run_folder.write_atomically(run / "config.yaml", to_yaml(config))
    changed = run_folder.write_run_json(run, device=str(device), threads=num_threads(config))
    for line in changed:
        print(f"metarl: bit-for-bit resume is void: {line}", file=sys.stderr)
    start = saved.step if saved else 0
    log = RunLog(
        run,
        total_iterations=config.iterations,
        resume=saved is not None,
        start_iteration=start,
        tensorboard=config.trainer.tensorboard,
    )
    trainer = Trainer(env, learner, _training_tasks(env, config), config, run, log)
    if saved:
        trainer.restore(saved)
    _say_start(run, config, env, str(device), start)
    try:
        trainer.run()
    except MetarlError as error:
        cure = f"python train.py --resume {run}"
        raise type(error)(f"{error}; go on with: {cure}") from error
    finally:
        log.close()
    _finish(run, config, env, learner)


def _say_start(run: Path, config: TrainConfig[Any], env: Any, device: str, start: int) -> None:
    sampler = config.sampler
    steps = sampler.num_tasks * sampler.num_episodes * (sampler.num_adaptations + 1)
    print(
        f"{'resuming' if start else 'training'} {config.algo} on {config.env}: {sampler.num_tasks} tasks x "
        f"{sampler.num_episodes} episodes x {sampler.num_adaptations + 1} rollouts, up to "
        f"{steps * env.spec.horizon:,} steps an iteration, update on {device}, run folder {run}",
        flush=True,
    )


def _finish(run: Path, config: TrainConfig[Any], env: Any, learner: Any) -> None:
    """Evaluates and films what was trained."""
    if config.trainer.evaluate_tasks:
        result = _evaluate(run, config, env, learner, config.trainer.evaluate_tasks, 3)
        print(result)
    if config.trainer.video:
        path = _film(run, config, env, learner, num_tasks=2, num_adaptations=None)
        print(f"video: {path}")
    print(f"done: {run}")


def num_threads(config: TrainConfig[Any]) -> int:
    """Threads of the physics and of the update: as asked for, or the cores this process may use."""
    return config.sampler.threads or len(os.sched_getaffinity(0))


def make_env(name: str, threads: int = 0) -> Any:
    """Builds an environment.

    Raises:
        ConfigError: There is no such name; the message names the nearest.
    """
    from envs.registry import UnknownEnvironment, make

    try:
        return make(name, threads)
    except UnknownEnvironment as error:
        raise ConfigError(f"--env {name}: {error}") from error


def build_learner(config: TrainConfig[Any], env: Any, device: Any) -> Any:
    """Builds the learner of a config for an environment, with fresh parameters."""
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


@dataclass(frozen=True)
class Run:
    """A run folder, opened for looking at what was learned.

    Attributes:
        path: The folder.
        config: How it was trained.
        env: The environment.
        learner: The learner with the newest checkpoint that verifies.
    """

    path: Path
    config: TrainConfig[Any]
    env: Any
    learner: Any


def open_run(path: Path, threads: int = 0) -> Run:
    """Opens a run folder with its newest good checkpoint.

    Raises:
        CheckpointError: The folder is not a run, or no checkpoint verifies.
    """
    try:
        config = from_yaml(path / "config.yaml")
    except ConfigError as error:
        raise CheckpointError(f"{path} is not a run folder: {error}") from error
    saved = _newest(path)
    import torch

    env = make_env(config.env, threads)
    learner = build_learner(config, env, torch.device("cpu"))
    try:
        learner.load_state_dict(saved.tensors)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Run(path, config, env, learner)


def _newest(run: Path) -> Any:
    from metarl import checkpoint

    return checkpoint.load_newest(
        run / "checkpoints", report=lambda line: print(f"metarl: {line}", file=sys.stderr)
    )


def _evaluate(
    run: Path,
    config: TrainConfig[Any],
    env: Any,
    learner: Any,
    num_tasks: int,
    num_adaptations: int,
) -> str:
    from metarl import evaluate

    tasks = evaluate.held_out_tasks(env.spec, config.seed, num_tasks)
    measured = evaluate.evaluate(
        env,
        learner,
        tasks,
        num_episodes=config.sampler.num_episodes,
        num_adaptations=num_adaptations,
        key=evaluate.Key(config.seed, "evaluate", 0),
    )
    result = evaluate.summary(measured, env.spec, config.algo, config.seed)
    evaluate.write(run / "evaluation.json", result)
    return evaluate.table(result)


def _film(
    run: Path,
    config: TrainConfig[Any],
    env: Any,
    learner: Any,
    *,
    num_tasks: int,
    num_adaptations: int | None,
) -> Path:
    from metarl import evaluate
    from metarl.film import film_trial
    from metarl.video import write_video

    tasks = evaluate.held_out_tasks(env.spec, config.seed, num_tasks)
    panels = film_trial(
        env,
        learner,
        tasks,
        num_episodes=config.sampler.num_episodes,
        num_adaptations=num_adaptations or max(1, config.sampler.num_adaptations),
        key=evaluate.Key(config.seed, "video", 0),
    )
    path = run / "videos" / "adaptation.mp4"
    return write_video(path, env, panels)


# ------------------------------------------------------------------------------------------------ verbs


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m metarl <verb>`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m metarl", description="Work on run folders.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (function, text) in _VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("run", type=Path, metavar="RUN", help="run folder")
        verb.add_argument("--num-tasks", type=_positive, default=20 if name == "evaluate" else 2)
        verb.add_argument(
            "--num-adaptations", type=_positive, default=3 if name == "evaluate" else 1
        )
        verb.add_argument("--threads", type=int, default=0, help="physics threads, 0: all cores")
        if name == "evaluate":
            verb.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")
        verb.set_defaults(function=function)
    options = parser.parse_args(argv)
    return _reporting(lambda: options.function(options))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _evaluate_verb(options: argparse.Namespace) -> None:
    run = open_run(options.run, options.threads)
    print(
        _evaluate(
            run.path, run.config, run.env, run.learner, options.num_tasks, options.num_adaptations
        )
    )
    if options.json:
        result = json.loads((run.path / "evaluation.json").read_text())
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _video_verb(options: argparse.Namespace) -> None:
    run = open_run(options.run, options.threads)
    path = _film(
        run.path,
        run.config,
        run.env,
        run.learner,
        num_tasks=options.num_tasks,
        num_adaptations=options.num_adaptations,
    )
    print(path)


_VERBS: dict[str, tuple[Callable[[argparse.Namespace], None], str]] = {
    "evaluate": (_evaluate_verb, "return after 0..K adaptations on held-out tasks"),
    "video": (_video_verb, "film held-out tasks before and after adaptation"),
}


def _reporting(command: Callable[[], None]) -> int:
    """Turns a failure into one line and its exit code."""
    try:
        command()
    except MetarlError as error:
        mark = "metarl" if isinstance(error, Preempted) else "metarl: error"
        print(f"{mark}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("metarl: interrupted", file=sys.stderr)
        return Preempted.exit_code
    return 0
