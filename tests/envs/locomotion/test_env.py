"""MujocoBatchEnv: contact forces, rows and failures; test_robots.py compares it with Gymnasium."""

import gc
import os
from dataclasses import dataclass
from importlib.resources import files

import mujoco
import numpy as np
import pytest
from mujoco_runs import assert_same, run, streams

from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.goals.hidden import Direction, ForwardBackward, RewardTerms
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.registry import make
from metarl.envs.robots.included.gymnasium import ANT, HALF_CHEETAH
from metarl.envs.robots.robot import Robot


def build(robot, rows, *, threads=1, **settings):
    env = MujocoBatchEnv("test", Recipe(robot, Direction(), RewardTerms(), **settings), threads)
    env.set_tasks(np.zeros((rows, 1)), 1)
    return env


def start(name, rows, *, threads=1):
    env = make(name, threads)
    env.set_tasks(env.spec.tasks.sample(np.random.default_rng(0), rows), 1)
    return env, env.reset(streams(rows)).copy()


def actions(env, steps, rows, seed=0):
    size = env.spec.action_size
    return np.random.default_rng(seed).normal(size=(steps, rows, size)) / env.spec.action_scale


# --- actions


def test_step_does_not_depend_on_the_action_precision():
    records = []
    for dtype in (np.float32, np.float64):
        env, _ = start("ant-dir/promp", 2)
        records.append(run(env, actions(env, 10, 2).astype(np.float32).astype(dtype)))
    assert_same(*records)


# --- contact forces


def test_contact_forces_of_a_standing_ant_are_at_its_feet():
    env, first = start("ant-dir/promp", 2)
    assert first.shape == (2, 111)
    np.testing.assert_array_equal(first[:, 27:], 0.0)  # it starts in the air
    record = run(env, np.zeros((60, 2, 8)))
    forces = record["obs"][-1, :, 27:].reshape(2, 14, 6)
    assert np.abs(forces).max() == 1.0  # clipped
    touching = np.abs(forces).max(axis=2) > 0
    feet = [4, 7, 10, 13]
    assert touching[:, feet].sum() == touching.sum()
    assert (touching.sum(axis=1) >= 3).all()  # fewer could not support it


def test_contact_forces_equal_mujocos():
    env, _ = start("ant-dir/promp", 3)
    run(env, actions(env, 30, 3))
    qpos, qvel = env.snapshot(), env._qvel.copy()
    obs = env.restore(qpos, qvel)
    model = ANT.model()
    assert model.nsensordata == 0 and env.model.nsensordata == 3
    for row in range(3):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = qpos[row], qvel[row]
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        np.testing.assert_array_equal(obs[row, 27:], np.clip(data.cfrc_ext, -1, 1).ravel())
    assert np.abs(obs[:, 27:]).max() > 0


def test_accelerometer_changes_no_motion():
    commands = np.random.default_rng(6).normal(size=(60, 2, 8))
    paths = []
    for observe in (False, True):
        env = build(ANT, 2, observe_contacts=observe)
        env.reset(streams(2))
        paths.append(run(env, commands)["qpos"])
    np.testing.assert_array_equal(*paths)


# --- rows


@pytest.mark.parametrize("name", ["ant-dir/promp", "half-cheetah-vel"])
def test_results_do_not_depend_on_the_thread_count(name):
    records = []
    for threads in (1, 2, 3):
        env, _ = start(name, 7, threads=threads)
        records.append(run(env, actions(env, 60, 7)))
    assert_same(records[0], records[1])
    assert_same(records[0], records[2])


@pytest.mark.parametrize("name", ["ant-dir/promp", "half-cheetah-vel"])
def test_results_do_not_depend_on_the_other_rows(name):
    env, _ = start(name, 5)
    commands = actions(env, 60, 5)
    together = run(env, commands)
    tasks = env.spec.tasks.sample(np.random.default_rng(0), 5)
    alone = make(name, 1)
    for row in range(5):
        alone.set_tasks(tasks[row : row + 1], 1)
        alone.reset(streams(5)[row : row + 1])
        single = run(alone, commands[:, row : row + 1])
        assert_same(single, {key: value[:, row : row + 1] for key, value in together.items()})


