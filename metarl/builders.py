"""Builds environments, learners and training tasks from names and configs.

Nothing heavy is imported at module level, so that --help and --list-envs answer without torch.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl.config.schema import TrainConfig
from metarl.config.trust import require_trust
from metarl.core.env import BatchEnv, missing_members, supports
from metarl.core.errors import (
    CheckpointError,
    ConfigError,
    EnvironmentContractError,
    MetarlError,
    ResourceError,
    is_out_of_memory,
)
from metarl.core.machine.files import load_json, split_robot_file, write_atomically
from metarl.core.messages import describe_error, notify, warn
from metarl.core.ranges import MOST_THREADS, require_count
from metarl.core.tasks import HasOpaqueTasks
from metarl.core.trees import check_form
from metarl.learners import registry
from metarl.learners.modes import find_mode
from metarl.runs.folder import DEFINITION, ROBOT
from metarl.runs.published import is_published
from metarl.training.launch import share_cores

TIMEOUT = 120.0
"""Time that a plug-in may take for its start, a step or a reset, by default [s]."""


def num_threads(config: TrainConfig[Any]) -> int:
    """Returns the threads of physics and update: those of the config, or all usable cores.

    Several processes on this machine that train together divide the cores among themselves.
    """
    return config.sampler.threads or share_cores()


def build_env(config: TrainConfig[Any], env: Any = None, *, run: Path | None = None) -> Any:
    """Builds the environment of a config, with the observations that it selects.

    Args:
        config: The settings.
        env: The environment as an object (see `make_env`); by default that of the config.
        run: Folder of the run; where the file of its robot has changed since, its copy is used, and
            code that it names must be trusted.

    Raises:
        ConfigError: As `make_env`, or the environment of the run is code that is not trusted.
        EnvironmentContractError: As `make_env`.
    """
    options: dict[str, Any] = {
        "observe_task": config.observe_task or is_baseline(config, "oracle"),
        "observe_terrain": config.observe_terrain,
    }
    if run and env is None:
        require_trust(run, "env", config.env)
        return make_env_of_run(
            config.env, run, num_threads(config), timeout=config.trainer.env_timeout, **options
        )
    options["timeout"] = config.trainer.env_timeout
    return make_env(config.env if env is None else env, num_threads(config), **options)


def make_env_of_run(
    name: str, run: Path, threads: int = 0, *, is_quiet: bool = False, **options: Any
) -> Any:
    """Builds an environment with the robot of a run, or another one of the same robot.

    Args:
        name: Of the environment.
        run: Folder of the run; where the file of its robot has changed since, its copy is used, and
            a line says so.
        threads: Physics threads; 0 uses all cores.
        is_quiet: Write no such line.
        options: Of `make_env`.

    Raises:
        ConfigError: As `make_env`.
        EnvironmentContractError: As `make_env`.
    """
    copied = _find_copy(name, run)
    if copied is None:
        return make_env(name, threads, **options)
    if not is_quiet and not is_published(run):
        notify(f"the robot of {name} has changed; the copy in {run} is used")
    other, definition = copied
    built = make_env(other, threads, **options)
    version = built.spec.version - (_robot_definition(other) or 0) + definition
    built.spec = replace(built.spec, name=name, version=version)
    return built


def keep_robot(config: TrainConfig[Any], run: Path) -> None:
    """Copies the user's robot, if the environment has one, into the folder of a new run.

    A robot that cannot be copied is a warning, because the training does not need the copy.
    """
    split, folder = split_robot_file(config.env), run / ROBOT
    if split is None or folder.exists():
        return
    from metarl.envs.robots.copies import copy_robot

    temporary = folder.with_name(f".{ROBOT}.{os.getpid()}")
    temporary.mkdir()
    try:
        copy_robot(split[0], temporary)
        record = {"definition": _robot_definition(config.env)}
        write_atomically(temporary / DEFINITION, json.dumps(record) + "\n")
        temporary.rename(folder)
    except (OSError, ValueError) as error:
        shutil.rmtree(temporary)
        reason = " ".join(str(error).split())
        warn(f"the run keeps no copy of {split[0]}: {reason}")


def publish_robot(config: TrainConfig[Any], run: Path, folder: Path) -> None:
    """Copies the robot that a run keeps, with its meshes and textures, into a published policy.

    A run that keeps no copy is a warning, because its policy can be used without the environment.

    Raises:
        ConfigError: A mesh or texture is missing or has changed; the message names it.
        OSError: A file cannot be read or written.
    """
    split = split_robot_file(config.env)
    if split is None:
        return
    if (run / ROBOT).is_dir():
        from metarl.envs.robots.copies import copy_with_assets

        copy_with_assets(run / ROBOT / split[0].name, folder / ROBOT)
    else:
        text = f"{run} keeps no copy of its robot, so others can neither evaluate nor film it"
        warn(text)


def portable_name(env: str) -> str:
    """Returns the name of an environment without the folder of a robot's file."""
    split = split_robot_file(env)
    return f"{split[0].name}:{split[1]}" if split else env


