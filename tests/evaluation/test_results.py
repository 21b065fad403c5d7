"""evaluation.json: written, read, combined over seeds, and shown to people."""

import json
import math
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from metarl.core.errors import CheckpointError, ConfigError
from metarl.core.rng import stream
from metarl.envs.registry import make
from metarl.evaluation.evaluate import Evaluation, summary
from metarl.evaluation.results import (
    EvaluationSettings,
    aggregate,
    evaluation_path,
    experience,
    read,
    read_oracle,
    write,
)
from metarl.evaluation.table import table


@pytest.fixture(scope="module")
def env():
    return make("navigation-2d")


def result_of(env, returns, seed=0, faults=0, without_noise=None):
    """Returns the evaluation.json of returns (K + 1, N, E); the last `faults` episodes failed."""
    returns = np.asarray(returns, dtype=float)
    tasks = env.spec.tasks.sample(stream(seed, "test-tasks"), returns.shape[1])
    broken = np.zeros(returns.shape, bool)
    broken[-1].flat[:faults] = True
    measured = Evaluation(tasks, returns, [400.0] * len(returns), broken)
    quiet = None if without_noise is None else replace(measured, returns=without_noise)
    return summary(measured, env.spec, "maml-trpo", seed, quiet)


# --- table ---------------------------------------------------------------------------------------


def test_table_shows_every_adaptation_with_its_interval(env):
    returns = np.array([[-40.0, -20.0], [-10.0, -30.0]])[:, :, None]
    result = result_of(env, returns)
    lines = table(result).splitlines()
    assert lines[0] == "navigation-2d  maml-trpo  2 held-out tasks x 1 episodes"
    words = "0 0 0 -30.00 10.00 [-40.00, -20.00] -30.00 [-40.00, -20.00]"
    assert lines[2].split() == words.split()
    words = "1 1 400 -20.00 10.00 [-30.00, -10.00] -20.00 [-30.00, -10.00] 50 %"
    assert lines[3].split() == words.split()
    # the mean distance in a square of half width 1/2 is 0.3826; 100 steps
    assert lines[4] == "floors: stand still -38.3, best without the task -38.3"


@pytest.mark.parametrize("factor", [1e-6, 1e12])
def test_table_of_any_size_of_returns_is_aligned(factor, env):
    returns = factor * np.array([[-40.0, -20.0], [-10.0, -30.0]])[:, :, None]
    lines = table(result_of(env, returns)).splitlines()
    means = [float(line.split()[3]) for line in lines[2:4]]
    assert means == pytest.approx([-30.0 * factor, -20.0 * factor])
    ends = [line.index(title) + len(title) for line in lines[1:2] for title in ("return", "IQM")]
    assert all(line[end - 1] != " " and line[end] == " " for line in lines[2:4] for end in ends)


def test_table_of_one_training_task_shows_dashes_and_a_note():
    env = make("half-cheetah-dir", threads=1)
    result = result_of(env, [[[1.0]]])
    lines = table(result).splitlines()
    assert "1 tasks (test = train) x 1 episodes" in lines[0]
    assert lines[2].split() == "0 0 0 1.00 - - 1.00 -".split()
    assert lines[-2].startswith("95 % intervals: none of a single task; 1 seed: ")
    assert lines[-1] == "note: test tasks are the training tasks"


