"""Exports trained policies, and plays exported ones in the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from metarl import builders
from metarl.config.trust import require_trust, trust
from metarl.core.env import NoPictures, RenderableEnv, supports
from metarl.core.errors import ConfigError, name_failures, require
from metarl.core.machine.files import check_output
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.ranges import LARGEST_COUNT, MOST_ADAPTATIONS, MOST_TASKS, require_count
from metarl.policies import Given, open_policy
from metarl.runs.progress import heartbeat
from metarl.sampling.sampler import Collector, Key
from metarl.trained_policy import TrainedPolicy

FILMS = (".mp4", ".gif", ".html")
"""Endings of films."""


def export(
    policy: Given,
    path: str | Path,
    *,
    format: str = "onnx",  # noqa: A002 (the flag's name)
    adapt: Sequence[float] | None = None,
    num_adaptations: int = 1,
    max_steps: int = 0,
    trust_env: bool = False,
) -> list[Path]:
    """Exports a policy as one file: scaling, memory, head, and the transform of actions.

    A policy of MAML with a plain tanh network also gets the graph of its adaptation step, in
    `<name>.adaptation.onnx` beside the file.

    Args:
        policy: The trained policy, its run folder, or its address on the hub.
        path: The file; existing ones are replaced.
        format: "onnx" or "torchscript".
        adapt: A task (D,) to adapt to in the environment, between episodes; the file then has the
            adapted weights.
        num_adaptations: Adaptations with `adapt`.
        max_steps: Steps that a transformer without a window remembers; 0 is a trial of training,
            and at least four episodes.
        trust_env: Load the plug-ins that a run folder names, which runs their code.

    Returns:
        The files.

    Raises:
        ConfigError: The policy has no graph, an argument does not fit, or the folder is missing.
        ResourceError: The package onnx is missing.
    """
    from metarl.deployment.export.write import SUFFIXES, export_policy

    require(format in SUFFIXES, "--format", format, " or ".join(SUFFIXES))
    check_output("--output", Path(path), SUFFIXES[format])
    require_count("--num-adaptations", num_adaptations, 1, MOST_ADAPTATIONS)
    has_effect = num_adaptations == 1 or adapt is not None
    require(has_effect, "--num-adaptations", num_adaptations, "left out without --adapt")
    with open_policy(policy, trust_env=trust_env) as loaded:
        origin = loaded.origin()
        params = None if adapt is None else _adapt(loaded, adapt, num_adaptations)
        return export_policy(
            origin,
            Path(path),
            form=format,
            max_steps=max_steps,
            params=params,
            adaptations=0 if params is None else num_adaptations,
        )


def _adapt(policy: TrainedPolicy, task: Sequence[float], num_adaptations: int) -> Any:
    """Plays the adaptation episodes of a task; returns the adapted parameters (*shape)."""
    from metarl.core.learner import HasFixedPolicy
    from metarl.evaluation.evaluate import check_chosen_tasks

    config, learner = policy.config, policy.learner
    if not supports(learner, HasFixedPolicy):
        hint = "leave --adapt out"
        raise ConfigError(f"--adapt: {config.algo} has no weights that it adapts; {hint}")
    tasks, key = check_chosen_tasks([task], policy.env.spec), Key(config.seed, "export", 0)
    size = config.sampler.num_episodes, num_adaptations
    with closing(Collector(policy.env)) as collector, heartbeat("adapting"):
        with name_failures("adaptation"), one_torch_thread():
            _, context = collector.trial(policy.learner, tasks, *size, key)
    return learner.read_policy(context)


def run_policy(
    path: str | Path,
    env: str = "",
    *,
    num_tasks: int = 20,
    num_adaptations: int = 3,
    num_episodes: int = 0,
    threads: int = 0,
    film: str | Path | None = None,
    trust_env: bool = False,
) -> dict[str, Any]:
    """Plays an ONNX policy in the simulator on held-out tasks, without exploration noise.

    Tasks and initial states are those of `metarl evaluate --deterministic`.

    Args:
        path: The file, of `metarl export` or of others.
        env: Name of the environment; by default that of the training.
        num_tasks: N.
        num_adaptations: K.
        num_episodes: Episodes of each task in a rollout; 0 is as in training, or 1.
        threads: Physics threads; 0 uses all cores.
        film: File of a film of two tasks before and after adaptation: .mp4, .gif or .html.
        trust_env: Load the plug-in environment that the file names, which runs its code.

    Returns:
        As `metarl.evaluate` returns it.

    Raises:
        CheckpointError: The file is missing, damaged, or no policy.
        ConfigError: The environment does not fit the policy, or is not named.
        NoPictures: The environment cannot draw.
    """
    from metarl.deployment.onnx_learner import OnnxLearner
    from metarl.deployment.onnx_policy import OnnxPolicy
    from metarl.evaluation.evaluate import evaluate, held_out_tasks, summary

    require_count("num_tasks", num_tasks, 1, MOST_TASKS)
    require_count("num_adaptations", num_adaptations, 0, MOST_ADAPTATIONS)
    require_count("num_episodes", num_episodes, 0, LARGEST_COUNT)
    if film is not None:
        _check_film(Path(film))
    policy = OnnxPolicy(path)
    record = policy.facts.record
    env = _choose_env(Path(path), policy, env, trust_env)
    seed, episodes = record.get("seed", 0), num_episodes or record.get("episodes_per_task", 1)
    options = {name: record.get(name, False) for name in ("observe_task", "observe_terrain")}
    with closing(builders.make_env(env, threads, **options)) as built:
        learner, spec = OnnxLearner(policy, built.spec), built.spec
        tasks = held_out_tasks(spec, seed, num_tasks)
        sizes = {"num_episodes": episodes, "num_adaptations": num_adaptations}
        with heartbeat(f"playing {num_tasks} tasks"):
            key = Key(seed, "evaluate", 0)
            measured = evaluate(built, learner, tasks, **sizes, key=key, explore=False)
        name = record.get("learner", Path(path).name)
        result = summary(measured, spec, name, seed)
        if film is not None:
            shown = {**sizes, "key": Key(seed, "video", 0), "adapts": _how_it_adapts(policy)}
            _film(Path(film), built, learner, tasks[:2], shown)
    return result | {"trained_on": record.get("env", spec.name)}


def _how_it_adapts(policy: Any) -> str:
    """Returns how the policy of a file adapts, for `film_trial`."""
    return "gradient" if policy.can_adapt else "memory" if policy.facts.states else "no"


def _choose_env(path: Path, policy: Any, env: str, trusts: bool) -> str:
    """Returns the given environment, or that which the file of a policy names.

    Raises:
        ConfigError: The file names code that is not trusted, or no environment.
    """
    if not env and policy.facts.is_foreign:
        raise ConfigError(f"--env is missing: {path} does not name its environment")
    trust(env or (policy.spec.name if trusts else ""))
    name = env or policy.spec.name
    require_trust(path, "env", name)
    return name


def _check_film(path: Path) -> None:
    require(path.suffix in FILMS, "--output", str(path), f"a file that ends in {', '.join(FILMS)}")
    check_output("--output", path)


def _film(path: Path, env: Any, learner: Any, tasks: np.ndarray, options: dict[str, Any]) -> None:
    from metarl.reporting.film import film_trial, write_films

    if not supports(env, RenderableEnv):
        raise NoPictures(f"{env.spec.name} draws no pictures")
    panels = film_trial(env, learner, tasks, **options)
    write_films(path, env, panels, (path.suffix[1:],), title=f"{env.spec.name}: {path.stem}")
