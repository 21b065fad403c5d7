"""The one table of algorithms, and plug-in learners. A learner is imported when it is built.

A plug-in learner is a class. `--algo module:Class` names it, or an installed package does in the
entry-point group `metarl.learners` (name -> "module:Class"). The class has

    Config       a frozen dataclass with a default for every setting
    summary      one line about the algorithm
    __init__     (config, obs_size, action_size, *, seed, device, num_threads, discrete)

and the members of `metarl.core.learner.Learner`. Nothing of it is imported until it is named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import operator
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from metarl.core.errors import ConfigError, EnvironmentContractError, MetarlError, nearest
from metarl.core.messages import describe_error
from metarl.learners.bmaml.config import BmamlConfig
from metarl.learners.gp.config import GpConfig
from metarl.learners.grbal.config import GrbalConfig
from metarl.learners.maml.config import MamlConfig
from metarl.learners.metric.config import MetricConfig
from metarl.learners.pearl.config import PearlConfig
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.sb3.config import Sb3PpoConfig, Sb3Rl2Config, Sb3TrpoConfig
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.learners.varibad.config import VaribadConfig

if TYPE_CHECKING:  # --help imports this module, and neither NumPy nor torch
    from metarl.core.env import EnvSpec
    from metarl.core.learner import Experience

GROUP = "metarl.learners"
"""Entry-point group of plug-in learners."""


@dataclass(frozen=True)
class Algorithm:
    """One value of --algo.

    Attributes:
        name: The value.
        config: Class of its settings: a frozen dataclass with defaults, which imports no torch.
        build: "module:callable" that makes the learner; imported when used.
        summary: One line for people.
        has_own_loop: The learner collects its own experience (`metarl.core.learner.HasOwnLoop`),
            and is built from an `Experience`.
        sees_tasks: It is given the distribution of the tasks, as its argument `tasks`.
        settings: Defaults that differ from those of `config`, where several algorithms are one
            learner with other settings.
        kin: Algorithm whose presets it has where it has none of its own; `settings` come on top.
    """

    name: str
    config: type
    build: str
    summary: str
    has_own_loop: bool = False
    sees_tasks: bool = False
    settings: tuple[tuple[str, Any], ...] = ()
    kin: str = ""

    def default(self) -> Any:
        """Returns its settings without a preset."""
        return self.config(**dict(self.settings))


_SB3 = "metarl.learners.sb3.learner:build"

_MAML = "metarl.learners.maml.maml:Maml"


def _of_maml(name: str, summary: str, **settings: Any) -> Algorithm:
    own = tuple(settings.items())
    return Algorithm(name, MamlConfig, _MAML, summary, settings=own, kin="maml-trpo")


ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            "maml-trpo",
            MamlConfig,
            _MAML,
            "MAML: adapts by policy-gradient steps, meta-trained by TRPO (Finn et al. 2017)",
        ),
        _of_maml(
            "fomaml",
            "first-order MAML: ignores the derivative of the step (Finn et al. 2017)",
            first_order=True,
        ),
        _of_maml(
            "reptile",
            "moves towards the adapted parameters; no second derivative (Nichol et al. 2018)",
            outer="reptile",
            outer_lr=0.5,
        ),
        _of_maml(
            "maml-ppo",
            "MAML with clipped steps of Adam in place of TRPO",
            outer="ppo",
        ),
        _of_maml(
            "promp",
            "maml-ppo with a penalty on changes before adaptation (Rothfuss et al. 2019)",
            outer="ppo",
            inner_kl=0.01,
        ),
        _of_maml(
            "e-maml",
            "MAML that also learns to explore before adaptation (Stadie et al. 2018)",
            sampling_weight=1.0,
        ),
        _of_maml(
            "meta-sgd",
            "MAML with a learned step size for every parameter (Li et al. 2017)",
            learn_rates=True,
        ),
        _of_maml(
            "anil",
            "MAML that adapts the last layer only (Raghu et al. 2020)",
            adapts="head",
        ),
        _of_maml(
            "cavia",
            "MAML that adapts inputs of the first layer only (Zintgraf et al. 2019)",
            adapts="context",
        ),
        _of_maml(
            "leo",
            "MAML in a latent space that decodes to the last layer (Rusu et al. 2019)",
            adapts="latent",
        ),
        _of_maml(
            "meta-lstm",
            "an LSTM in place of the gradient step (Ravi & Larochelle 2017)",
            inner="lstm",
        ),
        Algorithm(
            "rl2",
            Rl2Config,
            "metarl.learners.rl2.rl2:Rl2",
            "RL^2: adapts by the memory of its policy, trained by PPO (Duan et al. 2016)",
        ),
        Algorithm(
            "bmaml",
            BmamlConfig,
            "metarl.learners.bmaml.bmaml:Bmaml",
            "Bayesian MAML: policies that adapt together by Stein steps (Yoon et al. 2018)",
        ),
        Algorithm(
            "gp",
            GpConfig,
            "metarl.learners.gp.gp:Gp",
            "a policy that is given the task; a Gaussian process finds which numbers to give it",
            sees_tasks=True,
        ),
        Algorithm(
            "grbal",
            GrbalConfig,
            "metarl.learners.grbal.grbal:Grbal",
            "a model that adapts at every step, and a planner on it (Nagabandi et al. 2019)",
        ),
        Algorithm(
            "metric",
            MetricConfig,
            "metarl.learners.metric.metric:Metric",
            "a policy that reads an embedding which tells tasks apart (FOCAL, Li et al. 2021)",
        ),
        Algorithm(
            "pearl",
            PearlConfig,
            "metarl.learners.pearl.pearl:Pearl",
            "PEARL: a policy that reads a guess of the task, trained by SAC (Rakelly et al. 2019)",
        ),
        Algorithm(
            "teacher-student",
            TeacherStudentConfig,
            "metarl.learners.teacher_student.teacher_student:TeacherStudent",
            "a teacher that sees the task, then a memory that guesses it (RMA, Kumar et al. 2021)",
            sees_tasks=True,
        ),
        Algorithm(
            "varibad",
            VaribadConfig,
            "metarl.learners.varibad.varibad:Varibad",
            "a policy that reads a belief, inferred by predicting rewards (Zintgraf et al. 2020)",
        ),
        Algorithm(
            "sb3-ppo",
            Sb3PpoConfig,
            _SB3,
            "baseline: PPO of Stable-Baselines3, which does not adapt",
            has_own_loop=True,
        ),
        Algorithm(
            "sb3-trpo",
            Sb3TrpoConfig,
            _SB3,
            "baseline: TRPO of sb3-contrib, which does not adapt",
            has_own_loop=True,
        ),
        Algorithm(
            "sb3-rl2",
            Sb3Rl2Config,
            _SB3,
            "baseline: RL^2 by recurrent PPO of sb3-contrib",
            has_own_loop=True,
        ),
    )
}
"""Every algorithm of metarl by name."""


def list_algorithms() -> dict[str, str]:
    """Returns name -> summary of every algorithm, those of installed plug-ins last.

    The summary of a plug-in names its package, because nothing of a plug-in is imported here.
    """
    found = {algorithm.name: algorithm.summary for algorithm in ALGORITHMS.values()}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        package = point.dist.name if point.dist else point.module
        found.setdefault(point.name, f"plug-in of {package}")
    return found


def find_algorithm(name: str) -> Algorithm:
    """Finds an algorithm by its name in the table, an entry point, or as `module:Class`.

    The current directory is searched for `module` too.

    Raises:
        ConfigError: There is no such algorithm (the message names the nearest), or the plug-in
            cannot be imported or does not fulfil the interface.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    for point in metadata.entry_points(group=GROUP, name=name):
        return _plug_in(name, point.module, point.attr)
    module, colon, attribute = name.partition(":")
    if not colon:
        hint = nearest(name, list_algorithms()) or "; --list-algos shows all"
        raise ConfigError(f"{name}: no such learner{hint}")
    if not module or module.startswith(".") or "/" in module or not attribute:
        example = "write module:Class, for example my_learner:MyLearner"
        raise ConfigError(f"{name}: no such learner; {example}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # Python puts the folder of train.py there, not this one
    return _plug_in(name, module, attribute)


def build_learner(
    algorithm: Algorithm,
    config: Any,
    spec: EnvSpec,
    *,
    seed: int,
    device: Any = "cpu",
    num_threads: int = 1,
    experience: Experience | None = None,
) -> Any:
    """Builds a learner with fresh parameters.

    Args:
        algorithm: Which one.
        config: Its settings.
        spec: The environment's: S, A and the kind of actions.
        seed: Seed of the run.
        device: Where the update runs.
        num_threads: Threads of the update on a CPU.
        experience: Where a learner with its own loop collects; the others ignore it.

    Raises:
        ConfigError: A plug-in's constructor fails, or the learner cannot have such actions.
        EnvironmentContractError: The environment lacks what the learner's own loop needs.
    """
    from metarl.core.env import UnsupportedHere

    module, _, name = algorithm.build.partition(":")
    build = operator.attrgetter(name)(importlib.import_module(module))
    if algorithm.has_own_loop:
        try:
            return build(config, experience, name=algorithm.name, seed=seed, device=device)
        except ValueError as error:
            raise EnvironmentContractError(f"--env {spec.name}: {error}") from error
    sizes = (spec.obs_size, spec.action_size)
    options = {"seed": seed, "device": device, "num_threads": num_threads}
    options |= {"tasks": spec.tasks} if algorithm.sees_tasks else {}
    try:
        return build(config, *sizes, discrete=spec.discrete, **options)
    except MetarlError:
        raise
    except UnsupportedHere as error:
        raise ConfigError(f"--algo {algorithm.name} on {spec.name}: {error}") from error
    except Exception as error:
        if algorithm.name in ALGORITHMS:
            raise
        raise ConfigError(f"--algo {algorithm.name}: {describe_error(error)}") from error


# ----------------------------------------------------------------------------------------- plug-ins


def _plug_in(name: str, module: str, attribute: str) -> Algorithm:
    """Imports a plug-in learner and checks its interface."""
    from metarl.core.env import missing_members
    from metarl.core.learner import PluginLearner

    learner: Any = _load(name, module, attribute)
    lacking = missing_members(learner, PluginLearner)
    if lacking:
        hint = "metarl/learners/registry.py describes the interface of a plug-in"
        raise ConfigError(f"{name}: {attribute} lacks {', '.join(lacking)}; {hint}")
    config = learner.Config
    if not isinstance(config, type) or not dataclasses.is_dataclass(config):
        raise ConfigError(f"{name}: {attribute}.Config is no dataclass of settings")
    if not config.__dataclass_params__.frozen:
        raise ConfigError(f"{name}: {attribute}.Config is not frozen; use @dataclass(frozen=True)")
    required = [field.name for field in dataclasses.fields(config) if not _has_default(field)]
    if required:
        raise ConfigError(f"{name}: {attribute}.Config has no default for {', '.join(required)}")
    return Algorithm(name, config, f"{module}:{attribute}", learner.summary)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing or not field.init


def _load(name: str, module: str, attribute: str) -> type:
    found: Any = None
    try:
        source = importlib.import_module(module)
        with contextlib.suppress(AttributeError):
            found = operator.attrgetter(attribute)(source)  # a package may import it only now
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name}: no module {error.name!r} can be imported") from error
    except Exception as error:
        raise ConfigError(f"{name}: {describe_error(error)}") from error
    if not isinstance(found, type):
        classes = [key for key, value in vars(source).items() if isinstance(value, type)]
        hint = nearest(attribute, classes)
        raise ConfigError(f"{name}: {module} has no class {attribute!r}{hint}")
    return found
