"""Robots compared with Gymnasium's environments, bit for bit."""

from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils import seeding
from mujoco_runs import run, streams

from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.goals.hidden import Forward, RewardTerms
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.registry import make
from metarl.envs.robots.included.gymnasium import (
    ANT,
    HALF_CHEETAH,
    HOPPER,
    HUMANOID,
    ROBOTS,
    WALKER2D,
)

ANT_V5 = ("Ant-v5", {"include_cfrc_ext_in_observation": False})
PAIRS = {
    "ant": (ANT, *ANT_V5),
    "half-cheetah": (HALF_CHEETAH, "HalfCheetah-v5", {}),
    "walker2d": (WALKER2D, "Walker2d-v5", {}),
    "hopper": (HOPPER, "Hopper-v5", {}),
    "humanoid": (HUMANOID, "Humanoid-v5", {}),
}
robots = pytest.mark.parametrize("robot", PAIRS)

HUMANOIDS_FORCES = np.s_[270:348]
"""Contact forces cfrc_ext in the observation of Humanoid-v5; a batch takes them at another time."""


def build(robot, rows, **settings):
    env = MujocoBatchEnv("test", Recipe(robot, Forward(), RewardTerms(), **settings), threads=1)
    env.set_tasks(np.zeros((rows, 0)), 1)
    return env


def comparable(robot, obs):
    """Returns the part of an observation that must equal Gymnasium's."""
    return np.delete(obs, HUMANOIDS_FORCES) if robot is HUMANOID else obs


def assert_follows_gymnasium(robot, reference, record, row, sent):
    """Steps Gymnasium's environment from its state and compares a recorded row."""
    for t, command in enumerate(sent):
        obs, _, terminated, _, info = reference.step(command)
        np.testing.assert_array_equal(record["qpos"][t, row], reference.data.qpos)
        np.testing.assert_array_equal(record["qvel"][t, row], reference.data.qvel)
        ours = record["obs"][t, row]
        assert ours.shape == obs.shape
        np.testing.assert_array_equal(comparable(robot, ours), comparable(robot, obs))
        assert record["terminated"][t, row] == terminated
        # Gymnasium's Ant takes the position of the last stage of the integrator, ours that of qpos
        if robot is not ANT:
            speed = pytest.approx(info["x_velocity"], rel=1e-9, abs=1e-11)
            assert record["reward"][t, row] == speed  # Forward without terms has no other reward
    assert not record["fault"][:, row].any()


@robots
def test_steps_after_reset_equal_gymnasiums(robot):
    robot, reference_id, settings = PAIRS[robot]
    env = build(robot, 3, action_scale=0.5)
    first = env.reset([seeding.np_random(row)[0] for row in range(3)]).copy()
    commands = 4.0 * np.random.default_rng(1).normal(size=(200, 3, env.spec.action_size))
    record = run(env, commands)
    reference = gymnasium.make(reference_id, **settings).unwrapped
    assert env.spec.dt == pytest.approx(reference.dt, rel=1e-12)
    bounds = reference.action_space
    for row in range(3):
        obs, _ = reference.reset(seed=row)
        np.testing.assert_array_equal(first[row], obs)  # in the air: no contact forces
        sent = np.clip(0.5 * commands[:, row], bounds.low, bounds.high)
        assert_follows_gymnasium(robot, reference, record, row, sent)


@robots
def test_steps_after_restore_equal_gymnasiums(robot):
    robot, reference_id, settings = PAIRS[robot]
    env = build(robot, 4)
    rng = np.random.default_rng(2)
    qpos = env.model.qpos0 + rng.uniform(-0.2, 0.2, (4, env.model.nq))
    qvel = rng.normal(size=(4, env.model.nv))
    if (
        robot is ANT
    ):  # too high, dropped upright, and far below the ground: both ends of the interval
        qpos[:3, 2] = 1.8, 0.8, -3.0
    first = env.restore(qpos, qvel).copy()
    reference = gymnasium.make(reference_id, **settings).unwrapped
    bounds = reference.action_space
    commands = rng.uniform(bounds.low, bounds.high, (200, 4, env.spec.action_size))
    record = run(env, commands)
    for row in range(4):
        reference.reset(seed=100 + row)
        reference.set_state(qpos[row], qvel[row])
        np.testing.assert_array_equal(
            comparable(robot, first[row]), comparable(robot, reference._get_obs())
        )
        assert_follows_gymnasium(robot, reference, record, row, commands[:, row])
    if robot is ANT:
        height = record["qpos"][:, :, 2]
        for group in (height < 0.2, height > 1.0, (height >= 0.2) & (height <= 1.0)):
            assert group.any()
    assert record["terminated"].any() == (robot is not HALF_CHEETAH)


@robots
def test_reset_noise_equals_gymnasiums(robot):
    robot, reference_id, settings = PAIRS[robot]
    reference = gymnasium.make(reference_id, **settings).unwrapped
    for seed in range(5):
        reference.reset(seed=seed)
        qpos, qvel = robot.initial_state(seeding.np_random(seed)[0], robot.model().qpos0)
        np.testing.assert_array_equal(qpos, reference.data.qpos)
        np.testing.assert_array_equal(qvel, reference.data.qvel)


def is_healthy(robot, height, *, pitch=0.0, speed=0.0):
    model = robot.model()
    qpos, qvel = model.qpos0[None].copy(), np.zeros((1, model.nv))
    qpos[0, robot.height_index] = height
    qvel[0, -1] = speed
    if robot.planar:
        qpos[0, 2] = pitch
    return bool(robot.healthy(np.array([height]), qpos, qvel)[0])


