"""The command `metarl train`, which is also `train.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl import __version__, builders, experiment
from metarl.config.changes import find_changes
from metarl.config.schema import TrainConfig, parse, to_yaml
from metarl.core.errors import ConfigError, MetarlError, run_command
from metarl.core.messages import show
from metarl.learners.registry import list_algorithms
from metarl.runs import folder
from metarl.training.launch import Launch, read_launch, speak_once


def main(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> int:
    """Runs the command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def command() -> None:
        launch = read_launch()
        with speak_once(launch):
            _run(arguments, prog, launch)

    return run_command(command)


def _run(arguments: list[str], prog: str, launch: Launch) -> None:
    if "--version" in arguments:
        show(f"metarl {__version__}")
        return
    config = parse(arguments, prog=prog)
    if config.list_algos:
        show("\n".join(f"{name:15} {text}" for name, text in list_algorithms().items()))
    elif config.list_envs:
        show(_describe_env(config) if config.env else list_envs())
    elif config.seeds:
        if launch.size > 1:
            hint = "start one training for each seed"
            raise ConfigError(f"--seeds with {launch.size} processes: {hint}")
        _print_together(_train_each(_one_config_per_seed(config)))
    else:
        train(config)


def train(config: TrainConfig[Any]) -> Path:
    """Trains a policy, then evaluates and films it; returns the run folder."""
    with experiment.train(config) as policy:
        from metarl import api  # torch is imported by now

        api.finish(policy, again=policy.num_trained > 0)
        if policy.num_trained:
            show(f"done: {policy.path}")
    return policy.path


def _train_each(configs: Sequence[TrainConfig[Any]]) -> list[Path]:
    """Trains one seed after the other; returns their run folders.

    Raises:
        MetarlError: One of them failed or was stopped; the message has the seeds that remain.
    """
    runs = []
    for number, config in enumerate(configs, start=1):
        rest = ",".join(str(each.seed) for each in configs[number:])
        hint = f"the other seeds are not trained yet: give the same command --seeds {rest}"
        try:
            runs.append(train(config))
        except MetarlError as error:
            if not rest:
                raise
            raise type(error)(f"{error}; {hint}") from error
        except KeyboardInterrupt as error:
            if rest:
                error.args = ("; ".join(filter(None, [str(error), hint])),)
            raise
    return runs


def _print_together(runs: Sequence[Path]) -> None:
    """Prints the evaluation of several seeds together, if they were evaluated."""
    from metarl.evaluation import results, table

    if len(runs) > 1 and all((run / results.FILE).exists() for run in runs):
        together = results.aggregate([results.read(run) for run in runs])
        show(f"all:\n{table.table(together)}")


def _one_config_per_seed(config: TrainConfig[Any]) -> list[TrainConfig[Any]]:
    """Returns a config for each of --seeds, in sibling folders if --run-dir names their parent."""
    parent = config.run_dir
    if parent:
        _check_siblings(parent, config)
    configs = [
        replace(config, seed=seed, seeds=(), run_dir=parent and parent / f"seed-{seed}")
        for seed in config.seeds
    ]
    for each in configs:  # before the first one is trained
        path = each.run_dir
        if path and path.exists() and not folder.is_untrained(path, to_yaml(each)):
            raise folder.exists_already(path)
    return configs


def _check_siblings(parent: Path, config: TrainConfig[Any]) -> None:
    """Requires that a folder is none of a run, and holds other seeds of the same settings at most.

    Raises:
        ConfigError: Names the folder, and the first setting that differs.
    """
    folder.check_parent("--run-dir", parent)
    for path in sorted(parent.glob("seed-*")):
        if not (path / "config.yaml").is_file() or folder.is_untrained(path):
            continue
        recorded = replace(experiment.read_config(path, trusts=config.trust_env), seed=config.seed)
        for name, (old, new) in find_changes(recorded, config).items():
            hint = "choose another --run-dir for other settings"
            raise ConfigError(f"{path} has {name} {old}, now {new}; {hint}")


def _describe_env(config: TrainConfig[Any]) -> str:
    """Returns the description of the environment that --env names."""
    from metarl.core.env import HasVariations, supports
    from metarl.envs.listing import describe_environment

    env = builders.build_env(config)
    return describe_environment(env.spec, env.variations if supports(env, HasVariations) else ())


def list_envs() -> str:
    """Returns the table of --list-envs."""
    from metarl.envs.listing import list_environments
    from metarl.envs.plugins.discovery import entry_points

    # by name only: a plug-in is imported when it is used
    installed = f"\ninstalled plug-ins: {', '.join(entry_points())}" if entry_points() else ""
    return list_environments() + installed
