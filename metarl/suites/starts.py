"""Runs of a suite that start from the policy of another run: `init_from` of an entry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metarl import builders
from metarl.config.schema import TrainConfig
from metarl.core.errors import CheckpointError, ConfigError, MetarlError
from metarl.restoring import initialise_from
from metarl.runs import folder
from metarl.suites.suite import Run, Suite


def check_starts(suite: Suite) -> None:
    """Starts a learner of every entry that has `init_from`, as its runs will do.

    Runs with a checkpoint need their source no longer, so it may have gone.

    Raises:
        MetarlError: A source is no run folder, has another learner, is damaged, does not fit, or is
            a run of the suite itself, which is not trained when the check is made; the message
            names file, entry and source.
    """
    own = {run.folder.resolve() for run in suite.runs}
    # an entry is checked once, by its first seed
    entries = {run.folder.parent: run for run in reversed(suite.runs) if _needs_start(run)}
    for run in reversed(list(entries.values())):
        try:
            start = run.config.init_from
            assert start is not None
            if start in own:
                hint = "declare the runs to start from in a suite of their own"
                raise ConfigError(f"init_from {start}: a run of this suite; {hint}")
            if not start.exists():
                raise CheckpointError(f"init_from {start} is missing; train it first")
            _start(run.config)
        except MetarlError as error:
            raise type(error)(f"{suite.path}: {run.folder.parent.name}: {error}") from error


def _needs_start(run: Run) -> bool:
    return run.config.init_from is not None and folder.newest_step(run.folder) is None


def _start(config: TrainConfig[Any]) -> None:
    import torch

    config = replace(config, sampler=replace(config.sampler, threads=1))
    env = builders.build_env(config)
    try:
        learner = builders.build_learner(config, env, torch.device("cpu"))
        assert config.init_from is not None
        initialise_from(config.init_from, config, learner)
    finally:
        env.close()