def test_file_is_the_summary(env, tmp_path):
    result = result_of(env, np.zeros((2, 3, 1)))
    write(tmp_path / "evaluation.json", result)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_summary_that_is_not_json_leaves_the_old_file(tmp_path):
    write(tmp_path / "evaluation.json", {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "evaluation.json", {"mean": math.nan})
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_table_counts_failed_episodes(env):
    result = result_of(env, np.zeros((3, 4, 5)), faults=3)
    assert "the simulation failed in 0, 0, 3 episodes after 0..K adaptations" in table(result)
    assert "failed" not in table(result_of(env, np.zeros((3, 4, 5))))


# --- several seeds -------------------------------------------------------------------------------


def seeds(env, num=3):
    rng = np.random.default_rng(0)
    return [
        result_of(env, rng.normal(10.0 * seed, 1.0, (2, 6 + seed, 4)), seed) for seed in range(num)
    ]


def test_seeds_are_combined_task_by_task(env):
    results = seeds(env)
    found = aggregate(results)
    rows = [np.array(result["returns"]["per_task"]) for result in results]
    for k in range(2):
        pooled = np.concatenate([row[k] for row in rows])
        means = [row[k].mean() for row in rows]
        assert found["returns"]["mean"][k] == pytest.approx(np.mean(means), rel=1e-14)
        assert found["returns"]["iqm"][k] == pytest.approx(stats.trim_mean(pooled, 0.25))
        assert found["returns"]["per_seed"][k] == pytest.approx(means)
        spread = np.std(means, ddof=1) / np.sqrt(3.0)
        assert found["returns"]["stderr_over_seeds"][k] == pytest.approx(spread)
        assert found["returns"]["stderr"][k] == pytest.approx(spread)
        ends = stats.ttest_1samp(means, 0.0).confidence_interval()
        assert found["returns"]["ci95"][k] == pytest.approx([ends.low, ends.high])
    worse = np.concatenate([row[1] < row[0] for row in rows]).mean()
    assert found["share_of_tasks_made_worse"] == [0.0, pytest.approx(worse)]
    assert (found["num_tasks"], found["seeds"], found["strata"]) == (21, [0, 1, 2], "none")
    text = "over 3 seeds and their tasks (Student's t, 2 degrees of freedom)"
    assert found["intervals"] == text and f"95 % intervals: {text}" in table(found).splitlines()
    assert found["experience"] == results[0]["experience"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_aggregate_of_one_seed_is_its_evaluation(env):
    result = result_of(env, np.random.default_rng(0).normal(size=(2, 6, 4)))
    found = aggregate([result])
    for name in ("mean", "stderr", "ci95", "iqm", "iqm_ci95"):
        assert found["returns"][name] == result["returns"][name]
    assert found["returns"]["stderr_over_seeds"] == [None, None]


def test_table_of_seeds_shows_each_seed(env):
    found = aggregate(seeds(env))
    lines = table(found).splitlines()
    assert lines[0] == "navigation-2d  maml-trpo  3 seeds,  21 held-out tasks x 4 episodes"
    means = ", ".join(f"{mean:.2f}" for mean in found["returns"]["per_seed"][1])
    error = found["returns"]["stderr_over_seeds"][1]
    assert lines[5] == f"seeds after 1: {means} (std.err. over seeds {error:.2f})"


# --- returns without policy noise ----------------------------------------------------------------


def test_returns_without_noise_are_combined_like_the_others(env):
    rng = np.random.default_rng(0)
    noisy = [rng.normal(10.0 * seed, 1.0, (2, 6, 4)) for seed in range(3)]
    results = [result_of(env, r, i, without_noise=r + 5.0) for i, r in enumerate(noisy)]
    found = aggregate(results)
    quiet = found["without_noise"]["returns"]
    for name in ("mean", "ci95", "per_seed", "iqm_ci95"):
        shifted = np.array(found["returns"][name]) + 5.0
        np.testing.assert_allclose(quiet[name], shifted, err_msg=name)
    (low, high), mean = quiet["ci95"][1], quiet["mean"][1]
    assert f", {mean:.2f} [{low:.2f}, {high:.2f}]" in table(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    del results[1]["without_noise"]  # as in an older file
    assert "without_noise" not in aggregate(results)


def test_table_shows_returns_with_and_without_noise(env):
    returns = np.array([[-40.0, -20.0], [-10.0, -30.0]])[:, :, None]
    lines = table(result_of(env, returns, without_noise=returns + 9.0)).splitlines()
    line = "without policy noise: -21.00 [-31.00, -11.00], -11.00 [-21.00, -1.00]"
    assert lines[4] == line and lines[2].split()[3] == "-30.00"


def marked(result, iteration, env_steps):
    return {**result, "checkpoint": {"iteration": iteration, "env_steps": env_steps}}


def test_table_shows_the_amount_of_training(env):
    one, two, three = seeds(env)
    first = [marked(one, 24, 9600), marked(two, 24, 10_000), marked(three, 24, 9600)]
    heading = table(first[0]).splitlines()[0]
    assert heading.endswith(" x 4 episodes, after 24 iterations and 9,600 training steps")
    together = aggregate(first)
    assert [mark["env_steps"] for mark in together["checkpoints"]] == [9600, 10_000, 9600]
    heading = table(together).splitlines()[0]
    assert heading.endswith(", after 24 iterations and 9,600 to 10,000 training steps")
    # an older file lacks the checkpoint, so the table shows none
    older = aggregate([marked(one, 24, 9600), two])
    assert older["checkpoints"][1] is None
    assert table(older).splitlines()[0].endswith(" episodes")


def test_table_names_chosen_tasks_and_the_training_environment(env):
    one, two = (marked(result, 24, 9600) for result in seeds(env, 2))
    changes = {"chosen_tasks": True, "trained_on": "navigation-2d-sparse"}
    heading = table(one | changes).splitlines()[0]
    end = ", after 24 iterations and 9,600 training steps on navigation-2d-sparse"
    assert heading == f"navigation-2d  maml-trpo  6 chosen tasks x 4 episodes{end}"
    assert " 1 chosen task x " in table(one | changes | {"num_tasks": 1}).splitlines()[0]
    together = aggregate([one | changes, two | changes])
    heading = table(together).splitlines()[0]
    assert heading.endswith(f"2 seeds,  13 chosen tasks x 4 episodes{end}")
    del one["checkpoint"]  # as in an aggregate with an older file
    assert table(one | changes).splitlines()[0].endswith(", trained on navigation-2d-sparse")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "ant-dir"}, "differ in env: navigation-2d and ant-dir"),
        ({"algo": "rl2"}, "differ in algo: maml-trpo and rl2"),
        ({"env_version": 2}, "differ in env_version: 1 and 2"),
        ({"deterministic": True}, "differ in deterministic: False and True"),
        ({"chosen_tasks": True}, "differ in chosen_tasks: False and True"),
        ({"trained_on": "ant-dir"}, "differ in trained_on: navigation-2d and ant-dir"),
        ({"seed": 0}, "two runs have seed 0"),
        ({"returns": {"mean": [1.0]}}, "differ in number of adaptations: 1 and 0"),
    ],
)
def test_evaluations_that_differ_are_refused_by_name(env, change, message):
    one, other = seeds(env, 2)
    with pytest.raises(ConfigError, match=message):
        aggregate([one, other | change])


