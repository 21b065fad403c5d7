"""Metadata of an exported policy: the keys of mjlab's and Isaac Lab's exporters, and ours."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metarl import __version__
from metarl.config.schema import TrainConfig
from metarl.core.env import EnvSpec
from metarl.deployment.export.step import PolicyGraph
from metarl.deployment.policy_facts import FORMAT, KEY
from metarl.learners.maml.maml import Maml
from metarl.learners.modes import find_mode, label
from metarl.runs.folder import list_checkpoints
from metarl.runs.provenance import to_json

_COMMAND = re.compile(r"([-+.\de]+ x )?command")
"""Beginning of the name of an observed command, which may be scaled."""


@dataclass(frozen=True)
class Origin:
    """Source of an exported policy.

    Attributes:
        run: The run folder.
        config: Its settings.
        learner: The learner.
        spec: Of the environment of training.
        iteration: Iterations of training.
        env_steps: Environment steps of training.
        gains: Stiffness and damping of every actuator that is a servo [N m/rad and N m s/rad]; ()
            is not known.
    """

    run: Path
    config: TrainConfig[Any]
    learner: Any
    spec: EnvSpec
    iteration: int = 0
    env_steps: int = 0
    gains: tuple[tuple[float, float], ...] = ()


def to_metadata(
    origin: Origin, policy: PolicyGraph, *, adaptations: int = 0, adaptation_graph: str = ""
) -> dict[str, str]:
    """Returns the texts to store in a file.

    Args:
        origin: Of the policy.
        policy: The graph.
        adaptations: Gradient steps that the weights have taken.
        adaptation_graph: Name of the file with the adaptation step, beside this one.
    """
    facts = _describe_spec(origin.spec) | _describe_training(origin)
    facts |= {
        "format": FORMAT,
        "adapts": policy.adapts,
        "max_steps": policy.max_steps,
        "states": [
            {"input": state.name, "output": f"next_{state.name}", "shape": list(state.shape)}
            | {"initial": 0.0}
            for state in policy.states
        ],
        "adaptations": adaptations,
        **(policy.facts or {}),
    }
    if isinstance(origin.learner, Maml):
        facts["adaptation"] = _describe_adaptation(origin.learner, adaptation_graph)
    texts = {KEY: json.dumps(to_json(facts), sort_keys=True, allow_nan=False)}
    return _robot_texts(origin) | texts


def _describe_spec(spec: EnvSpec) -> dict[str, Any]:
    return {
        "env": spec.name,
        "env_version": spec.version,
        "obs_size": spec.obs_size,
        "action_size": spec.action_size,
        "horizon": spec.horizon,
        "dt": spec.dt,
        "discrete": spec.discrete,
        "action_scale": _numbers(spec.action_scale, spec.action_size),
        "action_centre": _numbers(spec.action_centre, spec.action_size),
        "action_range": None if spec.action_range is None else [list(e) for e in spec.action_range],
        "observed": [[each.name, each.unit] for each in spec.observed],
        "actuators": [[each.name, each.unit] for each in spec.actuators],
        "task_variables": [dataclasses.asdict(each) for each in spec.tasks.variables],
        "reference_returns": spec.floors,
    }


def _describe_training(origin: Origin) -> dict[str, Any]:
    config = origin.config
    return {
        "learner": label(config.algo, config.learner),
        "run": origin.run.resolve().name,
        "checkpoint_sha256": _hash_checkpoint(origin),
        "iteration": origin.iteration,
        "env_steps": origin.env_steps,
        "seed": config.seed,
        "episodes_per_task": config.sampler.num_episodes,
        "observe_task": config.observe_task or find_mode(config.learner) == "oracle",
        "observe_terrain": config.observe_terrain,
        "metarl": __version__,
    }


def _describe_adaptation(learner: Maml, graph: str) -> dict[str, Any]:
    config = learner.config
    log_std = learner.policy.distribution.clamp(learner.params).get("log_std")
    return {
        "graph": graph,
        "inner_lr": config.inner_lr,
        "later_lr": config.later_lr,
        "later_decay": config.later_decay,
        "discount": config.discount,
        "gae_lambda": config.gae_lambda,
        "min_log_std": config.min_log_std,
        "log_std": None if log_std is None else log_std.tolist(),
    }


def _hash_checkpoint(origin: Origin) -> str:
    """Returns the SHA-256 of the manifest of the checkpoint, which has those of its files."""
    checkpoints = list_checkpoints(origin.run / "checkpoints")
    # a newer one was damaged, and passed over when the policy was loaded
    own = [path for step, _, path in checkpoints if step == origin.iteration]
    if not own:
        return ""
    return hashlib.sha256((own[-1] / "manifest.json").read_bytes()).hexdigest()


def _robot_texts(origin: Origin) -> dict[str, str]:
    """Returns the metadata under the keys of mjlab's exporter, as texts separated by commas."""
    spec, size = origin.spec, origin.spec.action_size
    texts = {
        "run_path": origin.run.resolve().name,
        "control_period": f"{spec.dt!r}",
        "action_scale": _join(_numbers(spec.action_scale, size)),
        "default_joint_pos": _join(_numbers(spec.action_centre, size)),
    }
    if spec.actuators:
        texts["joint_names"] = _join([each.name for each in spec.actuators])
    if origin.gains:
        stiffness, damping = zip(*origin.gains, strict=True)
        texts |= {"joint_stiffness": _join(stiffness), "joint_damping": _join(damping)}
    if spec.observed:
        names = [each.name for each in spec.observed]
        texts["observation_names"] = _join(names)
        texts["observation_history_lengths"] = _join([1] * len(names))
        texts["command_names"] = _join([name for name in names if _COMMAND.match(name)])
    return texts


def _numbers(value: Any, size: int) -> list[float]:
    return np.broadcast_to(np.asarray(value, dtype=float), size).tolist()


def _join(values: Sequence[Any]) -> str:
    """Joins values by commas; a comma in a name becomes a semicolon."""
    return ",".join(str(value).replace(",", ";") for value in values)