def test_health_equals_gymnasiums_at_the_ends_of_ranges():
    # Ant's interval is closed, the others' are open
    assert [is_healthy(ANT, z) for z in (0.19, 0.2, 1.0, 1.01)] == [False, True, True, False]
    assert [is_healthy(HUMANOID, z) for z in (1.0, 1.01, 1.99, 2.0)] == [False, True, True, False]
    assert [is_healthy(WALKER2D, z) for z in (0.8, 0.81, 1.99, 2.0)] == [False, True, True, False]
    assert [is_healthy(HOPPER, z) for z in (0.7, 0.71, 50.0)] == [False, True, True]
    pitches = (-1.0, -0.99, 0.99, 1.0)
    assert [is_healthy(WALKER2D, 1.2, pitch=p) for p in pitches] == [False, True, True, False]
    pitches = (-0.2, -0.19, 0.19, 0.2)
    assert [is_healthy(HOPPER, 1.2, pitch=p) for p in pitches] == [False, True, True, False]
    assert [is_healthy(HOPPER, 1.2, speed=v) for v in (-100, 99.9, 100)] == [False, True, False]
    assert is_healthy(WALKER2D, 1.2, speed=200.0)
    assert HALF_CHEETAH.healthy is None


FALLS = {
    "ant-fwd-bwd": ("Ant-v5", {"include_cfrc_ext_in_observation": False}),
    "walker2d-dir": ("Walker2d-v5", {}),
    "hopper-dir": ("Hopper-v5", {}),
    "humanoid-fwd-bwd": ("Humanoid-v5", {}),
}


@pytest.mark.parametrize("name", FALLS)
def test_reward_is_gymnasiums_through_a_fall(name):
    reference_id, settings = FALLS[name]
    env, reference = make(name, threads=1), gymnasium.make(reference_id, **settings).unwrapped
    env.set_tasks(np.array([[1.0]]), 1)
    env.reset(streams(1))
    reference.reset(seed=0)
    qpos, qvel = env.model.qpos0.copy(), np.zeros(env.model.nv)
    if name.startswith("ant"):  # in the air it is unhealthy until it lands
        qpos[2], qvel[2] = 1.05, -1.0
    env.restore(qpos[None], qvel[None])
    reference.set_state(qpos, qvel)
    space, healthy = reference.action_space, []
    for command in np.random.default_rng(0).uniform(space.low, space.high, (80, *space.shape)):
        before = env.snapshot()
        step = env.step(command[None] / env.spec.action_scale, np.ones(1, dtype=bool))
        _, reward, terminated, _, info = reference.step(command)
        if name.startswith("ant"):  # its speed is that of qpos here, and no contacts cost
            speed = (env.snapshot() - before)[0, 0] / env.spec.dt
            reward = speed + info["reward_survive"] + info["reward_ctrl"]
        if name.startswith("humanoid"):  # its contact forces are those of another time
            cost = min(10.0, 5e-7 * np.square(step.obs[0, HUMANOIDS_FORCES]).sum())
            reward -= info["reward_contact"] + cost
        assert step.reward[0] == pytest.approx(reward, rel=1e-12, abs=1e-12)
        assert step.terminated[0] == terminated
        healthy.append(not terminated)
    assert any(healthy) and not all(healthy)


def test_models_compile_without_output(tmp_path, capfd, recwarn):
    for robot in ROBOTS.values():
        robot.model()
        robot.model(contact_forces=True)
    assert not list(tmp_path.iterdir())
    assert not capfd.readouterr().err and not len(recwarn)


# --- Humanoid


def test_contact_forces_of_humanoid_equal_mujocos():
    env = build(HUMANOID, 2)
    env.reset([np.random.default_rng(row) for row in range(2)])
    run(env, np.zeros((60, 2, 17)))
    qpos, qvel = env.snapshot(), env._qvel.copy()
    obs = env.restore(qpos, qvel)
    model = HUMANOID.model()
    for row in range(2):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = qpos[row], qvel[row]
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        np.testing.assert_array_equal(obs[row, HUMANOIDS_FORCES], data.cfrc_ext[1:].ravel())
    assert np.abs(obs[:, HUMANOIDS_FORCES]).max() > 1.0  # not clipped


def test_reward_of_humanoid_differs_in_contact_cost_only():
    env = make("humanoid-dir", threads=1)
    env.set_tasks(np.array([[0.0]]), 1)
    env.reset([seeding.np_random(3)[0]])
    reference = gymnasium.make("Humanoid-v5", contact_cost_weight=0.0).unwrapped
    reference.reset(seed=3)
    rng, contacts = np.random.default_rng(0), 0.0
    for _ in range(60):
        command = rng.uniform(-0.4, 0.4, (1, 17))
        step = env.step(command / env.spec.action_scale, np.ones(1, dtype=bool))
        _, reward, terminated, _, info = reference.step(command[0])
        cost = min(10.0, 5e-7 * np.square(step.obs[0, HUMANOIDS_FORCES]).sum())
        assert step.reward[0] == pytest.approx(reward - cost, rel=1e-9)
        assert info["reward_forward"] == pytest.approx(1.25 * info["x_velocity"])
        contacts = max(contacts, cost)
    assert contacts > 1e-4


def test_contact_cost_is_capped():
    terms = RewardTerms(contact_cost=5e-7, contact_clip=np.inf, contact_cap=10.0)
    forces = np.array([[1e3, 2e3], [1e6, 0.0]])
    np.testing.assert_allclose(terms.contact_costs(forces), [5e-7 * 5e6, 10.0])
    clipped = replace(terms, contact_clip=1.0, contact_cost=0.5)
    np.testing.assert_allclose(clipped.contact_costs(np.array([[3.0, -0.5]])), [0.5 * 1.25])