# --- reading, and the oracle ---------------------------------------------------------------------


def test_evaluation_of_an_older_version_is_read(env, tmp_path):
    result = result_of(env, np.zeros((3, 4, 5)))
    names = ("experience", "seed", "faulted_episodes", "strata", "deterministic", "intervals")
    for name in (*names, "held_out", "note"):
        del result[name]
    for name in ("iqm", "iqm_ci95", "per_task_iqm", "per_task_stderr", "per_task_ci95"):
        del result["returns"][name]
    write(tmp_path / "evaluation.json", result)
    old = read(tmp_path)
    assert experience(old)["episodes"] == [0, 5, 10]
    assert aggregate([old])["returns"]["iqm"] == [0.0, 0.0, 0.0]
    assert aggregate([old, old])["faulted_episodes"] == [0, 0, 0]
    assert table(old).splitlines()[0] == "navigation-2d  maml-trpo  4 tasks x 5 episodes"
    assert table(old).splitlines()[2].split()[:4] == ["0", "0", "0", "0.00"]
    assert "95 % intervals: over tasks; 1 seed: the spread" in table(old)
    assert "without policy noise" not in table(old) and "without_noise" not in aggregate([old])


def test_evaluation_of_a_single_task_is_read(env, tmp_path):
    returns = np.array([[[-4.0]], [[-2.0]]])
    result = result_of(env, returns, without_noise=returns)
    write(tmp_path / "evaluation.json", result)
    assert read(tmp_path) == result
    assert result["returns"]["ci95"] == [[None, None]] * 2
    other = result_of(env, returns + 2.0, seed=1)
    combined = aggregate([read(tmp_path), other])["returns"]
    # means -4 and -2: standard error 1, 12.706 of it to each side with one degree of freedom
    assert combined["ci95"][0] == pytest.approx([-15.706, 9.706], abs=1e-3)


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"env": "a", "returns": {}}'])
def test_unreadable_evaluation_names_the_command_that_makes_it(text, tmp_path):
    if text is not None:
        (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"python -m metarl evaluate {tmp_path}"):
        read(tmp_path)