def test_fallen_robot_keeps_its_state():
    whole, _ = start("ant-dir/promp", 4)
    masked, _ = start("ant-dir/promp", 4)
    commands = actions(whole, 60, 4)
    assert_same(run(whole, commands[:30]), run(masked, commands[:30]))
    expected_row = {"qpos": masked.snapshot()[1], "obs": masked._observe()[1].copy()}
    expected = run(whole, commands[30:])
    commands[30:, 1] = np.nan  # must have no effect
    record = run(masked, commands[30:], [True, False, True, True])
    assert_same(record, expected, rows=[0, 2, 3])
    for name, value in expected_row.items():
        np.testing.assert_array_equal(record[name][:, 1], np.tile(value, (30, 1)))
    for name in ("reward", "terminated", "fault"):
        assert not record[name][:, 1].any()


@pytest.mark.parametrize("name", ["ant-dir/promp", "half-cheetah-vel"])
def test_reset_clears_the_previous_episode(name):
    fresh, first = start(name, 4)
    commands = actions(fresh, 40, 4)
    expected = run(fresh, commands)
    used, _ = start(name, 4)
    run(used, 3.0 * actions(used, 40, 4, seed=8), [True, False, True, True])
    assert run(used, np.full_like(commands[:2], np.nan))["fault"].all()
    np.testing.assert_array_equal(used.reset(streams(4)), first)
    assert_same(run(used, commands), expected)


def test_set_tasks_replaces_the_previous_tasks():
    env = MujocoBatchEnv("test", Recipe(HALF_CHEETAH, ForwardBackward(), RewardTerms()), threads=1)
    commands = np.random.default_rng(9).normal(size=(5, 4, 6))
    rewards = []
    for sign in (1.0, -1.0):
        env.set_tasks(np.array([[sign], [-sign]]), 2)
        env.reset(streams(4))
        rewards.append(run(env, commands)["reward"])
    np.testing.assert_array_equal(rewards[0], -rewards[1])
    # a task has two neighbouring rows
    env.restore(np.tile(env.model.qpos0, (4, 1)), np.zeros((4, 9)))
    reward = run(env, commands[:, :1].repeat(4, axis=1))["reward"]
    np.testing.assert_array_equal(reward, reward[:, :1] * [1.0, 1.0, -1.0, -1.0])
    env.set_tasks(np.array([[1.0]]), 3)
    assert env.reset(streams(3)).shape == (3, 17)


# --- divergence


@dataclass(frozen=True)
class SmallMemory(Robot):
    """A robot whose simulations have few bytes for contacts and constraints."""

    num_bytes: int = 0

    def model(self, **_):
        path = files("gymnasium") / "envs" / "mujoco" / "assets" / self.model_file
        spec = mujoco.MjSpec.from_file(str(path))
        spec.memory = self.num_bytes
        model = spec.compile()
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        return model


BAD_STATES = {"a speed of 9e9": ("qvel", 9e9), "qpos NaN": ("qpos", np.nan)}
BAD_STATES |= {"a speed MuJoCo warns of": ("qvel", 1e11), "qvel infinite": ("qvel", np.inf)}
BAD_ACTIONS = {"NaN": np.nan, "infinite": np.inf, "minus infinite": -np.inf}


def assert_only_row_one_failed(record, healthy):
    assert record["fault"][:, 1].all()
    for name in ("reward", "terminated"):
        assert not record[name][:, 1].any()
    assert not healthy["fault"].any()
    assert_same(record, healthy, rows=[0, 2, 3])


@pytest.mark.parametrize("name", ["ant-dir/promp", "half-cheetah-dir"])
@pytest.mark.parametrize("value", BAD_ACTIONS.values(), ids=BAD_ACTIONS)
def test_non_finite_action_is_a_fault_of_its_row_only(name, value):
    env, first = start(name, 4)
    commands = actions(env, 4, 4)
    healthy = run(env, commands)
    faulty = commands.copy()
    faulty[:, 1, 2] = value
    env.reset(streams(4))
    assert_only_row_one_failed(run(env, faulty), healthy)
    np.testing.assert_array_equal(env.reset(streams(4)), first)
    assert_same(run(env, commands), healthy)


