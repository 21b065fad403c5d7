"""Policies as users give them: loaded, as run folders, or as addresses on the hub."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarl import experiment
from metarl.config.identity import label_config
from metarl.config.schema import TrainConfig
from metarl.core.errors import ConfigError, require
from metarl.runs.hub import find_run
from metarl.trained_policy import TrainedPolicy

Given = TrainedPolicy | str | Path
"""A loaded policy, its run folder, or its address on the hub."""

HINT = "a trained policy, its run folder or hf://ORG/NAME[@REVISION]"
"""What a policy must be, for messages."""


def list_policies(given: Given | Sequence[Given], name: str = "policies") -> list[Given]:
    """Returns one or several policies as a list.

    Args:
        given: The policies.
        name: Of the argument, for messages.

    Raises:
        ConfigError: There is none, or one is something else; names it.
    """
    policies: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
    thing = "run folder" if name == "runs" else "policy"
    require(len(policies) > 0, name, given, f"at least one {thing}")
    for each in policies:
        check_policy(each, name)
    return policies


def check_policy(given: Any, name: str = "policy") -> None:
    """Requires something that a policy is given as.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(given, (TrainedPolicy, str, Path)):
        raise ConfigError(f"{name} = {given!r:.100}: must be {HINT}")


@contextmanager
def open_policy(given: Given, **options: Any) -> Generator[TrainedPolicy]:
    """Yields a policy; what is loaded here is closed, a loaded one stays open.

    Args:
        given: The policy.
        **options: Of `metarl.load`, for a policy that is not loaded yet.

    Raises:
        ConfigError: It is something else.
        CheckpointError: It cannot be loaded.
    """
    check_policy(given)
    if isinstance(given, TrainedPolicy):
        yield given
        return
    with experiment.load(given, **options) as policy:
        yield policy


def find_folder(given: Given, name: str = "policy") -> Path:
    """Returns the run folder of a policy, whose newest checkpoint is then used.

    Raises:
        ConfigError: It is something else, or the teacher of a run whose policy is the student.
    """
    check_policy(given, name)
    if not isinstance(given, TrainedPolicy):
        return find_run(given)
    if given.is_teacher:
        hint = "its run folder stands for the student; give that"
        raise ConfigError(f"{name}: is the teacher of {given.path}; {hint}")
    return given.path


def name_policy(given: Given) -> str:
    """Returns the run folder or the address of a policy as it was given."""
    return str(given.path if isinstance(given, TrainedPolicy) else given)


def check_seeds(policies: Sequence[Given], *, trusts: bool = False) -> str:
    """Requires seeds of one learner on one environment; returns the environment.

    Args:
        policies: The policies, at least one.
        trusts: The user trusts the code that run folders name.

    Raises:
        ConfigError: Environment or learner differ, or a seed is there twice.
    """
    configs = [_read_config(policy, trusts=trusts) for policy in policies]
    names = [name_policy(policy) for policy in policies]
    columns = {
        "env": [config.env for config in configs],
        "algo": [label_config(config) for config in configs],
    }
    for column, values in columns.items():
        for name, value in zip(names, values, strict=True):
            if value != values[0]:
                hint = "give runs of one environment and one learner"
                raise ConfigError(f"{name}: {column} is {value}, of {names[0]} {values[0]}; {hint}")
    seeds = [config.seed for config in configs]
    for i, seed in enumerate(seeds):
        if seed in seeds[:i]:
            hint = "two samples need two seeds"
            other = names[seeds.index(seed)]
            raise ConfigError(f"{names[i]}: seed {seed} is also that of {other}; {hint}")
    return configs[0].env


def _read_config(given: Given, *, trusts: bool) -> TrainConfig[Any]:
    if isinstance(given, TrainedPolicy):
        return given.config
    return experiment.read_config(find_run(given), trusts=trusts)