def test_oracle_is_the_final_value_of_its_run(env, tmp_path):
    (tmp_path / "informed").mkdir()
    result = result_of(env, np.array([-9.0, -1.0, -4.0])[:, None, None] * np.ones((3, 2, 1)))
    write(tmp_path / "informed" / "evaluation.json", result)
    found = read_oracle(tmp_path / "informed", "navigation-2d")
    assert found == {"run": "informed", "mean": -4.0, "ci95": [-4.0, -4.0]}
    with pytest.raises(ConfigError, match="it is of navigation-2d, not of ant-dir"):
        read_oracle(tmp_path / "informed", "ant-dir")
    shown = table(result | {"oracle": found})
    assert "oracle (task observed): -4.00 [-4.00, -4.00], informed" in shown


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("faulted_episodes", "faulted_episodes has 2 entries, returns.mean 3"),
        ("share_of_tasks_made_worse", "share_of_tasks_made_worse has 2 entries, returns.mean 3"),
        ("returns.iqm", "returns.iqm has 2 entries"),
        ("returns.iqm_ci95", "returns.iqm_ci95 has 2 entries"),
        ("returns.ci95", "returns.ci95 has 2 entries"),
        ("experience.env_steps", "experience.env_steps has 2 entries"),
        ("without_noise.returns.mean", "without_noise.returns.mean has 2 entries"),
        ("distance.mean", "distance.mean has 2 entries"),
        ("without_noise.distance.per_task", "without_noise.distance.per_task has 2 entries"),
    ],
)
def test_list_that_lacks_an_entry_is_named(name, message, env, tmp_path):
    result = result_of(env, np.zeros((3, 4, 2)), without_noise=np.zeros((3, 4, 2)))
    lists = {"mean": [1.0] * 3, "per_task": [[1.0] * 4] * 3, "ci95": [[0.5, 1.5]] * 3}
    result["distance"] = deepcopy(lists)
    result["without_noise"]["distance"] = deepcopy(lists)
    write(tmp_path / "evaluation.json", result)
    assert read(tmp_path) == result
    *groups, leaf = name.split(".")
    reduce(dict.__getitem__, groups, result)[leaf].pop()
    write(tmp_path / "evaluation.json", result)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path)
    assert f"python -m metarl evaluate {tmp_path}" in str(caught.value)


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "tasks-20_adaptations-3"),
        ({"num_tasks": 40}, "tasks-40_adaptations-3"),
        ({"num_adaptations": 0}, "tasks-20_adaptations-0"),
        ({"deterministic": True}, "tasks-20_adaptations-3_deterministic"),
        ({"env": "ant-vel"}, "tasks-20_adaptations-3_env-ant-vel"),
        (
            {"num_tasks": 40, "num_adaptations": 1, "deterministic": True, "env": "ant-vel"},
            "tasks-40_adaptations-1_deterministic_env-ant-vel",
        ),
        ({"tasks": ((1.57,),), "num_tasks": 40}, "task-1.57_adaptations-3"),
        ({"tasks": ((0.5, -1), (2e-9, 3))}, "task-0.5,-1.0+2e-09,3.0_adaptations-3"),
    ],
)
def test_evaluation_path_has_all_settings(settings, name):
    path = evaluation_path(Path("run"), EvaluationSettings(**settings))
    assert path == Path("run") / "evaluations" / f"{name}.json"


def test_evaluation_paths_of_any_settings_are_safe_and_distinct():
    envs = ["my.module:make", "my.module-make", "my/module make", "../../etc", "x" * 300, "x" * 299]
    many = tuple((0.1 * i,) for i in range(100))
    settings = [EvaluationSettings(env=env) for env in envs]
    settings += [EvaluationSettings(tasks=many), EvaluationSettings(tasks=many[:-1])]
    paths = [evaluation_path(Path("run"), each) for each in settings]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert path.parent == Path("run/evaluations") and len(path.name) < 200
        assert path.name.isprintable() and " " not in path.name


def test_write_creates_the_folder_of_evaluations(tmp_path):
    path = evaluation_path(tmp_path, EvaluationSettings(deterministic=True))
    write(path, {"env": "a"})
    assert json.loads(path.read_text()) == {"env": "a"}


def test_table_marks_a_deterministic_evaluation(env):
    result = result_of(env, np.zeros((2, 3, 1))) | {"deterministic": True}
    assert table(result).splitlines()[0].endswith(" x 1 episodes, deterministic")
