import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from whole_trial import trial

from metarl.core.errors import ConfigError
from metarl.core.rng import stream
from metarl.core.tasks import Split, Uniform, Variable
from metarl.envs.registry import make
from metarl.evaluation.evaluate import (
    Evaluation,
    check_chosen_tasks,
    evaluate,
    held_out_tasks,
    summary,
)
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2
from metarl.sampling.sampler import Key, rollout


@pytest.fixture(scope="module")
def env():
    return make("navigation-2d")


def evaluation(env, returns):
    """Returns the evaluation of the returns (K + 1, N, E) on N tasks."""
    returns = np.asarray(returns, dtype=float)
    tasks = held_out_tasks(env.spec, 0, returns.shape[1])
    return Evaluation(tasks, returns, [400.0] * len(returns), np.zeros(returns.shape, bool))


# --- summary -------------------------------------------------------------------------------------


def test_summary_has_the_documented_keys(env):
    result = summary(evaluation(env, np.zeros((3, 4, 5))), env.spec, "maml-trpo", 0)
    assert {
        "env",
        "algo",
        "num_tasks",
        "episodes_per_task",
        "env_steps_per_rollout",
        "experience",
        "returns",
        "floors",
    } <= set(result)
    pooled = {"mean", "stderr", "ci95", "iqm", "iqm_ci95"}
    per_task = {"per_task", "per_task_iqm", "per_task_stderr", "per_task_ci95"}
    assert set(result["returns"]) == pooled | per_task
    assert (result["env"], result["algo"]) == ("navigation-2d", "maml-trpo")
    assert (result["num_tasks"], result["episodes_per_task"]) == (4, 5)
    assert result["env_steps_per_rollout"] == [400.0] * 3
    assert result["floors"] == env.spec.floors
    assert result["held_out"] is True
    assert np.shape(result["returns"]["per_task"]) == (3, 4)
    assert np.shape(result["returns"]["ci95"]) == np.shape(result["returns"]["iqm_ci95"]) == (3, 2)
    assert np.shape(result["returns"]["per_task_ci95"]) == (3, 4, 2)
    assert np.shape(result["tasks"]) == (4, 2)
    assert [v["name"] for v in result["task_variables"]] == ["goal_x", "goal_y"]


def test_task_is_the_unit_of_the_statistics(env):
    # the tasks have means 2 and 6, whatever their episodes: mean 4, standard error |6 - 2| / 2 = 2
    result = summary(evaluation(env, [[[1.0, 3.0], [-94.0, 106.0]]]), env.spec, "maml-trpo", 0)
    assert result["returns"]["per_task"] == [[2.0, 6.0]]
    assert result["returns"]["mean"] == [4.0]
    assert result["returns"]["stderr"] == [pytest.approx(2.0, rel=1e-14)]
    assert result["returns"]["ci95"] == [[2.0, 6.0]]


def test_tasks_made_worse_are_counted_against_no_adaptation(env):
    before, once, twice = [0.0, 1.0, 2.0, 3.0], [-1.0, 1.0, 3.0, 2.0], [5.0, 1.0, 2.5, 2.9]
    returns = np.array([before, once, twice])[:, :, None]
    result = summary(evaluation(env, returns), env.spec, "maml-trpo", 0)
    assert result["share_of_tasks_made_worse"] == [0.0, 0.5, 0.25]


def test_one_task_has_null_errors_in_json(env):
    result = summary(evaluation(env, [[[1.0, 3.0]], [[5.0, 5.0]]]), env.spec, "maml-trpo", 0)
    read = json.loads(json.dumps(result, allow_nan=False))["returns"]
    assert read["mean"] == [2.0, 5.0]
    assert read["stderr"] == [None, None]
    assert read["ci95"] == [[None, None], [None, None]]


def test_experience_counts_what_came_before_an_entry(env):
    # 5 episodes of 80 steps in each rollout: MAML adapts to all five, a memory has seen its own
    measured = evaluation(env, np.zeros((3, 4, 5)))
    pooled = summary(measured, env.spec, "maml-trpo", 0)["experience"]
    assert pooled == {"episodes": [0, 5, 10], "env_steps": [0.0, 400.0, 800.0]}
    alone = replace(measured, env_steps=[400.0, 300.0, 200.0], pools_episodes=False)
    assert summary(alone, env.spec, "rl2", 0)["experience"] == {
        "episodes": [0, 1, 2],
        "env_steps": [0.0, 80.0, 140.0],
    }


def test_failed_episodes_are_counted(env):
    measured = evaluation(env, np.zeros((2, 3, 4)))
    measured.faults[1, 2, 1:3] = True
    assert summary(measured, env.spec, "maml-trpo", 0)["faulted_episodes"] == [0, 2]