def _find_copy(name: str, run: Path) -> tuple[str, int] | None:
    """Finds the copy of a robot in a run, if there is one and the robot is another one now.

    Returns:
        The name of the environment with the copy, and the number of the robot's definition.
    """
    split = split_robot_file(name)
    if split is None or not (run / ROBOT / DEFINITION).is_file():
        return None
    path = run / ROBOT / DEFINITION
    try:
        record = load_json(path)
        check_form(record, {"definition": (int, type(None))})
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    if _robot_definition(name) == record["definition"]:
        return None
    return f"{run / ROBOT / split[0].name}:{split[1]}", record["definition"]


def _robot_definition(name: str) -> int | None:
    """Returns the number of a robot's definition, None if its file is unusable."""
    from metarl.envs.registry import own_recipe

    try:
        recipe = own_recipe(name)
    except ConfigError:
        return None
    return recipe.robot.definition if recipe else None


def make_env(
    env: Any,
    threads: int = 0,
    *,
    observe_task: bool = False,
    observe_terrain: bool = False,
    timeout: float = TIMEOUT,
) -> Any:
    """Builds an environment; a plug-in is searched for in the current directory too.

    Args:
        env: A name (see `envs/registry.py`), a class or function (see `build` in
            `envs/plugins/discovery.py`), or a `BatchEnv`, which is returned as it is.
        threads: Physics threads; 0 uses all cores.
        observe_task: Append the task to the observation.
        observe_terrain: Append heights of the ground around the robot to the observation.
        timeout: Time that a plug-in may take for its start, a step or a reset [s].

    Returns:
        A `BatchEnv`.

    Raises:
        ConfigError: There is no such name (the message names the nearest), the object is of
            another kind, or there is no such observation.
        EnvironmentContractError: The code of a plug-in fails; the message names the line.
    """
    from metarl.envs.plugins import main_module

    main_module.exit_if_imported_by_worker()
    require_count("threads", threads, 0, MOST_THREADS)
    name = name_of(env)
    if isinstance(env, str):
        built = _make_by_name(env, threads, observe_terrain, timeout)
    elif observe_terrain:
        hint = "give a -terrain name of --list-envs"
        raise ConfigError(f"--observe-terrain: {name} is given as an object; {hint}")
    elif isinstance(env, type) or missing_members(env, BatchEnv):
        built = _start_plugin(name, lambda: _make_plugin(name, env, threads, timeout))
    else:
        built = env
    lacking = missing_members(built, BatchEnv)
    if lacking:
        raise EnvironmentContractError(
            f"--env {name}: made a {type(built).__name__}, which lacks {', '.join(lacking)}; "
            "metarl/core/env.py documents BatchEnv"
        )
    return _observe_task(built, name) if observe_task else built


