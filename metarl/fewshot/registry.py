"""The tasks and learners by name, with their settings."""

from __future__ import annotations

from collections.abc import Callable

from metarl.core.errors import ConfigError, nearest, require
from metarl.fewshot.digits import Digits
from metarl.fewshot.learner import FewShotLearner, Outer
from metarl.fewshot.learners.bmaml import BayesianMaml
from metarl.fewshot.learners.gp import GaussianProcess
from metarl.fewshot.learners.gradient import GradientLearner, Reptile
from metarl.fewshot.learners.leo import Leo
from metarl.fewshot.learners.mann import Mann
from metarl.fewshot.learners.meta_lstm import MetaLstm
from metarl.fewshot.learners.prototypical import Prototypical
from metarl.fewshot.learners.siamese import Siamese
from metarl.fewshot.names import ALGOS, HELD_OUT, ONLY, TASKS
from metarl.fewshot.sinusoid import Sinusoid
from metarl.fewshot.tasks import Problem

Make = Callable[[Problem, float], FewShotLearner]
"""Builds a learner of a problem with the usual inner step size."""

INNER_LR = {"sinusoid": 0.01, "digits": 0.4}
"""Inner step sizes of Finn et al. 2017 (arXiv:1703.03400), for sinusoids and for Omniglot."""


def _make_reptile(problem: Problem, rate: float) -> Reptile:
    # a step of 0.02 diverged on sinusoids after 660 meta-updates
    rate = 0.5 * rate if problem.is_classification else rate
    return Reptile(GradientLearner(problem, rate, num_steps=5), Outer(step_size=0.5, is_sgd=True))


_MAKERS: dict[str, Make] = {
    "maml": GradientLearner,
    "fomaml": lambda problem, rate: GradientLearner(problem, rate, order=1),
    "reptile": _make_reptile,
    "meta-sgd": lambda problem, rate: GradientLearner(problem, rate, learns_rates=True),
    "anil": lambda problem, rate: GradientLearner(problem, rate, adapts="head"),
    "cavia": lambda problem, rate: GradientLearner(problem, 1.0, num_steps=2, adapts="context"),
    "prototypical": lambda problem, rate: Prototypical(problem),
    "siamese": lambda problem, rate: Siamese(problem),
    "mann": lambda problem, rate: Mann(problem),
    "meta-lstm": MetaLstm,
    "leo": lambda problem, rate: Leo(problem),
    "gp": lambda problem, rate: GaussianProcess(problem),
    "bmaml": BayesianMaml,
}


def make_problem(task: str, shots: int, ways: int, seed: int) -> Problem:
    """Builds the tasks of a name; the seed draws which digits are held out.

    Raises:
        ConfigError: The name is unknown, shots or ways are out of range, or scikit-learn is
            missing.
    """
    if task == "sinusoid":
        require(1 <= shots <= 100, "shots", shots, "from 1 to 100")
        return Sinusoid(shots)
    if task == "digits":
        require(1 <= shots <= 100, "shots", shots, "from 1 to 100, of each class")
        hint = f"from 2 to {HELD_OUT}, the digits that are held out"
        require(2 <= ways <= HELD_OUT, "ways", ways, hint)
        return Digits.load(ways, shots, seed)
    raise ConfigError(f"no few-shot task {task!r}{nearest(task, TASKS)}")


def make_learner(algo: str, task: str, problem: Problem) -> FewShotLearner:
    """Builds a learner.

    Raises:
        ConfigError: The name is unknown, or the learner does not fit the task.
    """
    check_learner(algo, task)
    return _MAKERS[algo](problem, INNER_LR[task])


def check_learner(algo: str, task: str) -> None:
    """Raises ConfigError if a name is unknown, or if the learner does not fit the task."""
    if algo not in ALGOS:
        raise ConfigError(f"no few-shot learner {algo!r}{nearest(algo, ALGOS)}")
    only = ONLY.get(algo, task)
    if only != task:
        raise ConfigError(f"{algo} does not fit the task {task}; it is for {only} alone")
