"""What a run is: frozen settings, read from defaults, then a preset, then flags.

Flags and presets go through one reader of values (`metarl.config.schema.parser`), so that a flag and a preset's
key can never mean different things; tyro draws `--help` from the same dataclasses. Nothing here
imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from metarl.config.parser import flag, merge, plain, read_flags
from metarl.core.errors import CheckpointError, ConfigError, nearest, require
from metarl.core.files import load_yaml
from metarl.learners.maml.config import MamlTrpoConfig
from metarl.learners.registry import BASELINE_CONFIGS, LEARNER_CONFIGS

ALGO_CONFIGS = {**LEARNER_CONFIGS, **BASELINE_CONFIGS}
"""Config class by --algo."""

PRESETS = Path(__file__).resolve().parent.parent.parent / "configs"

L = TypeVar("L")
"""The config class of a learner."""


@dataclass(frozen=True)
class SamplerConfig:
    """How much experience one iteration collects."""

    num_tasks: int = 20
    """Tasks in a meta-batch (N), >= 1 (Finn et al. 2017 use 20 to 40)."""

    num_episodes: int = 10
    """Episodes of each task in each rollout (E), >= 1."""

    num_adaptations: int = 1
    """Adaptations in a trial (K), >= 0; a trial is K + 1 rollouts."""

    train_tasks: int = 0
    """Size of the fixed set of training tasks; 0 is that of the environment's definition, or draws from its distribution."""

    threads: int = 0
    """Physics threads; 0 takes all cores. Results do not depend on it."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above, naming the field."""
        lower = {"num_tasks": 1, "num_episodes": 1, "num_adaptations": 0, "train_tasks": 0}
        _at_least("sampler.", self, {**lower, "threads": 0})


@dataclass(frozen=True)
class TrainerConfig:
    """What a run writes, and how often."""

    checkpoint_minutes: float = 5.0
    """Wall-clock time between two checkpoints, > 0 [minutes]; the last iteration is always saved."""

    keep_checkpoints: int = 3
    """Newest checkpoints that are kept, >= 1; more than one survives a damaged file."""

    evaluate_tasks: int = 20
    """Held-out tasks of the evaluation at the end; 0 leaves it out."""

    video: bool = True
    """Film a held-out task before and after adaptation at the end."""

    tensorboard: bool = True
    """Write TensorBoard events beside metrics.jsonl."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above, naming the field."""
        minutes = self.checkpoint_minutes
        require(0 < minutes < float("inf"), "trainer.checkpoint_minutes", minutes, "finite and > 0")
        _at_least("trainer.", self, {"keep_checkpoints": 1, "evaluate_tasks": 0})


@dataclass(frozen=True)
class TrainConfig(Generic[L]):
    """Everything that decides a run."""

    env: str = ""
    """Environment: a name of --list-envs or of an installed plug-in, module:attribute, or an id of Gymnasium."""

    algo: str = "maml-trpo"
    """Learner."""

    seed: int = 0
    """Key of every random number of the run, >= 0."""

    device: str = "auto"
    """Where the update runs: auto (a GPU if there is one), cpu, cuda or cuda:N."""

    observe_task: bool = False
    """Put the task into the observation: the oracle, which need not find out."""

    observe_terrain: bool = False
    """Put heights of the ground around the robot into the observation."""

    iterations: int = 500
    """Meta-updates, >= 1."""

    run_dir: Path | None = None
    """Folder to write, which must not exist; by default a new one in runs/."""

    resume: Path | None = None
    """Run folder to go on with, as if it had never stopped."""

    list_envs: bool = False
    """Print the environments' names, with --env what there is to know of that one, and exit."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How much experience one iteration collects."""

    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """What a run writes, and how often."""

    learner: L = field(default_factory=MamlTrpoConfig)  # ty: ignore[invalid-assignment]
    """Settings of the learner that --algo names."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above, naming the field."""
        _at_least("", self, {"iterations": 1, "seed": 0})
        names = "one of " + ", ".join(ALGO_CONFIGS)
        known = self.algo in ALGO_CONFIGS
        require(known, "algo", self.algo, names + nearest(self.algo, ALGO_CONFIGS))
        kind = ALGO_CONFIGS[self.algo]
        ok = isinstance(self.learner, kind)
        require(ok, "learner", self.learner, f"a {kind.__name__}, as algo is {self.algo}")
        device = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)
        require(device is not None, "device", self.device, "auto, cpu, cuda or cuda:N")


def _at_least(group: str, config: object, bounds: Mapping[str, int]) -> None:
    for name, bound in bounds.items():
        value = getattr(config, name)
        require(value >= bound, group + name, value, f"at least {bound}")


_NOT_WHAT_IS_TRAINED = {"run_dir", "resume", "list_envs"}
"""Fields that say where and how to start; config.yaml leaves them out, so a folder can be moved."""

_OF_A_PRESET = {"iterations", "sampler", "trainer", "learner"}

