"""Settings of a run: frozen dataclasses, set by defaults, preset, file and flags, in this order.

One parser (`metarl.config.parser`) reads the values of flags, presets and files, so that a flag and
the key of a preset mean the same. tyro makes `--help` from the same dataclasses. Nothing here
imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import metarl
from metarl.config.changes import COMMANDS, refuse_changes
from metarl.config.curriculum import CurriculumConfig
from metarl.config.idle import Start, refuse_idle
from metarl.config.parser import flag, merge, nest, plain, read_flags
from metarl.config.presets import find_preset
from metarl.config.sampler import SamplerConfig
from metarl.config.trust import (
    FLAG,
    Untrusted,
    hint_at_resume,
    require_trust,
    trust_file,
    trust_settings,
)
from metarl.core.errors import CheckpointError, ConfigError, require
from metarl.core.machine.files import split_robot_file
from metarl.core.machine.yaml_files import dump_yaml, load_yaml
from metarl.core.messages import printable
from metarl.core.ranges import LARGEST_COUNT, Need, require_between
from metarl.core.trees import flatten
from metarl.learners.maml.config import MamlConfig
from metarl.learners.registry import ALGORITHMS, find_algorithm

PRESETS = Path(metarl.__file__).resolve().parent / "configs"
"""Folder of the presets, `<algo>/<env>.yaml`; metarl/configs is a symbolic link to ../configs."""

L = TypeVar("L")
"""The config class of a learner."""


@dataclass(frozen=True)
class TrainerConfig:
    """Output of a run."""

    checkpoint_minutes: float = 5.0
    """Wall-clock time between checkpoints, > 0 [minutes]; the last iteration is always saved."""

    keep_checkpoints: int = 3
    """Number of newest checkpoints to keep, >= 1; more than one survives a damaged file."""

    evaluate_tasks: int = 20
    """Held-out tasks of the evaluation at the end; 0 skips the evaluation."""

    video: bool = True
    """Record held-out tasks before and after adaptation at the end."""

    logger: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    """Destination of the metrics beside metrics.jsonl; wandb and trackio are optional packages."""

    env_timeout: float = 120.0
    """Time that a plug-in may take for its start, and for each step or reset, > 0 [s]."""

    tensorboard: bool = True
    """Write TensorBoard events; False with `logger: tensorboard` is the same as `logger: none`."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above, naming the field."""
        minutes = self.checkpoint_minutes
        require(0 < minutes < float("inf"), "trainer.checkpoint_minutes", minutes, "finite and > 0")
        seconds = self.env_timeout
        require(0 < seconds < float("inf"), "trainer.env_timeout", seconds, "finite and > 0")
        ranges = {"keep_checkpoints": (1, 10**9), "evaluate_tasks": (0, 10**6)}
        require_between("trainer.", self, ranges)


_OWN_LOOPS = tuple(each.name for each in ALGORITHMS.values() if each.has_own_loop)
"""Learners that collect their own experience."""


