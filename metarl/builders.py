"""Builds environments, learners and training tasks from names and configs.

Nothing heavy is imported at module level, so that --help and --list-envs answer without torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from metarl.config.schema import TrainConfig
from metarl.core.env import BatchEnv, missing_members, supports
from metarl.core.errors import ConfigError, EnvironmentContractError
from metarl.core.tasks import HasOpaqueTasks
from metarl.learners import registry
from metarl.learners.sb3.config import find_mode


def num_threads(config: TrainConfig[Any]) -> int:
    """Returns the threads of physics and update: those of the config, or all usable cores."""
    return config.sampler.threads or len(os.sched_getaffinity(0))


def build_env(config: TrainConfig[Any], env: Any = None) -> Any:
    """Builds the environment of a config, with the observations that it selects.

    Args:
        config: The settings.
        env: The environment as an object (see `make_env`); by default that of the config.

    Raises:
        ConfigError: As `make_env`.
        EnvironmentContractError: As `make_env`.
    """
    return make_env(
        config.env if env is None else env,
        config.sampler.threads,
        observe_task=config.observe_task or is_baseline(config, "oracle"),
        observe_terrain=config.observe_terrain,
    )


def make_env(
    env: Any, threads: int = 0, *, observe_task: bool = False, observe_terrain: bool = False
) -> Any:
    """Builds an environment; a plug-in is searched for in the current directory too.

    Args:
        env: A name (see `envs/registry.py`), a class or function that makes one Gymnasium
            environment, or a `BatchEnv`, which is returned as it is.
        threads: Physics threads; 0 uses all cores.
        observe_task: Append the task to the observation.
        observe_terrain: Append heights of the ground around the robot to the observation.

    Returns:
        A `BatchEnv`.

    Raises:
        ConfigError: There is no such name; the message names the nearest.
        EnvironmentContractError: The code of a plug-in fails; the message names the line.
    """
    name = name_of(env)
    if isinstance(env, str):
        built = _make_by_name(env, threads, observe_terrain)
    elif isinstance(env, type) or (callable(env) and missing_members(env, BatchEnv)):
        built = _start_plugin(name, lambda: _subproc_env(name, env, threads))
    else:
        built = env
    lacking = missing_members(built, BatchEnv)
    if lacking:
        raise EnvironmentContractError(
            f"--env {name}: made a {type(built).__name__}, which lacks {', '.join(lacking)}; "
            "metarl/core/env.py documents BatchEnv"
        )
    return _observe_task(built, name) if observe_task else built


def name_of(env: Any) -> str:
    """Returns the name of an environment that may be given as an object (see `make_env`).

    Raises:
        ConfigError: It is no name, class, function or `BatchEnv`.
    """
    if isinstance(env, str):
        return env
    if not missing_members(env, BatchEnv) and not isinstance(env, type):
        return env.spec.name
    if isinstance(env, type) or callable(env):
        return f"{env.__module__}:{env.__qualname__}"
    kinds = "a name, a class, a function or a BatchEnv"
    raise ConfigError(f"env = {env!r}: must be {kinds}")


def _subproc_env(name: str, make: Callable[..., Any], threads: int) -> Any:
    from metarl.envs.plugins.subproc_env import SubprocEnv

    return SubprocEnv(name, make, threads)


def _make_by_name(name: str, threads: int, observe_terrain: bool) -> Any:
    from metarl.envs.registry import make

    if ":" in name and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # python puts the folder of train.py there, not this one
    return _start_plugin(name, lambda: make(name, threads, observe_terrain=observe_terrain))


def _start_plugin(name: str, make: Callable[[], Any]) -> Any:
    """Makes an environment; failures of a plug-in's code become one line."""
    from metarl.core.env import UnsupportedHere
    from metarl.envs.plugins.subproc_env import PluginFailure
    from metarl.envs.registry import ENVIRONMENTS, UnknownEnvironment

    try:
        return make()
    except (UnknownEnvironment, UnsupportedHere) as error:
        raise ConfigError(f"--env {name}: {error}") from error
    except PluginFailure as error:
        raise EnvironmentContractError(f"--env {error}") from error
    except Exception as error:
        if name in ENVIRONMENTS:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise EnvironmentContractError(
            f"--env {name}: {message} ({place.filename}, line {place.lineno})"
        ) from error


def _observe_task(env: Any, name: str) -> Any:
    from metarl.core.env import UnsupportedHere
    from metarl.envs.wrappers.observe_task import ObserveTask

    if supports(env.spec.tasks, HasOpaqueTasks) and env.spec.tasks.opaque:
        raise ConfigError(f"--observe-task: tasks of {name} are not numbers; leave the flag out")
    try:
        return ObserveTask(env)
    except UnsupportedHere as error:
        raise ConfigError(f"--observe-task: {error}") from error


def build_learner(config: TrainConfig[Any], env: Any, device: Any) -> Any:
    """Builds the learner of a config for an environment, with fresh parameters."""
    algorithm = registry.find_algorithm(config.algo)
    return registry.build_learner(
        algorithm,
        config.learner,
        env.spec,
        seed=config.seed,
        device=device,
        num_threads=num_threads(config),
        experience=_experience(config, env) if algorithm.has_own_loop else None,
    )


def _experience(config: TrainConfig[Any], env: Any) -> Any:
    from metarl.core.learner import Experience
    from metarl.envs.wrappers.sb3 import vec_env

    sampler = config.sampler
    sizes = (sampler.num_tasks, sampler.num_episodes, sampler.num_adaptations)
    return Experience(env, training_tasks(env, config), vec_env, *sizes)


def is_baseline(config: TrainConfig[Any], mode: str) -> bool:
    """Returns whether the learner is a baseline of this mode."""
    return find_mode(config.learner) == mode


def training_tasks(env: Any, config: TrainConfig[Any]) -> Any:
    """Returns the distribution of the environment, or a fixed set of tasks drawn once from it.

    The size of the set is that of the config, or else of the environment's definition.
    """
    size = config.sampler.train_tasks or (env.spec.task_split or (0,))[0]
    if size == 0:
        return env.spec.tasks
    from metarl.core.rng import stream
    from metarl.core.tasks import fixed_set

    return fixed_set(env.spec.tasks, stream(config.seed, "train-tasks"), size)
