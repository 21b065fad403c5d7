"""Builds what runs the trials of a training, and the environment in which they are run.

Nothing heavy is imported at module level, so that --help and --list-envs answer without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from metarl.builders import build_env, build_learner
from metarl.config.schema import TrainConfig, from_yaml, to_yaml
from metarl.core.env import HasFingerprint, supports
from metarl.core.errors import ConfigError
from metarl.learners import registry
from metarl.learners.gp.config import GpConfig
from metarl.learners.metric.config import MetricConfig
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.runs import provenance
from metarl.runs.progress import heartbeat


def collecting_env(config: TrainConfig[Any], env: Any) -> Any:
    """Returns the environment of the training: itself, with other physics, or in a mirror.

    Raises:
        ConfigError: The robot cannot be mirrored, or the learner sees the task; or Warp cannot
            simulate it, or the learner collects its own experience.
        ResourceError: Warp is not installed.
    """
    if config.sampler.physics == "warp":
        env = _on_warp(config, env)
    return mirror(config, env) if config.sampler.mirror else env


def _on_warp(config: TrainConfig[Any], env: Any) -> Any:
    from metarl.core.env import RunsOnWarp, UnsupportedHere

    flag = "--sampler.physics warp"
    if registry.find_algorithm(config.algo).has_own_loop:
        hint = "it collects its own experience; leave the flag out"
        raise ConfigError(f"{flag} with --algo {config.algo}: {hint}")
    if config.sampler.slices > 1:
        hint = "Warp steps all tasks at once; leave it out"
        raise ConfigError(f"{flag} with --sampler.slices {config.sampler.slices}: {hint}")
    name = env.spec.name
    if not supports(env, RunsOnWarp):
        raise ConfigError(f"{flag}: {name} is no robot of MuJoCo; leave the flag out")
    try:
        return env.on_warp()
    except UnsupportedHere as error:
        raise ConfigError(f"{flag}: {name}: {error}; leave the flag out") from error


def build_collector(
    config: TrainConfig[Any], env: Any, learner: Any, group: Any, *, is_given: bool = False
) -> Any:
    """Builds the collector that a config selects; workers of a cluster are started and compared.

    Args:
        config: The settings.
        env: The environment of the training.
        learner: The learner.
        group: The processes that train together.
        is_given: The environment was given as an object, which workers cannot build again.

    Raises:
        ConfigError: The learner, the environment or several processes cannot use workers.
        ResourceError: Ray is not installed, no worker answers, one has another version or model, or
            the shared memory is too small.
    """
    from metarl.sampling.sampler import Collector

    on_warp = config.sampler.physics == "warp"
    if on_warp and group.size > 1:
        hint = "each process would need a GPU of its own; start one"
        raise ConfigError(f"--sampler.physics warp with {group.size} processes: {hint}")
    if config.sampler.mirror and group.size > 1:
        hint = "which tasks are mirrored would depend on them; start one"
        raise ConfigError(f"--sampler.mirror with {group.size} processes: {hint}")
    local = Collector(env, 1 if on_warp else config.sampler.slices, group)
    if config.sampler.backend == "local":
        return local
    _refuse_unsuitable(config, group, is_given)
    from metarl.sampling.cluster.ray_workers import RayWorkers

    build = partial(build_worker, to_yaml(config), os.getcwd())
    with heartbeat("starting the workers"):
        workers = RayWorkers(config.sampler.address, build)
        try:
            return join_cluster(config, local, workers, learner, group)
        except BaseException:
            workers.close()
            raise


def join_cluster(
    config: TrainConfig[Any], local: Any, workers: Any, learner: Any, group: Any
) -> Any:
    """Starts workers and compares them; returns the collector that gives them the tasks.

    Args:
        config: The settings.
        local: The collector of this machine.
        workers: See `metarl.sampling.cluster.requests.Workers`.
        learner: The learner.
        group: The processes that train together, each with workers of its own.

    Raises:
        ConfigError: There are fewer workers than processes.
        ResourceError: As `build_collector`.
    """
    from metarl.core.learner import TreatsTasksApart
    from metarl.sampling.cluster.collector import ClusterCollector
    from metarl.sampling.cluster.pool import Pool

    sampler = config.sampler
    sizes = sampler.num_tasks, sampler.num_episodes, sampler.num_adaptations
    capacity = sampler.workers or workers.capacity()
    if group.size > max(1, capacity):
        hint = "each needs one: start fewer processes, or more workers"
        raise ConfigError(f"{capacity} workers for {group.size} processes: {hint}")
    pool = Pool(workers, collect_facts(local.env), sampler.workers, _report, group)
    collector = ClusterCollector(local, workers, pool, group=group, keeps_slices=sampler.mirror)
    collector.require_memory(*sizes)
    pool.start()
    most = local.count_slices(*sizes[:2])
    is_limited = sampler.mirror or not supports(learner, TreatsTasksApart)
    num_workers = pool.target() * group.size
    if is_limited and num_workers > most and group.rank == 0:
        hint = f"--sampler.slices {num_workers} in a new run uses all"
        _report(f"{config.algo} is played in {most} slices, by as many workers; {hint}")
    return collector


def _report(line: str) -> None:
    print(f"metarl: {line}", file=sys.stderr, flush=True)


def _refuse_unsuitable(config: TrainConfig[Any], group: Any, is_given: bool) -> None:
    flag = "--sampler.backend ray"
    if registry.find_algorithm(config.algo).has_own_loop:
        reason = "it collects its own experience; leave the flag out"
        raise ConfigError(f"{flag} with --algo {config.algo}: {reason}")
    if group.size > 1 and config.sampler.address == "local":
        hint = "each would start a cluster of its own; start one, and give --sampler.address auto"
        raise ConfigError(f"{flag} with {group.size} processes: {hint}")
    if config.sampler.physics == "warp":
        raise ConfigError(f"{flag} with --sampler.physics warp: workers have no GPU; take one")
    if is_given or config.env.startswith("__main__:"):
        hint = "give a name, or a class or function of a module that they can import"
        raise ConfigError(f"{flag}: workers cannot build {config.env} again; {hint}")


def build_worker(settings: str, folder: str) -> tuple[Any, Any, int, Any]:
    """Builds, in the process of a worker, what it works with.

    Args:
        settings: The config of the run as YAML.
        folder: Where the run was started; modules and files of the user are searched for there.

    Returns:
        The environment, the learner, the number of slices, and the facts to be compared.

    Raises:
        ConfigError: The environment or the learner is unknown in this process.
    """
    if folder not in sys.path:
        sys.path.append(folder)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "config.yaml"
        path.write_text(settings, encoding="utf-8")
        config = from_yaml(path)
    config = replace(config, sampler=replace(config.sampler, threads=1))
    env = collecting_env(config, build_env(config))
    learner = build_learner(config, env, "cpu")
    return env, learner, config.sampler.slices, collect_facts(env)


def collect_facts(env: Any) -> Any:
    """Returns what must be the same for all workers."""
    from metarl.sampling.cluster.requests import Facts

    model = env.fingerprint() if supports(env, HasFingerprint) else ""
    text = json.dumps([provenance.describe_env(env.spec), model], sort_keys=True)
    return Facts(
        versions=provenance.list_versions(),
        env=hashlib.sha256(text.encode()).hexdigest(),
        processor=provenance.read_processor(),
        place=platform.node(),
        process=os.getpid(),
    )


def mirror(config: TrainConfig[Any], env: Any) -> Any:
    """Returns an environment that shows every second task in a mirror.

    Raises:
        ConfigError: The robot cannot be mirrored, or the learner sees the task.
    """
    from metarl.core.env import UnsupportedHere
    from metarl.envs.wrappers.mirrored import Mirrored

    if registry.find_algorithm(config.algo).sees_tasks:
        hint = "it sees the task, which has no mirror image; leave the flag out"
        raise ConfigError(f"--sampler.mirror with --algo {config.algo}: {hint}")
    try:
        return Mirrored(env)
    except UnsupportedHere as error:
        raise ConfigError(f"--sampler.mirror: {error}") from error


def describe_physics(config: TrainConfig[Any]) -> str:
    """Returns what computes the physics of a training, with version and device."""
    if config.sampler.physics == "mujoco":
        return "mujoco"
    from metarl.envs.physics.warp_batch import describe_engine

    return describe_engine()


def require_experience(config: TrainConfig[Any]) -> None:
    """Requires that a training has the iterations and the experience that its learner needs.

    Raises:
        ConfigError: It has not; names the setting.
    """
    learner, sampler = config.learner, config.sampler
    if isinstance(learner, TeacherStudentConfig):
        learner.require_phases(config.iterations, starts_from_run=config.init_from is not None)
    if isinstance(learner, MetricConfig) and not config.resume:  # older runs may go on
        sizes = sampler.num_tasks, sampler.num_episodes, sampler.num_adaptations
        learner.require_sets(*sizes, sampler.train_tasks)
    if isinstance(learner, GpConfig) and not config.resume:
        learner.require_tasks(sampler.num_tasks, sampler.train_tasks)
