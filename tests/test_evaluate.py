import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from envs.registry import make
from envs.tasks import Split, Uniform, Variable
from metarl.collect import Key, trial
from metarl.evaluate import (
    Evaluation,
    evaluate,
    held_out_tasks,
    interval,
    summary,
    table,
    write,
)
from metarl.learners.configs import MamlTrpoConfig
from metarl.learners.maml_trpo import MamlTrpo
from metarl.rng import stream


@pytest.fixture(scope="module")
def env():
    return make("navigation-2d")


def evaluation(env, returns):
    """What was measured on as many tasks as returns (K + 1, N, E) says."""
    returns = np.asarray(returns, dtype=float)
    tasks = held_out_tasks(env.spec, 0, returns.shape[1])
    return Evaluation(tasks, returns, [400.0] * len(returns))


# ----------------------------------------------------------------------------------------- interval


def test_mean_and_standard_error_over_tasks_worked_by_hand():
    # mean 5, squares 9 + 1 + 1 + 9 = 20, sample variance 20 / 3, standard error sqrt(20 / 12)
    found = interval(np.array([2.0, 4.0, 6.0, 8.0]), stream(0, "bootstrap"))
    assert found.mean == 5.0
    assert found.stderr == pytest.approx(math.sqrt(20.0 / 12.0), rel=1e-14)


def test_the_interval_of_two_tasks_reaches_from_one_to_the_other():
    # a resample has mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4: the 2.5 % ends are 0 and 1
    found = interval(np.array([0.0, 1.0]), stream(0, "bootstrap"))
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_interval_of_four_tasks_ends_where_counting_says():
    # the sum of a resample of {0, 0, 0, 1} is binomial(4, 1/4): P(0) = 32 %, P(4) = 0.4 % and
    # P(3 or 4) = 5.1 %, so that the upper 2.5 % begin at 3
    found = interval(np.array([0.0, 0.0, 0.0, 1.0]), stream(0, "bootstrap"))
    assert (found.low, found.high) == (0.0, 0.75)


def test_the_interval_of_many_tasks_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(10.0, 3.0, size=400)
    found = interval(values, stream(0, "bootstrap"))
    half = 1.959964 * values.std() / 20.0
    assert found.low == pytest.approx(values.mean() - half, abs=0.03 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03 * half)


def test_the_interval_equals_percentiles_of_resampled_means():
    values = np.random.default_rng(0).exponential(size=12)
    found = interval(values, stream(0, "bootstrap"))
    drawn = np.random.default_rng(1).choice(values, (100_000, 12)).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    # 10,000 resamples know an end to about 1 % of the width
    assert found.low == pytest.approx(low, abs=0.03 * (high - low))
    assert found.high == pytest.approx(high, abs=0.03 * (high - low))


def test_alike_tasks_have_an_interval_of_no_width():
    found = interval(np.full(5, 3.25), stream(0, "bootstrap"))
    assert (found.mean, found.stderr, found.low, found.high) == (3.25, 0.0, 3.25, 3.25)


def test_one_task_has_a_mean_and_no_interval():
    found = interval(np.array([7.0]), stream(0, "bootstrap"))
    assert found.mean == 7.0
    assert math.isnan(found.stderr) and math.isnan(found.low) and math.isnan(found.high)


# ------------------------------------------------------------------------------------------ summary


def test_the_summary_has_the_keys_of_the_design(env):
    result = summary(evaluation(env, np.zeros((3, 4, 5))), env.spec, "maml-trpo", 0)
    assert {
        "env",
        "algo",
        "num_tasks",
        "episodes_per_task",
        "env_steps_per_rollout",
        "returns",
        "floors",
    } <= set(result)
    assert set(result["returns"]) == {"mean", "stderr", "ci95", "per_task"}
    assert (result["env"], result["algo"]) == ("navigation-2d", "maml-trpo")
    assert (result["num_tasks"], result["episodes_per_task"]) == (4, 5)
    assert result["env_steps_per_rollout"] == [400.0] * 3
    assert result["floors"] == env.spec.floors
    assert result["held_out"] is True
    assert np.shape(result["returns"]["per_task"]) == (3, 4)
    assert np.shape(result["returns"]["ci95"]) == (3, 2)
    assert np.shape(result["tasks"]) == (4, 2)
    assert [v["name"] for v in result["task_variables"]] == ["goal_x", "goal_y"]


def test_the_task_is_the_unit_of_the_statistics(env):
    # tasks average 2 and 6 whatever their episodes do: mean 4, standard error |6 - 2| / 2 = 2
    result = summary(evaluation(env, [[[1.0, 3.0], [-94.0, 106.0]]]), env.spec, "maml-trpo", 0)
    assert result["returns"]["per_task"] == [[2.0, 6.0]]
    assert result["returns"]["mean"] == [4.0]
    assert result["returns"]["stderr"] == [pytest.approx(2.0, rel=1e-14)]
    assert result["returns"]["ci95"] == [[2.0, 6.0]]


