"""The arm against a chain of links worked out by hand."""

from contextlib import closing

import mujoco
import numpy as np
import pytest

from metarl.envs.registry import UnknownEnvironment, make
from metarl.envs.robots.arms.arm import ARM
from metarl.envs.robots.guessing.inspection import inspect_robot
from metarl.envs.robots.robot import bare_model

LINKS = np.array([0.3, 0.25, 0.15])


def place_of(qpos):
    """Place (3,) of the gripper: three links in the plane of the yaw, from 0.25 m above."""
    yaw, *bends = qpos
    angles = np.cumsum(bends)
    out, up = LINKS @ np.sin(angles), 0.25 + LINKS @ np.cos(angles)
    return np.array([out * np.cos(yaw), out * np.sin(yaw), up])


def started(name, tasks):
    env = make(name, threads=1)
    env.set_tasks(np.atleast_2d(tasks), 1)
    env.reset([np.random.default_rng(row) for row in range(len(np.atleast_2d(tasks)))])
    return env


def test_keyframe_and_mass_are_those_of_the_docs():
    model = bare_model(ARM)
    np.testing.assert_array_equal(model.key("home").qpos, ARM.home)
    assert model.body_mass.sum() == pytest.approx(5.0)


def test_observation_and_reward_are_those_after_the_step():
    target = [0.1, -0.3, 0.4]
    with closing(started("arm-reach", [target])) as env:
        rng = np.random.default_rng(0)
        for _ in range(20):
            action = rng.uniform(-0.5, 0.5, (1, 4))
            step = env.step(action, np.ones(1, dtype=bool))
            qpos = env.snapshot()[0]
            place = place_of(qpos)
            np.testing.assert_allclose(step.obs[0, :4], qpos - ARM.home, atol=1e-12)
            np.testing.assert_allclose(step.obs[0, 8:], place, atol=1e-12)
            expected = -np.linalg.norm(place - target) - 0.001 * np.square(action).sum()
            assert step.reward[0] == pytest.approx(expected, abs=1e-12)
        assert not step.terminated.any()


def test_observed_numbers_have_names_and_units():
    with closing(make("arm-reach", threads=1)) as env:
        found = [(each.name, each.unit) for each in env.spec.observed]
    assert found[0] == ("yaw position relative to home", "rad") and len(found) == 11
    assert found[-1] == ("gripper position z, world", "m")


def test_inspection_says_how_far_the_arm_sags():
    sag, actuators, _ = inspect_robot(ARM)
    assert sag.startswith("after 2 s without an action, gripper is ")
    assert int(sag.split()[-4]) <= 25
    assert actuators == "each of the 4 actuators moves a joint"


def test_payload_hangs_at_the_gripper_with_a_share_of_the_mass():
    with closing(started("arm-reach-payload", [[0.3, 0.0, 0.3, 0.2]])) as env:
        model = env._model_of(np.array([0.3, 0.0, 0.3, 0.2]))
        data, bare = mujoco.MjData(model), mujoco.MjData(bare_model(ARM))
        data.qpos[:] = bare.qpos[:] = qpos = np.array([0.4, 0.5, 1.0, -0.3])
        mujoco.mj_forward(model, data)
        mujoco.mj_forward(bare_model(ARM), bare)
        np.testing.assert_allclose(data.body("payload").xpos, place_of(qpos), atol=1e-12)
        # 1 kg at the gripper: its weight times the level distance from the shoulder's axis
        lever = np.hypot(*place_of(qpos)[:2])
        torque = bare.qfrc_bias[1] - data.qfrc_bias[1]
        assert torque == pytest.approx(1.0 * 9.81 * lever, rel=1e-9)


def test_load_of_test_tasks_is_heavier():
    with closing(make("arm-reach-load", threads=1)) as env:
        train, test = env.spec.tasks.variables[-1], env.spec.tasks.test.variables[-1]
    assert (train.low, train.high, test.low, test.high) == (0.0, 0.15, 0.15, 0.25)


@pytest.mark.parametrize(
    "word", ["params", "gravity", "actuator", "cripple", "locked", "weak", "damage", "load"]
)
def test_variation_of_an_arm_works_on_test_tasks(word):
    with closing(make(f"arm-reach-{word}", threads=1)) as env:
        env.set_tasks(env.spec.tasks.test.sample(np.random.default_rng(0), 4), 1)
        env.reset([np.random.default_rng(row) for row in range(4)])
        rng = np.random.default_rng(1)
        for _ in range(30):
            step = env.step(rng.uniform(-1.0, 1.0, (4, 4)), np.ones(4, dtype=bool))
            assert np.isfinite(step.obs).all() and not step.fault.any()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("arm-reach-friction", "friction is not for arm: a fixed base does not stand"),
        ("arm-reach-terrain", "terrain is not for arm: a fixed base does not walk"),
        ("arm-reach-payload-push", "push is not for arm: the base does not move"),
        ("arm-reach-wind", "wind is not for arm: the force is on the base"),
        ("arm-dir", "'arm-dir'.*: its base is fixed, so its goal is reach"),
        ("arm-payload", "'arm-payload'.*: its base is fixed, so its goal is reach"),
        ("ant-reach", "'ant-reach'.*: reach needs an end effector and a fixed base"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(name, reason):
    with pytest.raises(UnknownEnvironment, match=reason):
        make(name, threads=1)


def test_suggestions_leave_out_what_an_arm_cannot_have():
    with pytest.raises(UnknownEnvironment) as error:
        make("arm-reach-terain", threads=1)
    assert "arm-reach-terrain" not in str(error.value)
