"""`reset_rows` on robots, goals and variations of every kind."""

import numpy as np
import pytest

from metarl.envs.registry import make

ROWS = 4
NAMES = (
    "navigation-2d navigation-2d-sparse ant-dir half-cheetah-vel humanoid-dir ant-dir/promp "
    "ant-terrain hopper-params ant-friction ant-payload ant-gravity ant-wind half-cheetah-cripple "
    "ant-actuator"
).split()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes MUJOCO_LOG.TXT into the working directory."""
    monkeypatch.chdir(tmp_path)


def streams(*keys):
    return [np.random.default_rng(key) for key in keys]


def some_tasks(env, key=0, count=ROWS):
    tasks = env.spec.tasks.sample(np.random.default_rng(key), count)
    if env.spec.name == "half-cheetah-cripple":
        # the step in which a joint fails: in some rows before the reset, in others after it
        tasks[:, 1] = [1, 3, 7, 8][:count]
    return tasks


def started(name, tasks, keys):
    env = make(name, 1)
    env.set_tasks(tasks, 1)
    return env, env.reset(streams(*keys)).copy()


def walk(env, steps, key):
    """Takes random actions; returns obs, reward and terminated, time axis first."""
    size, alive = (steps, ROWS, env.spec.action_size), np.ones(ROWS, dtype=bool)
    record = []
    for command in np.random.default_rng(key).uniform(-1.0, 1.0, size) / env.spec.action_scale:
        step = env.step(command, alive)
        record.append((step.obs.copy(), step.reward.copy(), step.terminated.copy()))
    return [np.array(values) for values in zip(*record, strict=True)]


@pytest.mark.parametrize("changed", [False, True], ids=["same tasks", "new tasks"])
@pytest.mark.parametrize("name", NAMES)
def test_reset_rows_equals_a_full_reset_and_keeps_other_rows(name, changed):
    rows = np.array([False, True, False, True])
    probe = make(name, 1)
    old = some_tasks(probe)
    mixed = np.where(rows[:, None], some_tasks(probe, key=5), old) if changed else old
    one, _ = started(name, old, (0, 1, 2, 3))
    other, _ = started(name, old, (0, 1, 2, 3))
    fresh, expected = started(name, mixed, (7, 8, 9, 10))
    for each in (one, other):
        walk(each, 5, key=1)
    before = one.snapshot()
    obs = one.reset_rows(rows, streams(8, 10), mixed[rows] if changed else None)
    np.testing.assert_array_equal(obs[rows], expected[rows])
    np.testing.assert_array_equal(one.snapshot()[~rows], before[~rows])
    walked = [walk(each, 6, key=2) for each in (one, other, fresh)]
    for begun, gone_on, new in zip(*walked, strict=True):
        np.testing.assert_array_equal(begun[:, ~rows], gone_on[:, ~rows])
        np.testing.assert_array_equal(begun[:, rows], new[:, rows])
    for each in (probe, one, other, fresh):
        each.close()


@pytest.mark.parametrize("name", ["navigation-2d", "half-cheetah-dir"])
def test_wrong_numbers_of_streams_and_tasks_are_refused(name):
    env = make(name, 1)
    rows = np.array([True, True, False, False])
    with pytest.raises(RuntimeError, match=f"{name}: call set_tasks before reset"):
        env.reset_rows(rows, streams(0, 1))
    env.set_tasks(some_tasks(env), 1)
    env.reset(streams(0, 1, 2, 3))
    before = env.snapshot()
    with pytest.raises(ValueError, match=f"{name}: 2 rows need as many streams, got 1"):
        env.reset_rows(rows, streams(0))
    with pytest.raises(ValueError, match=f"{name}: 2 rows need as many tasks, got 1"):
        env.reset_rows(rows, streams(0, 1), some_tasks(env, count=1))
    env.reset_rows(np.zeros(ROWS, dtype=bool), [])
    np.testing.assert_array_equal(env.snapshot(), before)
    env.close()
