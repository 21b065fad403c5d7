"""Conditions under which several processes train together. Imports no torch at module level."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from metarl.config.identity import describe_identity
from metarl.config.schema import TrainConfig
from metarl.core.env import supports
from metarl.core.errors import ConfigError
from metarl.runs import provenance
from metarl.training.launch import Launch


def require_tasks(config: TrainConfig[Any], launch: Launch) -> None:
    """Requires a task for each of the processes that divide them.

    Raises:
        ConfigError: There are fewer.
    """
    count = config.sampler.num_tasks
    if count < launch.size:
        hint = "they divide the tasks, so start fewer"
        raise ConfigError(f"--sampler.num-tasks {count}: and {launch.size} processes; {hint}")


def require_support(config: TrainConfig[Any], learner: Any, group: Any) -> None:
    """Requires a learner whose update the processes of a group can divide.

    Raises:
        ConfigError: It is another one.
    """
    from metarl.core.learner import SplitsUpdate

    if group.size > 1 and not supports(learner, SplitsUpdate):
        hint = "maml-trpo and its relatives, rl2, teacher-student and varibad can; start one"
        text = f"--algo {config.algo} with {group.size} processes: its update cannot be split"
        raise ConfigError(f"{text}; {hint}")


@contextmanager
def join(learner: Any, group: Any) -> Generator[None]:
    """Makes a learner compute its updates with those of the other processes, if there are any."""
    from metarl.core.machine.parallel import ALONE

    if group.size == 1:
        yield
        return
    learner.join_group(group)
    try:
        yield
    finally:
        learner.join_group(ALONE)


def require_same_start(
    config: TrainConfig[Any], learner: Any, group: Any, facts: dict[str, Any]
) -> None:
    """Requires that all processes train the same from the same state.

    Raises:
        ConfigError: One of them does not; names the difference.
    """
    from metarl.training.alignment import digest
    from metarl.training.distributed import require_same

    if group.size == 1:
        return
    facts = provenance.list_versions() | facts | {"iterations": config.iterations}
    facts |= {"state of the learner": digest(learner.state_dict())}
    require_same(group, describe_identity(config) | {n: str(v) for n, v in facts.items()})
