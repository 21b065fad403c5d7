"""Training, comparison and table: determinism, numbers and messages."""

import csv
import io
import math

import numpy as np
import pytest
import torch
from fewshot_tasks import FAKE_SKLEARN, Small
from scipy import stats

from metarl.core.errors import ConfigError, NumericalError
from metarl.core.rng import stream
from metarl.fewshot import digits
from metarl.fewshot.comparison import NUM_STEPS, Comparison, compare
from metarl.fewshot.learner import Outer
from metarl.fewshot.learners.gradient import GradientLearner
from metarl.fewshot.names import ALGOS, ONLY, TASKS, fitting
from metarl.fewshot.registry import make_learner, make_problem
from metarl.fewshot.table import table, to_csv
from metarl.fewshot.training import measure, train


def quiet(line):
    pass


SMALL = {"iterations": 3, "num_tasks": 4, "seeds": (0, 1)}


def without_times(result):
    rows = [{n: v for n, v in row.items() if "seconds" not in n} for row in result["rows"]]
    return {**result, "rows": rows}


@pytest.mark.parametrize("task", TASKS)
def test_every_learner_trains_and_is_deterministic(task, monkeypatch):
    monkeypatch.setattr(digits, "require_package", lambda *names: FAKE_SKLEARN)
    monkeypatch.setattr("metarl.fewshot.comparison.NUM_STEPS", 2)
    comparison = Comparison(task, tuple(fitting(task)), **SMALL)
    result = compare(comparison, quiet)
    assert [row["algo"] for row in result["rows"]] == fitting(task)
    assert without_times(result) == without_times(compare(comparison, quiet))
    for row in result["rows"]:
        assert np.isfinite(row["mean"]).all()
        assert len(row["steps"]) == len(row["ci95"]) == len(row["per_seed"])
    assert {row["algo"] for row in result["rows"]} == {
        n for n in ALGOS if ONLY.get(n, task) == task
    }


def test_numbers_are_those_of_each_seed():
    result = compare(Comparison("sinusoid", ("maml",), **SMALL), quiet)
    problem, means = make_problem("sinusoid", 5, 3, 0), []
    for seed in (0, 1):
        learner = make_learner("maml", "sinusoid", problem)
        params = train(learner, problem, 3, seed).params
        means.append(measure(learner, problem, params, 4, NUM_STEPS, seed).mean(axis=1))
    (row,) = result["rows"]
    assert row["steps"] == list(range(NUM_STEPS + 1))
    assert np.allclose(np.transpose(row["per_seed"]), means)
    assert np.allclose(row["mean"], np.mean(means, axis=0))
    half = stats.t.ppf(0.975, 1) * np.abs(means[0][1] - means[1][1]) / 2
    assert np.allclose(row["ci95"][1], [row["mean"][1] - half, row["mean"][1] + half])


def test_training_lowers_the_error():
    problem = make_problem("sinusoid", 10, 3, 0)
    learner = GradientLearner(problem, 0.01)
    errors = [
        measure(learner, problem, train(learner, problem, count, 0).params, 100, 1, 0).mean(axis=1)
        for count in (0, 300)
    ]
    assert errors[1][1] < 0.9 * errors[0][1] and errors[1][1] < 0.9 * errors[1][0]


def test_scores_do_not_depend_on_other_learners():
    alone = compare(Comparison("sinusoid", ("fomaml",), **SMALL), quiet)
    both = compare(Comparison("sinusoid", ("maml", "fomaml"), **SMALL), quiet)
    assert without_times(alone)["rows"][0] == without_times(both)["rows"][1]


def test_training_is_gradient_descent_by_hand():
    problem = Small(False, 2)
    learner = GradientLearner(problem, 0.1, outer=Outer(4, 0.5, is_sgd=True))
    params = {n: v for n, v in learner.initial(stream(0, "fewshot-initial")).items()}
    own = {n: v.double().requires_grad_() for n, v in params.items()}
    learner_double = Doubled(learner)
    loss = learner.loss(own, problem.sample(stream(0, "fewshot-train", 0), 4), stream(0, "x"))
    found = torch.autograd.grad(loss, list(own.values()))
    trained = train(learner_double, problem, 1, 0).params
    for (name, value), gradient in zip(own.items(), found, strict=True):
        assert torch.allclose(trained[name], value.detach() - 0.5 * gradient)