def test_two_frequent_tasks_are_strata_and_many_tasks_are_not():
    env = make("half-cheetah-dir", threads=1)
    tasks = held_out_tasks(env.spec, 0, 20)
    # equal returns within each stratum: nothing is random
    measured = replace(evaluation(env, np.zeros((1, 20, 1))), returns=100.0 * tasks[None])
    result = summary(measured, env.spec, "maml-trpo", 0)
    assert result["strata"] == "tasks" and result["returns"]["ci95"] == [[0.0, 0.0]]
    few = replace(measured, tasks=tasks[:8], returns=100.0 * tasks[None, :8])
    assert summary(few, env.spec, "maml-trpo", 0)["strata"] == "none"


def test_summary_has_the_returns_without_noise_beside_the_others(env):
    noisy = evaluation(env, np.random.default_rng(0).normal(size=(2, 6, 3)))
    quiet = replace(noisy, returns=noisy.returns + 7.0, deterministic=True)
    result = summary(noisy, env.spec, "maml-trpo", 0, quiet)
    alone = summary(quiet, env.spec, "maml-trpo", 0)
    assert result["without_noise"] == {
        "returns": {
            name: alone["returns"][name]
            for name in ("mean", "stderr", "ci95", "iqm", "iqm_ci95", "per_task")
        },
        "share_of_tasks_made_worse": alone["share_of_tasks_made_worse"],
        "faulted_episodes": alone["faulted_episodes"],
    }
    del result["without_noise"]
    assert result == summary(noisy, env.spec, "maml-trpo", 0)


def test_summary_is_a_function_of_its_seed(env):
    measured = evaluation(env, np.random.default_rng(0).normal(size=(2, 6, 3)))
    results = [summary(measured, env.spec, "maml-trpo", seed) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0]["returns"]["ci95"] != results[2]["returns"]["ci95"]


# --- the trial -----------------------------------------------------------------------------------


def test_held_out_tasks_depend_on_the_seed_only(env):
    first = held_out_tasks(env.spec, 3, 5)
    assert first.shape == (5, 2)
    np.testing.assert_array_equal(first, held_out_tasks(env.spec, 3, 5))
    assert not np.array_equal(first, held_out_tasks(env.spec, 4, 5))
    training = {
        tuple(task) for i in range(50) for task in env.spec.tasks.sample(stream(3, "tasks", i), 5)
    }
    assert not training & {tuple(task) for task in first}


def test_held_out_tasks_come_from_the_test_distribution(env):
    low, high = (Uniform((Variable("friction", "1", *ends),)) for ends in ((0, 1), (1, 2)))
    spec = replace(env.spec, tasks=Split(low, high))
    tasks = held_out_tasks(spec, 3, 50)
    assert tasks.shape == (50, 1) and (tasks > 1).all()


def test_evaluation_is_a_trial_without_the_update(env):
    learner = Maml(MamlConfig(hidden_sizes=(8,)), 2, 2, seed=0)
    before = learner.state_dict()
    tasks, key = held_out_tasks(env.spec, 0, 3), Key(0, "evaluate", 0)
    measured = evaluate(env, learner, tasks, num_episodes=4, num_adaptations=2, key=key)
    rollouts, _ = trial(env, learner, tasks, 4, 2, key)
    assert measured.returns.shape == (3, 3, 4)
    for k, one in enumerate(rollouts):
        np.testing.assert_array_equal(measured.returns[k], one.reward.double().sum(2).numpy())
        assert measured.env_steps[k] == float(one.valid.sum()) / 3
        np.testing.assert_array_equal(measured.faults[k], one.truncated.numpy())
    assert measured.pools_episodes and not measured.deterministic
    after = learner.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_learner_declares_whether_it_pools_episodes(env):
    class Memory(Maml):
        pools_episodes = False

    learner = Memory(MamlConfig(hidden_sizes=(8,)), 2, 2, seed=0)
    tasks, key = held_out_tasks(env.spec, 0, 2), Key(0, "evaluate", 0)
    measured = evaluate(env, learner, tasks, num_episodes=3, num_adaptations=1, key=key)
    assert summary(measured, env.spec, "rl2", 0)["experience"]["episodes"] == [0, 1]


# --- the mode of the policy ----------------------------------------------------------------------


def test_mode_of_maml_is_measured_beside_its_adaptation(env):
    learner = Maml(MamlConfig(hidden_sizes=(8,)), 2, 2, seed=0)
    tasks, key, size = held_out_tasks(env.spec, 0, 3), Key(0, "evaluate", 0), (3, 4)
    settings = {"num_episodes": 4, "num_adaptations": 2, "key": key}
    measured = evaluate(env, learner, tasks, **settings, explore=False)
    # the contexts are those of the exploring trial
    explored, _ = trial(env, learner, tasks, 4, 2, key)
    context = learner.begin(3, 4, key.tasks("begin", 0, 3))
    for k in range(3):
        mode, _ = rollout(env, learner, context, key, k, size, explore=False)
        np.testing.assert_array_equal(measured.returns[k], mode.returns().numpy())
        steps = (explored[k] if k < 2 else mode).num_steps()
        assert measured.env_steps[k] == steps / 3
        context = learner.adapt(context, explored[k], key.tasks("adapt", k + 1, 3))
    assert measured.deterministic and not np.array_equal(
        measured.returns, evaluate(env, learner, tasks, **settings).returns
    )
    assert summary(measured, env.spec, "maml-trpo", 0)["deterministic"] is True