_FREE_ON_RESUME = {"device", "iterations", "trainer", "sampler.threads"} | _NOT_WHAT_IS_TRAINED
"""Fields that a resumed run may change; any other would make it another run."""


def parse(argv: Sequence[str], *, presets: Path = PRESETS) -> TrainConfig[Any]:
    """Reads a command line over the preset of its environment and algorithm.

    Args:
        argv: The words after the program's name.
        presets: Folder of `<algo>/<env>.yaml`.

    Returns:
        The config. With --resume it is that of the run folder, with `resume` and `run_dir` set to
        the folder and the flags of `_FREE_ON_RESUME` on top.

    Raises:
        ConfigError: A flag, key or value is unknown or out of range; the message names the nearest.
        CheckpointError: --resume names a folder that holds no readable config.yaml.
        SystemExit: --help was asked for and is printed (status 0).
    """
    first = _choosing_flags(argv)
    if "resume" in first:
        default = _recorded(Path(first["resume"]))
    else:
        default = _preset(first.get("algo", "maml-trpo"), first.get("env", ""), presets)
    if any(word in ("-h", "--help") for word in argv):
        _print_help(default)
    config = merge(default, read_flags(argv, default), spell=flag)
    if config.resume is not None:
        _refuse_changes(default, config)
        return replace(config, run_dir=config.resume)
    if not config.env and not config.list_envs:
        raise ConfigError("--env is missing; --list-envs shows the names")
    return config


def to_yaml(config: TrainConfig[Any]) -> str:
    """Writes what is trained, without `run_dir`, `resume` and `list_envs`, as YAML."""
    tree = plain(asdict(config))
    kept = {name: value for name, value in tree.items() if name not in _NOT_WHAT_IS_TRAINED}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def from_yaml(path: Path) -> TrainConfig[Any]:
    """Reads back exactly the values that `to_yaml` wrote.

    Raises:
        ConfigError: The file is missing or no such config; the message names the file and the key.
    """
    tree = load_yaml(path)
    default = _default(tree.get("algo", "maml-trpo"), f"{path}: algo ")
    allowed = {f.name for f in fields(default)} - _NOT_WHAT_IS_TRAINED
    return merge(default, tree, where=f"{path}: ", allowed=allowed)


# ------------------------------------------------------------------------------------------ defaults


def _choosing_flags(argv: Sequence[str]) -> dict[str, str]:
    """Finds the flags that choose the defaults, before the others can be understood."""
    found = {}
    for word, following in pairwise([*argv, "--"]):
        name, equals, value = word.partition("=")
        if name in ("--env", "--algo", "--resume") and (equals or not following.startswith("--")):
            found[name[2:]] = value if equals else following
    return found


def _default(algo: object, where: str) -> TrainConfig[Any]:
    if not isinstance(algo, str) or algo not in ALGO_CONFIGS:
        near = nearest(str(algo), ALGO_CONFIGS)
        raise ConfigError(f"{where}{algo}: no such learner{near}")
    return TrainConfig(algo=algo, learner=ALGO_CONFIGS[algo]())


def _preset(algo: str, env: str, presets: Path) -> TrainConfig[Any]:
    """The dataclasses' defaults under the preset, if the pair has one."""
    default = replace(_default(algo, "--algo "), env=env)
    folder = (presets / algo).resolve()
    path = (folder / f"{env}.yaml").resolve()
    # An environment's name may hold "/" and "..": no file outside the folder is read for it.
    if not env or not path.is_relative_to(folder) or not path.is_file():
        return default
    return merge(default, load_yaml(path), where=f"{path}: ", allowed=_OF_A_PRESET)


def _recorded(run: Path) -> TrainConfig[Any]:
    try:
        return from_yaml(run / "config.yaml")
    except ConfigError as error:
        cure = "give the folder of a run that metarl has written"
        raise CheckpointError(f"--resume {run}: {error}; {cure}") from error


def _refuse_changes(recorded: TrainConfig[Any], config: TrainConfig[Any]) -> None:
    """Refuses flags that would make a resumed run another run."""
    if config.run_dir not in (None, config.resume):
        raise ConfigError("--run-dir: a resumed run stays in its folder; leave the flag out")
    before, after = (_flat(asdict(tree)) for tree in (recorded, config))
    for name, was in before.items():
        if after[name] != was and not {name, name.partition(".")[0]} & _FREE_ON_RESUME:
            cure = "leave the flag out, or start a new run"
            raise ConfigError(f"{flag(name)} {after[name]}: the run has {was}; {cure}")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _print_help(default: TrainConfig[Any]) -> None:
    import tyro

    kind: Any = TrainConfig[type(default.learner)]  # ty: ignore[invalid-type-form]
    about = "Meta-trains a policy that adapts. The defaults shown are those of --env and --algo."
    tyro.cli(kind, default=default, args=["--help"], prog="train.py", description=about)