class Doubled:
    """A learner whose first parameters are in double precision."""

    def __init__(self, learner):
        self.learner, self.outer, self.loss = learner, learner.outer, learner.loss

    def initial(self, rng):
        return {n: v.double() for n, v in self.learner.initial(rng).items()}


def test_loss_that_is_not_finite_names_the_iteration():
    problem = make_problem("sinusoid", 5, 3, 0)
    learner = GradientLearner(problem, 1e30)
    with pytest.raises(FloatingPointError, match="iteration 1: loss is not finite"):
        train(learner, problem, 3, 0)


def test_last_update_that_diverges_is_refused():
    """No later loss shows it, and classes of numbers that are not finite have an accuracy."""
    problem = make_problem("sinusoid", 5, 3, 0)
    outer = Outer(step_size=3e38, is_sgd=True)
    with pytest.raises(FloatingPointError, match="iteration 1: '.*' is not finite; lower"):
        train(GradientLearner(problem, 0.01, outer=outer), problem, 1, 0)


def test_failed_measurement_names_learner_and_seed(monkeypatch):
    def fail(*args):
        raise FloatingPointError("a covariance is not positive definite, or not finite")

    monkeypatch.setattr("metarl.fewshot.learners.gp.gaussian_process.posterior", fail)
    with pytest.raises(NumericalError, match="gp, seed 0: a covariance is not positive"):
        compare(Comparison("sinusoid", ("gp",), **SMALL), quiet)


def test_failure_names_learner_and_seed(monkeypatch):
    monkeypatch.setattr("metarl.fewshot.registry.INNER_LR", {"sinusoid": 1e30})
    with pytest.raises(NumericalError, match="maml, seed 0: iteration 1: loss is not finite"):
        compare(Comparison("sinusoid", ("maml",), **SMALL), quiet)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algos": ("prototypical",)}, "prototypical does not fit the task sinusoid"),
        ({"algos": ("mamle",)}, r"no few-shot learner 'mamle'; did you mean maml\?"),
        ({"seeds": (1, 1)}, "seeds = .*: must be distinct"),
        ({"num_tasks": 1}, "num_tasks = 1: must be at least 2"),
        ({"num_tasks": 10**9}, "num_tasks = 1000000000: must be at most 1,000,000"),
        ({"algos": ("maml", "maml")}, "algos = .*: must be distinct"),
        ({"seeds": 0}, "seeds = 0: must be at least one seed"),
        ({"seeds": (0, 0.5)}, "seed = 0.5: must be a whole number"),  # a stream takes 0
        ({"iterations": 1.5}, "iterations = 1.5: must be a whole number"),
        ({"shots": 1.5}, "shots = 1.5: must be a whole number"),
        ({"ways": 7}, "ways = 7: must be left out for the task sinusoid"),
    ],
)
def test_unusable_comparison_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        compare(Comparison(**{"task": "sinusoid", "algos": ("maml",)} | settings), quiet)


def test_diverged_adaptation_is_cut_and_said(monkeypatch):
    monkeypatch.setattr("metarl.fewshot.registry.INNER_LR", {"sinusoid": 1e20})
    settings = {**SMALL, "iterations": 0}
    result = compare(Comparison("sinusoid", ("maml",), **settings), quiet)
    assert result["rows"][0]["mean"][10] == 100.0 and result["rows"][0]["share_cut"][10] == 1.0
    assert table(result).splitlines()[-1].endswith("after any step: maml 100.0%")


def test_table_and_csv_have_the_numbers():
    result = compare(Comparison("sinusoid", ("maml", "gp"), **SMALL), quiet)
    lines = table(result).splitlines()
    assert lines[0] == "sinusoid: 5 shots, 3 iterations, 2 seeds x 4 held-out tasks"
    maml, gp = lines[4:6]
    mean, (low, high) = result["rows"][0]["mean"][1], result["rows"][0]["ci95"][1]
    assert maml.startswith("maml") and f"{mean:.3f} [{low:.2f}, {high:.2f}]" in maml
    assert gp.split()[:1] == ["gp"] and gp.count(" - ") == 2  # no gradient steps
    rows = list(csv.DictReader(io.StringIO(to_csv(result))))
    assert len(rows) == NUM_STEPS + 1 + 2
    assert math.isclose(float(rows[1]["mean"]), mean) and rows[1]["seeds"] == "0 1"
    assert rows[-1]["algo"] == "gp" and rows[-1]["step"] == "1" and rows[-1]["ways"] == ""