def check_plugin(name: str, env: Any) -> None:
    """Checks a plug-in for about a second; what may be a mistake is a warning.

    Raises:
        EnvironmentContractError: It breaks the contract; names the check, and how to go on.
    """
    from metarl.envs.env_checker import quick_check

    findings = quick_check(env)
    for finding in findings:
        if finding.warning:
            warn(f"{name}: {finding.name}: {finding.warning}")
    for finding in findings:
        if finding.violation:
            hint = f"metarl check-env {name} checks more, --no-check trains all the same"
            text = f"{finding.name}: {finding.violation}"
            raise EnvironmentContractError(f"--env {name} breaks the contract: {text}; {hint}")


def is_batch_env(env: Any) -> bool:
    """Returns whether an environment is given as a `BatchEnv`, which its owner closes."""
    return not isinstance(env, (str, type)) and not missing_members(env, BatchEnv)


def name_of(env: Any) -> str:
    """Returns the name of an environment that may be given as an object (see `make_env`).

    Raises:
        ConfigError: The object is of another kind.
    """
    if isinstance(env, str):
        return env
    if not missing_members(env, BatchEnv) and not isinstance(env, type):
        return env.spec.name
    # a partial and an object with __call__ have none; functions of several types have one
    qualname = getattr(env, "__qualname__", None)
    if callable(env) and qualname is not None:
        return f"{env.__module__}:{qualname}"
    raise ConfigError(f"env = {env!r:.200}: must be {_hint_at_kind(env)}")


def _hint_at_kind(env: Any) -> str:
    """Returns the kind of object to give instead of one that cannot be used."""
    import gymnasium

    if isinstance(env, gymnasium.Env):  # every row of the batch is an instance of its own
        return f"the class {type(env.unwrapped).__name__} or a function, not an instance"
    if callable(env):  # a partial, for example; a run is loaded again by the name of a function
        return "a function of a module that makes the environment: other callables have no name"
    return "a name, a class, a function or a BatchEnv"


def _make_plugin(name: str, thing: Callable[..., Any], threads: int, timeout: float) -> BatchEnv:
    from metarl.envs.plugins.discovery import build

    return build(name, thing, threads, timeout)


def _make_by_name(name: str, threads: int, observe_terrain: bool, timeout: float) -> Any:
    from metarl.envs.registry import make

    if ":" in name and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # python puts the folder of train.py there, not this one
    return _start_plugin(
        name, lambda: make(name, threads, observe_terrain=observe_terrain, timeout=timeout)
    )


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
    except MetarlError as error:
        raise type(error)(f"--env {name}: {error}") from error
    except Exception as error:
        if name in ENVIRONMENTS:
            raise
        raise EnvironmentContractError(f"--env {name}: {describe_error(error)}") from error


def _observe_task(env: Any, name: str) -> Any:
    from metarl.core.env import UnsupportedHere
    from metarl.envs.wrappers.observe_task import ObserveTask

    if supports(env.spec.tasks, HasOpaqueTasks) and env.spec.tasks.opaque:
        raise ConfigError(f"--observe-task: tasks of {name} are not numbers; leave the flag out")
    try:
        return ObserveTask(env)
    except UnsupportedHere as error:
        raise ConfigError(f"--observe-task: {name}: {error}") from error


def build_learner(config: TrainConfig[Any], env: Any, device: Any) -> Any:
    """Builds the learner of a config for an environment, with fresh parameters."""
    algorithm = registry.find_algorithm(config.algo)
    tasks = env.spec.tasks
    if algorithm.sees_tasks and supports(tasks, HasOpaqueTasks) and tasks.opaque:
        raise ConfigError(f"--algo {config.algo}: tasks of {env.spec.name} are not numbers")
    try:
        return registry.build_learner(
            algorithm,
            config.learner,
            env.spec,
            seed=config.seed,
            device=device,
            num_threads=num_threads(config),
            experience=_experience(config, env) if algorithm.has_own_loop else None,
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        asked = [
            f"{name} {value}" for name, value in vars(config.learner).items() if "size" in name
        ]
        text = f"--algo {config.algo}: no memory for a learner with {', '.join(asked)}"
        raise ResourceError(f"{text}; choose smaller sizes") from error


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
