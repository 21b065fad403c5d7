"""Observations with the task, for the oracle."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from metarl.core.env import RestartableEnv, UnsupportedHere, supports
from metarl.core.tasks import Uniform, Variable
from metarl.envs.registry import make
from metarl.envs.wrappers.observe_task import ObserveTask


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes MUJOCO_LOG.TXT into the working directory."""
    monkeypatch.chdir(tmp_path)


def streams(count):
    return [np.random.default_rng(row) for row in range(count)]


def test_observation_ends_with_the_scaled_task():
    env = make("half-cheetah-vel-friction", 1, observe_task=True)
    assert env.spec.obs_size == 17 + 2
    # speed 0 to 3 m/s; friction 0.08 to 2.5 over training and test tasks
    tasks = np.array([[0.0, 2.5], [3.0, 0.08], [1.5, 1.29]])
    env.set_tasks(tasks, 2)
    expected = np.repeat([[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0]], 2, axis=0)
    obs = env.reset(streams(6))
    assert obs.shape == (6, 19)
    np.testing.assert_allclose(obs[:, 17:], expected, atol=1e-12)
    for _ in range(3):
        obs = env.step(np.ones((6, 6)), np.ones(6, dtype=bool)).obs
        np.testing.assert_allclose(obs[:, 17:], expected, atol=1e-12)


@pytest.mark.parametrize("name", ["navigation-2d", "ant-cripple", "half-cheetah-dir"])
def test_held_out_tasks_are_in_range_and_the_rest_is_unchanged(name):
    plain, oracle = make(name, 1), make(name, 1, observe_task=True)
    size = plain.spec.obs_size
    tasks = np.concatenate(
        [d.sample(np.random.default_rng(0), 20) for d in (plain.spec.tasks, plain.spec.tasks.test)]
    )
    for env in (plain, oracle):
        env.set_tasks(tasks, 1)
    first, seen = plain.reset(streams(40)), oracle.reset(streams(40))
    np.testing.assert_array_equal(first, seen[:, :size])
    assert seen.shape == (40, size + tasks.shape[1])
    assert (np.abs(seen[:, size:]) <= 1.0).all()
    assert seen[:, size:].std() > 0.1
    alive, action = np.arange(40) > 2, np.full((40, plain.spec.action_size), 0.05)
    one, other = plain.step(action, alive), oracle.step(action, alive)
    np.testing.assert_array_equal(one.obs, other.obs[:, :size])
    for part in ("reward", "terminated", "fault"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    np.testing.assert_array_equal(plain.snapshot(), oracle.snapshot())
    oracle.close()


def test_spec_notes_that_the_task_is_observed():
    spec = make("half-cheetah-dir", 1, observe_task=True).spec
    assert spec.note == "test tasks are the training tasks; the task is in the observation"
    assert ObserveTask(make("ant-wind", 1)).spec.note == "the task is in the observation"


def test_wrong_tasks_name_the_environment():
    with pytest.raises(ValueError, match=r"half-cheetah-dir: tasks must be finite and \(N, 1\)"):
        make("half-cheetah-dir", 1, observe_task=True).set_tasks(np.zeros((2, 3)), 1)


@pytest.mark.parametrize("name", ["navigation-2d", "half-cheetah-dir/rllib"])
def test_observed_task_is_between_minus_one_and_one(name):
    plain, rows = make(name, 1), 4
    env = ObserveTask(make(name, 1))
    assert env.spec.obs_size == plain.spec.obs_size + len(plain.spec.tasks.variables)
    tasks = env.spec.tasks.sample(np.random.default_rng(0), rows)
    for each in (plain, env):
        each.set_tasks(tasks, 2)
    obs, expected = env.reset(streams(2 * rows)), plain.reset(streams(2 * rows))
    size = plain.spec.obs_size
    np.testing.assert_array_equal(obs[:, :size], expected)
    half = np.array([v.high for v in plain.spec.tasks.variables])  # all ranges here are symmetric
    np.testing.assert_allclose(obs[:, size:], np.repeat(tasks / half, 2, axis=0))
    action, alive = np.full((2 * rows, plain.spec.action_size), 0.05), np.ones(2 * rows, dtype=bool)
    one, other = env.step(action, alive), plain.step(action, alive)
    np.testing.assert_array_equal(one.obs[:, :size], other.obs)
    np.testing.assert_allclose(one.obs[:, size:], np.repeat(tasks / half, 2, axis=0))
    mask = np.arange(2 * rows) == 5
    fresh = env.spec.tasks.sample(np.random.default_rng(9), 1)
    obs = env.reset_rows(mask, streams(1), fresh)
    np.testing.assert_allclose(obs[5, size:], fresh[0] / half)
    np.testing.assert_array_equal(obs[:5, size:], one.obs[:5, size:])
    env.close(), plain.close()


def test_wrapper_forwards_reset_rows_only_if_supported():
    env = make("navigation-2d", 1)
    verbs = ("spec", "set_tasks", "reset", "step", "close")
    plain = SimpleNamespace(**{verb: getattr(env, verb) for verb in verbs})
    assert supports(ObserveTask(env), RestartableEnv)
    assert not supports(ObserveTask(plain), RestartableEnv)


def test_task_without_ranges_is_refused():
    env = make("navigation-2d", 1)
    endless = Uniform((Variable("index", "1", -np.inf, np.inf),) * 2)
    env.spec = replace(env.spec, tasks=endless)
    with pytest.raises(UnsupportedHere, match="the task numbers have no range"):
        ObserveTask(env)


def test_asymmetric_ranges_are_scaled():
    env = ObserveTask(make("ant-vel", 1))  # 0 to 3 m/s
    env.set_tasks(np.array([[0.0], [1.5], [3.0]]), 1)
    obs = env.reset(streams(3))
    np.testing.assert_allclose(obs[:, -1], [-1.0, 0.0, 1.0])
    env.close()