@pytest.mark.parametrize("name", ["ant-dir/promp", "half-cheetah-dir"])
@pytest.mark.parametrize(("field", "value"), BAD_STATES.values(), ids=BAD_STATES)
def test_diverged_state_is_a_fault_of_its_row_only(name, field, value):
    env, first = start(name, 4)
    commands = actions(env, 4, 4)
    healthy = run(env, commands)
    for _ in range(2):  # the second time MuJoCo's warning counters do not start at zero
        env.reset(streams(4))
        state = {"qpos": env.snapshot(), "qvel": env._qvel.copy()}
        state[field][1, 3] = value
        env.restore(**state)
        assert_only_row_one_failed(run(env, commands), healthy)
    np.testing.assert_array_equal(env.reset(streams(4)), first)
    assert_same(run(env, commands), healthy)


@pytest.mark.parametrize("robot", [ANT, HALF_CHEETAH], ids=["ant", "half-cheetah"])
@pytest.mark.parametrize(("speed", "fault"), [(9e9, True), (1.01e4, True), (9.9e3, False)])
def test_excessive_speed_is_a_fault_without_mujoco_warning(robot, speed, fault):
    env = build(robot, 2)
    qpos, qvel = np.tile(env.model.qpos0, (2, 1)), np.zeros((2, env.model.nv))
    qpos[1, 1 if robot.planar else 2] = 50.0  # far from the ground, so that no contact brakes it
    qvel[1, 0] = speed
    env.restore(qpos, qvel)
    record = run(env, np.zeros((1, 2, env.spec.action_size)))
    assert not env._batch.warning[1, :, 1].any()
    np.testing.assert_array_equal(record["fault"], [[False, fault]])
    assert (record["reward"][0, 1] == 0.0) == fault


# an Ant sunk into the ground fills 12 kB with contacts and 20 kB with constraints (MuJoCo's
# warnings 1 and 2); when it lands, 13 kB are too few for the solver, and MuJoCo raises an error
@pytest.mark.parametrize(
    ("num_bytes", "height", "warnings"),
    [(12_000, 0.1, {1, 2}), (20_000, 0.1, {2}), (13_000, 0.75, set())],
    ids=["contacts full", "constraints full", "out of memory"],
)
def test_full_buffer_is_a_fault_of_its_row_only(num_bytes, height, warnings):
    small = SmallMemory(**vars(ANT), num_bytes=num_bytes)
    env, roomy = build(small, 4), build(ANT, 4)
    qpos, qvel = np.tile(env.model.qpos0, (4, 1)), np.zeros((4, env.model.nv))
    qpos[:, 2], qpos[1, 2] = 5.0, height  # the others are in the air, without contacts
    commands = np.zeros((12, 4, 8))
    for _ in range(2):
        env.restore(qpos, qvel)
        roomy.restore(qpos, qvel)
        record, healthy = run(env, commands), run(roomy, commands)
        assert set(np.flatnonzero(env._batch.warning[1, :, 1])) == warnings
        assert record["fault"][:, 1].any()
        assert not record["reward"][:, 1][record["fault"][:, 1]].any()
        assert not healthy["fault"].any()
        assert_same(record, healthy, rows=[0, 2, 3])
    qpos[1, 2] = 5.0
    env.restore(qpos, qvel)
    assert not run(env, commands)["fault"].any()


# --- use


def test_snapshot_is_a_copy():
    env, _ = start("half-cheetah-dir", 2)
    before, copied = env.snapshot(), env.snapshot().copy()
    run(env, actions(env, 3, 2))
    np.testing.assert_array_equal(before, copied)
    assert not np.array_equal(env.snapshot(), copied)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_close_releases_the_threads():
    gc.collect()
    before = len(os.listdir("/proc/self/task"))
    env, _ = start("ant-dir/promp", 4, threads=3)
    assert len(os.listdir("/proc/self/task")) == before + 2
    env.close()
    assert len(os.listdir("/proc/self/task")) == before


def test_wrong_calls_are_named():
    env = make("ant-goal", 1)
    with pytest.raises(RuntimeError, match="ant-goal: call set_tasks before reset"):
        env.reset(streams(1))
    for tasks in (np.zeros((3, 1)), np.zeros(2), np.array([[0.0, np.inf]])):
        with pytest.raises(ValueError, match=r"ant-goal: tasks must be finite and \(N, 2\)"):
            env.set_tasks(tasks, 1)
    env.set_tasks(np.zeros((3, 2)), 2)
    with pytest.raises(ValueError, match="ant-goal: 6 rows need as many streams, got 3"):
        env.reset(streams(3))
