"""The curriculum: a level of difficulty that goes up where the robot succeeds.

The level is a number in [0, 1]: 0 is the easiest, 1 the full distribution. It limits the task
numbers that declare it (`GradedTasks`) and what the environment draws itself (`GradedEnv`). It
follows from the returns alone and is a part of the checkpoint, so that a training repeats bit for
bit at any number of threads, and resumes.
"""

from __future__ import annotations

from typing import Any

from metarl.config.curriculum import CurriculumConfig
from metarl.config.schema import TrainConfig
from metarl.core.env import BatchEnv, GradedEnv, supports
from metarl.core.errors import ConfigError
from metarl.core.tasks import GradedTasks, Product, Split


def ease(tasks: Any, level: float) -> Any:
    """Returns the training tasks of a distribution at a level; the numbers keep their order."""
    if isinstance(tasks, Product):
        return Product(tuple(ease(part, level) for part in tasks.parts))
    if isinstance(tasks, Split):
        return ease(tasks.train, level)
    return tasks.at_level(level) if supports(tasks, GradedTasks) else tasks


def graded_names(tasks: Any) -> tuple[str, ...]:
    """Returns the names of the task numbers that a level limits."""
    if isinstance(tasks, Product):
        return tuple(name for part in tasks.parts for name in graded_names(part))
    if isinstance(tasks, Split):
        return graded_names(tasks.train)
    if not supports(tasks, GradedTasks):
        return ()
    return tuple(variable.name for variable in tasks.variables)


def next_level(config: CurriculumConfig, level: float, share: float) -> float:
    """Returns the level after an iteration with a share of successful episodes in [0, 1]."""
    change = (share >= config.raise_at) - (share < config.lower_below)
    # rounded, so that twenty steps of 0.05 are 1
    return round(min(1.0, max(0.0, level + change * config.step)), 9)


def require_levels(
    config: TrainConfig[Any], env: BatchEnv, tasks: Any, *, has_own_loop: bool
) -> None:
    """Requires that a training with a curriculum has a difficulty.

    Args:
        config: The settings.
        env: The environment.
        tasks: Its training tasks.
        has_own_loop: The learner collects its experience itself.

    Raises:
        ConfigError: Nothing in the environment has levels, or the learner has its own loop.
    """
    if config.curriculum.success is None:
        return
    name = f"--curriculum.success {config.curriculum.success:g}"
    if has_own_loop:
        hint = f"{config.algo} collects its experience itself; leave the flag out"
        raise ConfigError(f"{name}: {hint}")
    if not graded_names(tasks) and not _graded_parts(env):
        hint = "terrain and the goal command have them, a fixed set of tasks has not"
        raise ConfigError(f"{name}: {config.env} has no levels of difficulty; {hint}")


def _graded_parts(env: BatchEnv) -> tuple[str, ...]:
    return env.graded if supports(env, GradedEnv) else ()