@dataclass(frozen=True)
class TrainConfig(Generic[L]):
    """All settings of a run."""

    env: str = ""
    """Environment: a name of --list-envs or of an installed plug-in, module:attribute, or an id of
    Gymnasium."""

    algo: str = "maml-trpo"
    """Learner: maml-trpo or a relative (fomaml, reptile, maml-ppo, promp, e-maml, meta-sgd, anil,
    cavia, leo, meta-lstm), rl2, bmaml, gp, grbal, metric, pearl, teacher-student, varibad, sb3-ppo,
    sb3-trpo or sb3-rl2, the name of an installed plug-in, or module:Class; --list-algos explains
    each."""

    seed: int = 0
    """Key of every random number of the run, from 0 to 2^64 - 1."""

    device: str = "auto"
    """Device of the update: auto (a GPU if there is one), cpu, cuda or cuda:N."""

    observe_task: bool = False
    """Append the task to the observation: the oracle, which need not adapt."""

    observe_terrain: bool = False
    """Append heights of the ground around the robot to the observation."""

    iterations: int = 500
    """Meta-updates, >= 1."""

    init_from: Path | None = None
    """Run folder whose newest checkpoint this new run starts from: fine-tuning."""

    run_dir: Path | None = None
    """Folder to write, which must not exist; by default a new one in runs/. With --seeds the parent
    of the run folders, which may exist."""

    resume: Path | None = None
    """Run folder to continue, as if it had never stopped."""

    trust_env: bool = False
    """With --resume or --init-from: load the plug-in environment and learner that the run folder
    names, whose code may be in the current directory. The same --env and --algo do so too."""

    check: bool = True
    """Check a plug-in environment for about a second before it is trained on, as check-env does in
    full."""

    config: Path | None = None
    """YAML file over the preset, with the same keys; flags override it."""

    seeds: tuple[int, ...] = ()
    """Several seeds, such as 0,1,2: one run after the other, each in a new folder of runs/, or in
    DIR/seed-0, DIR/seed-1, ... with --run-dir DIR."""

    list_envs: bool = False
    """Print the environments with sizes, task, reward and reference returns, or with --env that one
    alone, and exit."""

    list_algos: bool = False
    """Print the learners with one line each, and exit."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Amount of experience that one iteration collects."""

    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Output of a run."""

    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Level of difficulty of the training."""

    learner: L = field(default_factory=MamlConfig)  # ty: ignore[invalid-assignment]
    """Settings of the learner that --algo names."""

    NEEDS = (
        Need(("trust_env",), ("resume", "init_from", "seeds"), besides=(None, ())),
        Need(("sampler.slices",), ("algo",), besides=_OWN_LOOPS),
        Need(("sampler.train_tasks",), ("learner.mode",), besides=("scratch",)),
        Need(("trainer.evaluate_tasks",), ("learner.mode",), besides=("scratch",), always=(0,)),
    )
    """Settings that those of other groups make meaningless."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above, naming the field."""
        require_between("", self, {"iterations": (1, LARGEST_COUNT), "seed": (0, 2**64 - 1)})
        kind = find_algorithm(self.algo).config
        ok = isinstance(self.learner, kind)
        require(ok, "learner", self.learner, f"a {kind.__name__}, as algo is {self.algo}")
        device = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)
        require(device is not None, "device", self.device, "auto, cpu, cuda or cuda:N")
        for name in ("env", "algo"):
            text = vars(self)[name]
            is_shown = text == printable(text) and len(text) <= 1000
            require(is_shown, name, text, "a name without control characters")
        distinct = len(set(self.seeds)) == len(self.seeds) and min(self.seeds, default=0) >= 0
        require(distinct, "seeds", list(self.seeds), "distinct numbers >= 0")


_FIRST = {"--env", "--algo", "--resume", "--config"}
_IN_PRESET = {"iterations", "sampler", "trainer", "curriculum", "learner"}
IN_FILE = {f.name for f in fields(TrainConfig)} - COMMANDS
"""Fields that a file of settings may have."""