@pytest.mark.parametrize("memory", ["gru", "transformer"])
def test_memory_learner_sends_its_mode_in_every_rollout(env, memory):
    config = Rl2Config(memory=memory, memory_size=8, hidden_size=8)
    learner = Rl2(config, 2, 2, seed=0)
    tasks, key = held_out_tasks(env.spec, 0, 3), Key(0, "evaluate", 0)
    settings = {"num_episodes": 4, "num_adaptations": 2, "key": key}
    measured = evaluate(env, learner, tasks, **settings, explore=False)
    rollouts, _ = trial(env, learner, tasks, 4, 2, key, explore=False)
    for k, mode in enumerate(rollouts):
        np.testing.assert_array_equal(measured.returns[k], mode.returns().numpy())
        assert measured.env_steps[k] == mode.num_steps() / 3
    assert measured.deterministic and not measured.pools_episodes


@pytest.mark.parametrize(
    ("tasks", "shown"),
    [([[0.3]], "0.3"), ([[0.1, 0.2], [1, 2, 3]], "1,2,3"), ([[[0.3]]], r"\[\[0.3\]\]")],
)
def test_message_shows_the_task_that_does_not_fit(tasks, shown):
    spec = make("navigation-2d").spec
    with pytest.raises(ConfigError, match=f"^--task {shown}: a task of navigation-2d is 2 finite"):
        check_chosen_tasks(tasks, spec)


def test_environment_whose_tasks_have_no_numbers_takes_none():
    spec = replace(make("navigation-2d").spec, tasks=Uniform(()))
    with pytest.raises(ConfigError, match="tasks of navigation-2d have no numbers; leave it out"):
        check_chosen_tasks([[1.0]], spec)


# --- distances ------------------------------------------------------------------------------------


def tiny_learner(env):
    config = Rl2Config(memory_size=4, minibatches=1, initial_log_std=1.0)
    return Rl2(config, env.spec.obs_size, env.spec.action_size, seed=0)


@pytest.mark.parametrize("explore", [True, False])
def test_distance_is_that_of_a_loop_over_snapshots(monkeypatch, explore):
    env, size = make("ant-dir", 1), (2, 2)
    learner = tiny_learner(env)
    tasks, key = held_out_tasks(env.spec, 0, size[0]), Key(0, "evaluate", 0)
    options = {"num_episodes": size[1], "num_adaptations": 1, "key": key, "explore": explore}
    measured = evaluate(env, learner, tasks, **options)
    start, reset = np.zeros((4, 2)), env.reset
    end = [start.copy(), start.copy()]

    def note_start(rngs):
        obs = reset(rngs)
        start[:] = env.snapshot()[:, :2]
        return obs

    def note_end(k, valid):
        end[k][valid] = env.snapshot()[valid, :2]

    monkeypatch.setattr(env, "reset", note_start)
    env.set_tasks(tasks, size[1])
    context = learner.begin(*size, key.tasks("begin", 0, size[0]))
    for k in range(2):
        played, context = rollout(
            env, learner, context, key, k, size, explore=explore, observer=note_end
        )
        context = learner.adapt(context, played, key.tasks("adapt", k + 1, size[0]))
        far = [np.hypot(*(b - a)) for a, b in zip(start, end[k], strict=True)]
        np.testing.assert_allclose(measured.distances[k].ravel(), far, rtol=1e-12)
        np.testing.assert_array_equal(measured.returns[k], played.returns().numpy())
    assert (measured.distances > 0.01).all()
    tree = summary(measured, env.spec, "rl2", 0)
    assert tree["distance"]["mean"] == pytest.approx(measured.distances.mean(axis=(1, 2)))
    json.dumps(tree, allow_nan=False)


@pytest.mark.parametrize("name", ["navigation-2d", "arm-reach"])
def test_distance_is_left_out_without_a_base_that_moves(name):
    env = make(name, 1)
    learner = tiny_learner(env)
    tasks = held_out_tasks(env.spec, 0, 1)
    options = {"num_episodes": 1, "num_adaptations": 0, "key": Key(0, "evaluate", 0)}
    measured = evaluate(env, learner, tasks, **options)
    assert measured.distances is None and "distance" not in summary(measured, env.spec, "rl2", 0)
