"""Explanations of trained policies: probes of a memory, or the layers that adaptation moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metarl import builders
from metarl.core.env import supports
from metarl.core.errors import ConfigError, require
from metarl.core.learner import AdaptsParams, HasMemory
from metarl.core.rng import stream
from metarl.core.tasks import HasOpaqueTasks, HasTestTasks
from metarl.evaluation import results
from metarl.evaluation.adaptation_steps import measure_steps
from metarl.evaluation.memory_probe import probe_memory
from metarl.learners.modes import label
from metarl.policies import Given, open_policy
from metarl.runs.progress import heartbeat
from metarl.runs.reader import EXPLANATION
from metarl.sampling.sampler import Key
from metarl.trained_policy import TrainedPolicy

PICTURE = "explain.png"

NUM_TASKS = {"memory": 200, "parameters": 40}
"""Tasks of an explanation, by default: a probe is fitted to them."""

MIN_TASKS = {"memory": 20, "parameters": 2}

NUM_TRIALS = 2
"""Trials of each task that a memory is probed in, by default."""


def explain(
    policy: Given,
    *,
    num_tasks: int | None = None,
    num_episodes: int | None = None,
    num_adaptations: int | None = None,
    distribution: Literal["train", "test"] | None = None,
    trust_env: bool = False,
) -> dict[str, Any]:
    """Shows how a policy adapts, and writes explain.json and explain.png to its run folder.

    For a policy with a memory (RL^2, VariBAD, teacher and student), linear probes show the step of
    the trial from which the memory tells each task number, on tasks that a probe was not fitted to.
    For one that adapts by gradient steps (MAML and its relatives), the layers that move are shown,
    and how steps of different tasks differ.

    Args:
        policy: The trained policy, its run folder, or its address on the hub.
        num_tasks: N, by default 200 for a memory and 40 for gradient steps.
        num_episodes: Independent trials of each task for a memory, by default 2; gradient steps use
            as many episodes as in training.
        num_adaptations: K, by default that of the training (at least 1 for gradient steps).
        distribution: "train" draws new tasks as in training (the default for a memory, because
            held-out tasks may have a single limb or few kinds), "test" held-out tasks (the default
            for gradient steps).
        trust_env: Load the plug-ins that a run folder names, which runs their code.

    Returns:
        The contents of explain.json.

    Raises:
        ConfigError: The policy has no memory that can be read and does not adapt by gradient steps,
            or an argument does not fit it.
        NumericalError: An action or a gradient is not finite.
    """
    given = {
        "num_tasks": num_tasks,
        "num_episodes": num_episodes,
        "num_adaptations": num_adaptations,
        "distribution": distribution,
    }
    given = {name: value for name, value in given.items() if value is not None}
    with open_policy(policy, trust_env=trust_env) as loaded:
        return _explain(loaded, given)


@dataclass(frozen=True)
class _Settings:
    """Arguments of `explain`, with the defaults filled in."""

    num_tasks: int
    num_episodes: int
    num_adaptations: int
    distribution: str


def _choose_settings(kind: str, sampler: Any, given: Mapping[str, Any]) -> _Settings:
    """Puts the given arguments in place of the defaults of a kind of explanation.

    Raises:
        ConfigError: An argument is out of range; names it, its value and the range.
    """
    is_memory = kind == "memory"
    lowest = {"num_tasks": MIN_TASKS[kind], "num_episodes": 1, "num_adaptations": 1 - is_memory}
    default = _Settings(
        NUM_TASKS[kind],
        NUM_TRIALS if is_memory else sampler.num_episodes,
        max(lowest["num_adaptations"], sampler.num_adaptations),
        "train" if is_memory else "test",
    )
    settings = replace(default, **given)
    for name, bound in lowest.items():
        require(vars(settings)[name] >= bound, name, vars(settings)[name], f"at least {bound}")
    fits = is_memory or settings.num_episodes == default.num_episodes
    hint = f"{default.num_episodes}, as many as the run adapts to"
    require(fits, "num_episodes", settings.num_episodes, hint)
    is_known = settings.distribution in ("train", "test")
    require(is_known, "distribution", settings.distribution, "train or test")
    return settings


def _explain(policy: TrainedPolicy, given: Mapping[str, Any]) -> dict[str, Any]:
    kind, config = _find_kind(policy), policy.config
    settings = _choose_settings(kind, config.sampler, given)
    env, progress = policy.env, policy.progress
    is_opaque = supports(env.spec.tasks, HasOpaqueTasks) and env.spec.tasks.opaque
    if kind == "memory" and is_opaque:
        hint = "give them as numbers (docs/own-environment.md)"
        raise ConfigError(f"{policy.path}: tasks of {env.spec.name} are no numbers; {hint}")
    tasks = _draw_tasks(env.spec, config.seed, settings)
    options: dict[str, Any] = {
        "num_episodes": settings.num_episodes,
        "num_adaptations": settings.num_adaptations,
        "key": Key(config.seed, "explain", 0),
    }
    with heartbeat(f"explaining the policy on {len(tasks)} tasks"):
        if kind == "memory":
            options["num_threads"] = builders.num_threads(config)
            found = probe_memory(env, policy.learner, tasks, **options)
        else:
            options["describes_tasks"] = not is_opaque
            found = measure_steps(env, policy.learner, tasks, **options)
    tree = {
        "env": env.spec.name,
        "env_version": env.spec.version,
        "algo": label(config.algo, config.learner),
        "seed": config.seed,
        "checkpoint": {"iteration": progress.iteration, "env_steps": progress.env_steps},
        "distribution": settings.distribution,
        **found,
    }
    _write(policy.output, tree)
    return tree


def _find_kind(policy: TrainedPolicy) -> str:
    if builders.is_baseline(policy.config, "oracle"):
        raise ConfigError(f"{policy.path}: an oracle observes the task, and does not adapt")
    if supports(policy.learner, HasMemory):
        return "memory"
    if supports(policy.learner, AdaptsParams):
        return "parameters"
    name = label(policy.config.algo, policy.config.learner)
    hint = "give a run of rl2, varibad, teacher-student, or of maml-trpo and its relatives"
    raise ConfigError(
        f"{policy.path}: {name} has no memory that can be read and adapts no single policy by "
        f"gradient steps; {hint}"
    )


def _draw_tasks(spec: Any, seed: int, settings: _Settings) -> np.ndarray:
    tasks = spec.tasks
    if settings.distribution == "test" and supports(tasks, HasTestTasks):
        tasks = tasks.test
    return tasks.sample(stream(seed, "explain-tasks"), settings.num_tasks)


def _write(folder: Path, tree: dict[str, Any]) -> None:
    from metarl.reporting.plots.explanation import draw_explanation, write_png

    results.write(folder / EXPLANATION, tree)
    figure = draw_explanation(tree)
    if figure is None:
        (folder / PICTURE).unlink(missing_ok=True)  # that of an older explanation
    else:
        write_png(figure, folder / PICTURE)