def parse(
    argv: Sequence[str], *, presets: Path = PRESETS, prog: str = "train.py"
) -> TrainConfig[Any]:
    """Parses a command line over the preset of its environment and algorithm.

    Args:
        argv: Arguments after the program's name.
        presets: Folder of `<algo>/<env>.yaml`.
        prog: Name of the program in --help.

    Returns:
        The config. With --resume it is that of the run folder, with `resume` and `run_dir` set to
        the folder and the flags of `FREE_ON_RESUME` on top.

    Raises:
        ConfigError: A flag, key or value is unknown or out of range, and the message names the
            nearest; or a setting has no effect.
        CheckpointError: --resume names a folder without a readable config.yaml.
        SystemExit: --help was given and is printed (status 0).
    """
    first = _first_flags(argv)
    trust_settings(first)
    if "resume" in first:
        default = _read_run_config(Path(first["resume"]), trusts=FLAG in argv)
        if (algo := first.get("algo", default.algo)) != default.algo:
            raise ConfigError(f"--algo {algo}: the run has {default.algo}; leave the flag out")
        start = Start(default, default)
    else:
        start = _read_start(first, presets)
        default = start.settings
    if any(word in ("-h", "--help") for word in argv):
        _print_help(default, prog)
    flags = read_flags(argv, default)
    if flags.get("seeds") == []:
        raise ConfigError("--seeds is empty: name distinct numbers >= 0, such as 0,1,2")
    if "seed" in flags and "seeds" in flags:
        raise ConfigError("--seed and --seeds: give one of them")
    config = _find_robot(merge(default, flags, spell=flag))
    if config.resume is not None:
        refuse_changes(default, config)
    refuse_idle(config, start, _default(config.algo, ""), spell=flag)
    if config.resume is not None:
        return replace(config, run_dir=config.resume)
    if not (config.env or config.list_envs or config.list_algos):
        raise ConfigError("--env is missing; --list-envs shows the names")
    return config


_COMMAND_LINE_ONLY = {"seeds", "list_envs", "list_algos"}


def build_config(
    env: str | None,
    algo: str | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    free: Collection[str] = (),
) -> TrainConfig[Any]:
    """Builds the config of a run from Python, over the preset of the environment and algorithm.

    With `resume` in the settings it is the config of that run, as for --resume.

    Args:
        env: Name of the environment; None takes that of the resumed run or of the file `config`.
        algo: Name of the learner; None likewise, or else maml-trpo.
        settings: Further fields: nested mappings (`learner={"inner_lr": 0.1}`), or dotted names.
        free: Dotted names of settings that may have no effect beside the others.

    Raises:
        ConfigError: A key or value is unknown or out of range, and the message names the nearest;
            or a setting has no effect.
    """
    tree = nest(settings or {})
    for name in sorted(_COMMAND_LINE_ONLY & tree.keys()):
        raise ConfigError(f"{name}: only for the command line; call train once for each run")
    given = {name: value for name, value in (("env", env), ("algo", algo)) if value is not None}
    trust_settings(given)
    if tree.get("resume") is not None:
        trusts = tree.get("trust_env") is True
        default = _read_run_config(Path(tree["resume"]), trusts=trusts)
        for name, value in given.items():
            if value != (old := vars(default)[name]):
                raise ConfigError(f"{name} {value}: the run has {old}; leave it out")
        config = merge(default, tree)
        refuse_changes(default, config)
        refuse_idle(config, Start(default, default), _default(config.algo, ""))
        return replace(config, run_dir=config.resume)
    path = tree.pop("config", None)
    first = given | ({"config": str(path)} if path else {})
    start = _read_start(first, PRESETS)
    config = _find_robot(merge(start.settings, tree))
    if not config.env:
        raise ConfigError("env is missing; metarl train --list-envs shows the names")
    refuse_idle(config, start, _default(config.algo, ""), free=free)
    return config


def _find_robot(config: TrainConfig[Any]) -> TrainConfig[Any]:
    """Makes the path of a robot's file absolute, so that a run can be used from any folder."""
    split = split_robot_file(config.env) if config.env else None
    return replace(config, env=f"{split[0].absolute()}:{split[1]}") if split else config


def to_yaml(config: TrainConfig[Any]) -> str:
    """Returns the settings that define a run as YAML, without `run_dir`, `resume` and the like."""
    tree = plain(asdict(config))
    kept = {name: value for name, value in tree.items() if name not in COMMANDS}
    return dump_yaml(kept, allow_unicode=True)