def test_the_share_of_tasks_made_worse_compares_with_no_adaptation(env):
    before, once, twice = [0.0, 1.0, 2.0, 3.0], [-1.0, 1.0, 3.0, 2.0], [5.0, 1.0, 2.5, 2.9]
    returns = np.array([before, once, twice])[:, :, None]
    result = summary(evaluation(env, returns), env.spec, "maml-trpo", 0)
    assert result["share_of_tasks_made_worse"] == [0.0, 0.5, 0.25]


def test_one_task_gives_null_in_json(env):
    result = summary(evaluation(env, [[[1.0, 3.0]], [[5.0, 5.0]]]), env.spec, "maml-trpo", 0)
    read = json.loads(json.dumps(result, allow_nan=False))["returns"]
    assert read["mean"] == [2.0, 5.0]
    assert read["stderr"] == [None, None]
    assert read["ci95"] == [[None, None], [None, None]]


def test_the_summary_is_a_function_of_its_seed(env):
    measured = evaluation(env, np.random.default_rng(0).normal(size=(2, 6, 3)))
    results = [summary(measured, env.spec, "maml-trpo", seed) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0]["returns"]["ci95"] != results[2]["returns"]["ci95"]


# -------------------------------------------------------------------------------------- table, file


def test_the_table_shows_every_adaptation_with_its_interval(env):
    returns = np.array([[-40.0, -20.0], [-10.0, -30.0]])[:, :, None]
    result = summary(evaluation(env, returns), env.spec, "maml-trpo", 0)
    lines = table(result).splitlines()
    assert lines[0] == "navigation-2d  maml-trpo  2 held-out tasks x 1 episodes"
    assert lines[2].split() == ["0", "-30.00", "10.00", "[-40.0,", "-20.0]"]
    assert lines[3].split() == ["1", "-20.00", "10.00", "[-30.0,", "-10.0]", "50", "%"]
    # the mean distance in a square of half width 1/2 is 0.3826; 100 steps
    assert lines[4] == "floors: stand still -38.3, best without the task -38.3"


def test_the_table_of_one_task_shows_dashes_and_that_test_tasks_were_training_tasks():
    env = make("half-cheetah-dir", threads=1)
    result = summary(evaluation(env, [[[1.0]]]), env.spec, "maml-trpo", 0)
    lines = table(result).splitlines()
    assert "1 tasks (test = train) x 1 episodes" in lines[0]
    assert lines[2].split() == ["0", "1.00", "-", "-"]
    assert lines[-1] == "note: test tasks are the training tasks"


def test_the_file_is_the_summary(env, tmp_path):
    result = summary(evaluation(env, np.zeros((2, 3, 1))), env.spec, "maml-trpo", 0)
    write(tmp_path / "evaluation.json", result)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_summary_that_is_not_json_leaves_the_old_file(tmp_path):
    write(tmp_path / "evaluation.json", {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "evaluation.json", {"mean": math.nan})
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


# ---------------------------------------------------------------------------------------- the trial


def test_held_out_tasks_are_fixed_by_the_seed_and_are_not_those_of_training(env):
    first = held_out_tasks(env.spec, 3, 5)
    assert first.shape == (5, 2)
    np.testing.assert_array_equal(first, held_out_tasks(env.spec, 3, 5))
    assert not np.array_equal(first, held_out_tasks(env.spec, 4, 5))
    training = {
        tuple(task) for i in range(50) for task in env.spec.tasks.sample(stream(3, "tasks", i), 5)
    }
    assert not training & {tuple(task) for task in first}


def test_held_out_tasks_are_of_the_kinds_that_training_never_meets(env):
    low, high = (Uniform((Variable("friction", "1", *ends),)) for ends in ((0, 1), (1, 2)))
    spec = replace(env.spec, tasks=Split(low, high))
    tasks = held_out_tasks(spec, 3, 50)
    assert tasks.shape == (50, 1) and (tasks > 1).all()


def test_evaluating_is_the_trial_without_the_update(env):
    learner = MamlTrpo(MamlTrpoConfig(hidden_sizes=(8,)), 2, 2, seed=0)
    before = learner.state_dict()
    tasks, key = held_out_tasks(env.spec, 0, 3), Key(0, "evaluate", 0)
    measured = evaluate(env, learner, tasks, num_episodes=4, num_adaptations=2, key=key)
    rollouts, _ = trial(env, learner, tasks, 4, 2, key)
    assert measured.returns.shape == (3, 3, 4)
    for k, made in enumerate(rollouts):
        np.testing.assert_array_equal(measured.returns[k], made.reward.double().sum(2).numpy())
        assert measured.env_steps[k] == float(made.valid.sum()) / 3
    after = learner.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
