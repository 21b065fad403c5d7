"""Episodes that begin in some rows while they go on in others, on every environment of the registry."""

import numpy as np
import pytest

from envs.registry import ENVIRONMENTS, make

ROWS = 4


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes MUJOCO_LOG.TXT into the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=ENVIRONMENTS)
def name(request):
    return request.param


def streams(*keys):
    return [np.random.default_rng(key) for key in keys]


def some_tasks(env, key=0, count=ROWS):
    return env.spec.tasks.sample(np.random.default_rng(key), count)


def started(name, tasks, keys):
    env = make(name, 1)
    env.set_tasks(tasks, 1)
    return env, env.reset(streams(*keys)).copy()


def walk(env, commands):
    """Steps through commands (T, M, A); returns obs, reward and terminated, time axis first."""
    alive = np.ones(ROWS, dtype=bool)
    record = []
    for command in commands:
        step = env.step(command, alive)
        record.append((step.obs.copy(), step.reward.copy(), step.terminated.copy()))
    return [np.array(values) for values in zip(*record, strict=True)]


def commands(env, steps, key=1):
    size = (steps, ROWS, env.spec.action_size)
    return np.random.default_rng(key).uniform(-0.3, 0.3, size)


def test_rows_begin_as_after_a_full_reset_and_the_others_go_on_bit_for_bit(name):
    rows = np.array([False, True, False, True])
    env = make(name, 1)
    tasks = some_tasks(env)
    one, _ = started(name, tasks, (0, 1, 2, 3))
    other, _ = started(name, tasks, (0, 1, 2, 3))
    fresh, expected = started(name, tasks, (7, 8, 9, 10))
    for each in (one, other):
        walk(each, commands(env, 5))
    before = one.snapshot()
    obs = one.reset_rows(rows, streams(8, 10))
    np.testing.assert_array_equal(obs[rows], expected[rows])
    np.testing.assert_array_equal(one.snapshot()[~rows], before[~rows])
    walked = [walk(each, commands(env, 5, key=2)) for each in (one, other, fresh)]
    for begun, gone_on, new in zip(*walked, strict=True):
        np.testing.assert_array_equal(begun[:, ~rows], gone_on[:, ~rows])
        np.testing.assert_array_equal(begun[:, rows], new[:, rows])
    for each in (one, other, fresh):
        each.close()


def test_rows_can_get_new_tasks_and_the_others_keep_theirs(name):
    rows = np.array([True, False, False, True])
    env = make(name, 1)
    old, new = some_tasks(env), -some_tasks(env, key=5)
    mixed = np.where(rows[:, None], new, old)
    one, _ = started(name, old, (0, 1, 2, 3))
    one.reset_rows(rows, streams(0, 3), new[rows])
    other, _ = started(name, mixed, (0, 1, 2, 3))
    for mine, theirs in zip(
        walk(one, commands(env, 5)), walk(other, commands(env, 5)), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    for each in (one, other):
        each.close()


@pytest.mark.parametrize("name", ["navigation-2d", "half-cheetah-dir"])
def test_streams_and_tasks_are_counted(name):
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