def from_yaml(path: Path, *, trusts: bool = False, hint: str = "") -> TrainConfig[Any]:
    """Reads exactly the values that `to_yaml` wrote.

    Args:
        path: config.yaml of a run.
        trusts: The user trusts the code that it names.
        hint: What to do about a learner that is not trusted.

    Raises:
        ConfigError: The file is missing or is no such config, and the message names file and key;
            or its learner is code that is not trusted (`metarl.config.trust`).
    """
    tree = load_yaml(path)
    if trusts:
        trust_settings(tree)
    require_trust(path, "algo", tree.get("algo"), hint)
    default = _default(tree.get("algo", "maml-trpo"), f"{path}: algo ")
    allowed = {f.name for f in fields(default)} - COMMANDS
    return merge(default, tree, where=f"{path}: ", allowed=allowed)


# --- defaults -------------------------------------------------------------------------------------


def _first_flags(argv: Sequence[str]) -> dict[str, str]:
    """Returns the flags that choose the defaults, before the others can be read."""
    flags = {}
    for word, following in pairwise([*argv, "--"]):
        name, equals, value = word.partition("=")
        if name in _FIRST and (equals or not following.startswith("--")):
            flags[name[2:]] = value if equals else following
    return flags


def _read_start(first: Mapping[str, str], presets: Path) -> Start:
    """Returns the preset of the environment and algorithm, with the values of --config over it."""
    tree, where = {}, ""
    if "config" in first:
        where = f"{first['config']}: "
        tree = load_yaml(Path(first["config"]))
        trust_file(Path(first["config"]), tree)
    algo = first.get("algo", tree.get("algo", "maml-trpo"))
    env = first.get("env", tree.get("env", ""))
    if not isinstance(env, str):
        raise ConfigError(f"{where}env = {env!r}: must be a text")
    preset = _preset(algo, env, presets, where or "--algo ")
    own = {key: value for key, value in tree.items() if key not in ("env", "algo")}
    settings = merge(preset, own, where=where, allowed=IN_FILE)
    is_of_run = "config" in first and _is_of_run(Path(first["config"]), tree, settings)
    return Start(settings, settings if is_of_run else preset, where)


def _is_of_run(path: Path, tree: Mapping[str, Any], config: TrainConfig[Any]) -> bool:
    """Returns whether metarl wrote a file of settings for a run: it has all, and none is chosen."""
    names = {name for name in flatten(asdict(config)) if name.partition(".")[0] in IN_FILE}
    return (path.parent / "run.json").exists() or names <= flatten(tree).keys()


def _default(algo: object, where: str) -> TrainConfig[Any]:
    if not isinstance(algo, str):
        raise ConfigError(f"{where}{algo!r}: must be a text")
    try:
        algorithm = find_algorithm(algo)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error
    return TrainConfig(algo=algo, learner=algorithm.default())


def _preset(algo: object, env: str, presets: Path, where: str) -> TrainConfig[Any]:
    """Returns the defaults of the dataclasses under the preset, if there is one."""
    default = replace(_default(algo, where), env=env)
    algorithm = find_algorithm(default.algo)
    for owner in filter(None, (default.algo, algorithm.kin)):
        if path := find_preset(presets / owner, env):
            found = merge(default, load_yaml(path), where=f"{path}: ", allowed=_IN_PRESET)
            own = dict(algorithm.settings) if owner == algorithm.kin else {}
            return replace(found, learner=replace(found.learner, **own))
    return default


def _read_run_config(run: Path, *, trusts: bool) -> TrainConfig[Any]:
    """Reads the settings of a run that is resumed."""
    try:
        config = from_yaml(run / "config.yaml", trusts=trusts, hint=hint_at_resume(run))
        require_trust(run / "config.yaml", "env", config.env, hint_at_resume(run))
        return config
    except Untrusted:
        raise
    except ConfigError as error:
        hint = "give the folder of a run that metarl has written"
        raise CheckpointError(f"--resume {run}: {error}; {hint}") from error


def _print_help(default: TrainConfig[Any], prog: str) -> None:
    import tyro

    kind: Any = TrainConfig[type(default.learner)]  # ty: ignore[invalid-type-form]
    about = "Meta-trains a policy that adapts. The defaults shown are those of --env and --algo."
    tyro.cli(kind, default=default, args=["--help"], prog=prog, description=about)
