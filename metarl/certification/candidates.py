"""The policy of a certificate: a run folder, a zip of Stable-Baselines3, or an ONNX file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl import experiment
from metarl.builders import is_baseline
from metarl.certification import foreign
from metarl.certification.cells import Training
from metarl.config.trust import trust
from metarl.core.env import EnvSpec
from metarl.core.errors import CheckpointError, ConfigError
from metarl.learners.modes import label
from metarl.runs.published import name_of
from metarl.trained_policy import TrainedPolicy


@dataclass(frozen=True)
class Source:
    """Place of a policy.

    Attributes:
        path: A run folder, a zip of Stable-Baselines3 (SB3), or an ONNX file.
        sb3_class: Class of SB3 that saved the zip.
        normalizer: File of SB3's `VecNormalize`, or None.
        trusts_pickle: Load files of SB3, which may run code.
    """

    path: Path
    sb3_class: str = ""
    normalizer: Path | None = None
    trusts_pickle: bool = False

    @property
    def kind(self) -> str:
        """One of "metarl", "sb3" and "onnx"."""
        return {".zip": "sb3", ".onnx": "onnx"}.get(self.path.suffix.lower(), "metarl")


@dataclass(frozen=True)
class Candidate:
    """A loaded policy.

    Attributes:
        learner: Its `begin`, `act` and `adapt`.
        num_episodes: E, episodes of a task that it adapts to together; 1 for a memory.
        facts: What the certificate says of it, as a tree for JSON.
        training: Distribution of its training tasks; None is not known.
        observation: Options of `builders.make_env` for its observations.
    """

    learner: Any
    num_episodes: int
    facts: Mapping[str, Any]
    training: Training | None
    observation: Mapping[str, bool]


def read_observation(source: Source) -> dict[str, bool]:
    """Returns the options of `builders.make_env` for the observations of a policy.

    Raises:
        CheckpointError: The folder is not a run.
    """
    if source.kind == "onnx":
        from metarl.deployment.onnx_policy import OnnxPolicy

        record = OnnxPolicy(source.path).facts.record
        return {name: record.get(name, False) for name in ("observe_task", "observe_terrain")}
    if source.kind == "sb3":
        return {"observe_task": False, "observe_terrain": False}
    config = experiment.read_config(source.path)
    observes_task = config.observe_task or is_baseline(config, "oracle")
    return {"observe_task": observes_task, "observe_terrain": config.observe_terrain}


def check_source(source: Source) -> None:
    """Refuses a policy that is not there, and flags that do not fit it.

    Raises:
        CheckpointError: There is no such folder or file.
        ConfigError: A flag does not fit; names path and flag.
    """
    path, is_sb3 = source.path, source.kind == "sb3"
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such run folder or file")
    flags = {
        f"--sb3 {source.sb3_class}": source.sb3_class,
        f"--vec-normalize {source.normalizer}": source.normalizer,
        "--trust-pickle": source.trusts_pickle,
    }
    for flag, value in flags.items():
        if value and not is_sb3:
            raise ConfigError(f"{flag}: {path} is no zip of Stable-Baselines3")
    if is_sb3 and not source.sb3_class:
        hint = f"name the class that saved {path}, such as --sb3 PPO"
        raise ConfigError(f"--sb3 is missing: {hint}")
    if is_sb3:
        foreign.check_class(source.sb3_class)
    if is_sb3 and not source.trusts_pickle:
        hint = "if you trust its origin, add --trust-pickle"
        raise ConfigError(f"{path}: Stable-Baselines3 runs code that is in such a file; {hint}")
    if source.normalizer and not source.normalizer.is_file():
        raise ConfigError(f"--vec-normalize {source.normalizer}: there is no such file")


def open_candidate(source: Source, spec: EnvSpec, threads: int) -> Candidate:
    """Loads a policy for an environment.

    Args:
        source: Its place, checked.
        spec: Of the environment.
        threads: Of the adaptation; 0 takes all cores.

    Raises:
        ConfigError: The policy is of other sizes, or is a set of policies from scratch.
        CheckpointError: It cannot be loaded.
    """
    if source.kind == "metarl":
        return _open_run(source.path, spec, threads)
    if source.kind == "onnx":
        return _open_onnx(source, spec)
    path = source.path
    files = [path, *([source.normalizer] if source.normalizer else [])]
    foreign.warn_of_code(files)
    controller = foreign.load_sb3(path, source.sb3_class, spec, source.normalizer)
    facts = _describe_file(source, f"{source.sb3_class} of Stable-Baselines3", files)
    learner = foreign.ForeignLearner(controller)
    return Candidate(learner, 1, facts, None, read_observation(source))


def _open_onnx(source: Source, spec: EnvSpec) -> Candidate:
    """Loads a file of `metarl export`, or one of others with an observation and an action."""
    from metarl.deployment.onnx_learner import OnnxLearner
    from metarl.deployment.onnx_policy import OnnxPolicy

    policy = OnnxPolicy(source.path)
    record, learner = policy.facts.record, OnnxLearner(policy, spec)
    if policy.facts.is_foreign:
        facts = _describe_file(source, "ONNX", [source.path])
        return Candidate(learner, 1, facts, None, read_observation(source))
    own = policy.spec
    facts = _describe_file(source, f"{record['learner']} in ONNX", [source.path])
    facts |= {"trained_on": own.name}
    training = Training(own.name, own.tasks.variables, own.tasks.test.variables)
    episodes = record["episodes_per_task"] if learner.pools_episodes else 1
    return Candidate(learner, episodes, facts, training, read_observation(source))


def _describe_file(source: Source, algo: str, files: list[Path]) -> dict[str, Any]:
    return {
        "name": source.path.stem,
        "kind": source.kind,
        "algo": algo,
        "trained_on": None,
        "iteration": None,
        "sha256": _hash_files(files),
    }


def _open_run(path: Path, spec: EnvSpec, threads: int) -> Candidate:
    with experiment.load(path, threads) as policy:  # its spec may need the environment
        return _describe_run(policy, path, spec)


def _describe_run(policy: TrainedPolicy, path: Path, spec: EnvSpec) -> Candidate:
    config = policy.config
    if is_baseline(config, "scratch"):
        raise ConfigError(
            f"{path}: mode scratch has one policy for each task; it has no certificate"
        )
    own = policy.spec
    foreign.check_sizes(path, spec, own.obs_size, own.action_size)
    if own.discrete != spec.discrete:
        kinds = ["continuous", "discrete"]
        hint = f"those of {spec.name} are {kinds[spec.discrete]}"
        raise ConfigError(f"{path}: its actions are {kinds[own.discrete]}, {hint}")
    tasks = own.tasks
    learner = policy.learner
    return Candidate(
        learner,
        config.sampler.num_episodes if learner.pools_episodes else 1,
        {
            "name": name_of(path),
            "kind": "metarl",
            "algo": label(config.algo, config.learner),
            "trained_on": config.env,
            "iteration": policy.progress.iteration,
            "sha256": _hash_state(learner.state_dict()),
        },
        Training(config.env, tuple(tasks.variables), tuple(tasks.test.variables)),
        read_observation(Source(path)),
    )


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _hash_state(state: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def require_oracle(path: Path) -> str:
    """Returns the environment of a run whose policy observes the task.

    Raises:
        ConfigError: It does not observe the task.
        CheckpointError: The folder is no run.
    """
    if not path.is_dir():
        raise ConfigError(f"--oracle {path}: there is no such run folder")
    config = experiment.read_config(path, "--oracle ")
    if not (config.observe_task or is_baseline(config, "oracle")):
        hint = "give a run of --observe-task or of --learner.mode oracle"
        raise ConfigError(f"--oracle {path}: its policy does not observe the task; {hint}")
    return config.env


def trust_source(source: Source) -> None:
    """Trusts the code that a run folder or a file of `metarl export` names.

    Raises:
        CheckpointError: The folder is no run.
    """
    if source.kind == "metarl" and source.path.is_dir():
        experiment.read_config(source.path, trusts=True)
    trust(read_env(source) if source.kind == "onnx" else "")


def read_env(source: Source) -> str:
    """Returns the environment of a run folder or of a file of `metarl export`, "" for others.

    Raises:
        CheckpointError: The folder is no run.
    """
    if source.kind == "onnx":
        from metarl.deployment.onnx_policy import OnnxPolicy

        return OnnxPolicy(source.path).facts.record.get("env", "")
    return experiment.read_config(source.path).env if source.kind == "metarl" else ""
