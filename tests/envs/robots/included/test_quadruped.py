"""The robot with servos: it stands, obeys, observes its base, and loses a leg."""

from contextlib import closing

import gymnasium
import mujoco
import numpy as np
import pytest

from metarl.envs.registry import make
from metarl.envs.robots.frames import rotation
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.envs.robots.robot import bare_model
from metarl.envs.wrappers.registration import register

JOINTS = 12


def streams(number):
    return [np.random.default_rng(row) for row in range(number)]


def started(name, rows=1, task=(0.0,)):
    env = make(name, threads=1)
    env.set_tasks(np.tile(task, (rows, 1)), 1)
    env.reset(streams(rows))
    return env


def test_mass_is_that_of_the_class():
    assert bare_model(QUADRUPED).body_mass.sum() == pytest.approx(12.7)


def test_keyframe_of_the_model_is_the_home_pose():
    np.testing.assert_allclose(bare_model(QUADRUPED).key("home").qpos, QUADRUPED.rest())


def test_robot_stands_under_zero_action():
    alive = np.ones(4, dtype=bool)
    with closing(started("quadruped-dir", 4)) as env:
        start = env.snapshot()
        for _ in range(150):
            step = env.step(np.zeros((4, JOINTS)), alive)
            assert not (step.terminated | step.fault).any()
        end = env.snapshot()
    assert (np.abs(end - start)[:, :2] < 0.1).all()
    assert (end[:, 2] > 0.25).all()
    assert (np.abs(end[:, 7:] - QUADRUPED.home[7:]) < 0.25).all()


@pytest.mark.parametrize("joint", range(JOINTS))
def test_action_moves_its_joint_towards_the_target(joint):
    action = np.zeros((2, JOINTS))
    action[1, joint] = 0.5
    with closing(started("quadruped-dir", 2)) as env:
        qpos = np.tile(QUADRUPED.rest(), (2, 1))
        qpos[:, 2] = 5.0  # in the air
        env.restore(qpos, np.zeros((2, 18)))
        for _ in range(10):
            env.step(action, np.ones(2, dtype=bool))
        moved = np.diff(env.snapshot()[:, 7:], axis=0)[0]
    assert 0.1 < moved[joint] < 0.25  # the target is 0.5 x 0.4 rad away
    assert np.abs(moved).argmax() == joint


def test_observation_is_in_the_axes_of_the_base():
    rng = np.random.default_rng(0)
    qpos, qvel = np.tile(QUADRUPED.rest(), (3, 1)), rng.standard_normal((3, 18))
    qpos[:, 3:7] = rng.standard_normal((3, 4))
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    qpos[:, 7:] += rng.uniform(-0.1, 0.1, (3, 12))
    with closing(started("quadruped-dir", 3)) as env:
        obs = env.restore(qpos, qvel).copy()
    for row in range(3):
        inverse, velocity, down = np.zeros(4), np.zeros(3), np.zeros(3)
        mujoco.mju_negQuat(inverse, qpos[row, 3:7])
        mujoco.mju_rotVecQuat(velocity, qvel[row, :3], inverse)
        mujoco.mju_rotVecQuat(down, np.array([0.0, 0.0, -1.0]), inverse)
        parts = velocity, qvel[row, 3:6], down, qpos[row, 7:] - QUADRUPED.home[7:], qvel[row, 6:]
        np.testing.assert_allclose(obs[row], np.concatenate(parts), atol=1e-12)


def test_rotation_is_that_of_mujoco_for_any_length():
    quaternions = np.random.default_rng(0).standard_normal((5, 4))
    for quaternion, matrix in zip(quaternions, rotation(quaternions), strict=True):
        expected = np.zeros(9)
        mujoco.mju_quat2Mat(expected, quaternion / np.linalg.norm(quaternion))
        np.testing.assert_allclose(matrix.ravel(), expected, atol=1e-14)


def test_robot_is_healthy_up_to_its_tilt_and_height():
    def is_healthy(tilt=0.0, height=0.28, turn=0.0):
        qpos = QUADRUPED.rest()[None].copy()
        for axis, angle in (([0.6, 0.8, 0.0], tilt), ([0.0, 0.0, 1.0], turn)):
            turned, quaternion = np.zeros(4), np.zeros(4)
            mujoco.mju_axisAngle2Quat(quaternion, np.array(axis), angle)
            mujoco.mju_mulQuat(turned, quaternion, qpos[0, 3:7])
            qpos[0, 3:7] = turned
        return bool(QUADRUPED.healthy(np.array([height]), qpos, np.zeros((1, 18)))[0])

    assert is_healthy() and is_healthy(tilt=0.99, turn=2.0) and not is_healthy(tilt=1.01, turn=2.0)
    assert not is_healthy(tilt=3.0)
    assert is_healthy(height=0.13) and not is_healthy(height=0.11) and not is_healthy(height=0.7)


def test_dead_leg_is_limp():
    # a servo without gain but with its bias would still brake and pull towards zero
    limb = list(QUADRUPED.limbs[1])
    with closing(started("quadruped-cripple", 2, task=(1.0, 3.0))) as env:
        force = env._batch.bind("actuator_force")
        for step in range(6):
            env.step(np.full((2, JOINTS), 0.3), np.ones(2, dtype=bool))
            is_zero = force == 0.0
            assert is_zero[:, limb].all() == (step >= 3)
            assert not np.delete(is_zero, limb, axis=1).any()
        env.reset(streams(2))
        env.step(np.zeros((2, JOINTS)), np.ones(2, dtype=bool))
        assert not (force == 0.0).any()


def test_weak_servo_has_a_share_of_the_torque():
    factors = np.linspace(0.5, 1.5, 12)
    with closing(make("quadruped-actuator", threads=1)) as env:
        env.set_tasks(np.array([[1.0] * 12 + [0.0], [*factors, 0.0]]), 1)
        env.reset(streams(2))
        qpos = np.tile(QUADRUPED.rest(), (2, 1))
        qpos[:, 2] = 5.0
        force = env._batch.bind("actuator_force")
        for offset, limit in ((0.1, False), (0.6, True)):  # 40 N m/rad x 0.6 rad is the limit
            qpos[:, 7:] = QUADRUPED.rest()[7:] + [offset, offset, -offset] * 4
            env.restore(qpos, np.zeros((2, 18)))
            env._batch.bind("ctrl")[:] = QUADRUPED.action_centre
            env._batch.forward(None)
            np.testing.assert_allclose(force[1], factors * force[0], rtol=1e-12)
            assert (np.abs(force[0]) > (23.9 if limit else 3.9)).all()


def test_late_servos_hold_the_home_pose_before_the_first_action():
    with closing(make("quadruped-actuator", threads=1)) as env:
        env.set_tasks(np.array([[1.0] * 12 + [delay] for delay in (0.0, 3.0)]), 1)
        env.reset(streams(2))
        env.restore(np.tile(QUADRUPED.rest(), (2, 1)), np.zeros((2, 18)))
        for _ in range(6):
            env.step(np.zeros((2, JOINTS)), np.ones(2, dtype=bool))
        on_time, late = env.snapshot()
    np.testing.assert_array_equal(on_time, late)


def test_locked_leg_holds_its_joints_under_load():
    limb = list(QUADRUPED.limbs[2])
    with closing(started("quadruped-locked", 2, task=(2.0, 5.0))) as env:
        force = env._batch.bind("actuator_force")
        action = np.zeros((2, JOINTS))
        places = []
        for step in range(30):
            action[:] = 0.8 * np.sin(step)  # the other legs push, and the targets of this one move
            env.step(action, np.ones(2, dtype=bool))
            places.append(env.snapshot()[:, 7:].copy())
        assert (force[:, limb] == 0.0).all()
        moved = np.ptp(places[6:], axis=0)
        assert (moved[:, limb] < 0.02).all() and (np.delete(moved, limb, axis=1) > 0.1).all()
        env.reset(streams(2))
        env.step(np.zeros((2, JOINTS)), np.ones(2, dtype=bool))
        assert (env._world.fields["dof_frictionloss"] < 1.0).all()


def test_weak_leg_has_its_share_of_the_torque_from_its_onset():
    limb = list(QUADRUPED.limbs[0])
    tasks = np.array([[0.0, 2.0, 0.25], [0.0, 100.0, 0.25]])
    with closing(make("quadruped-weak", threads=1)) as env:
        env.set_tasks(tasks, 1)
        env.reset(streams(2))
        force = env._batch.bind("actuator_force")
        qpos = np.tile(QUADRUPED.rest(), (2, 1))
        qpos[:, 7:] += 0.1
        env.restore(qpos, np.zeros((2, 18)))
        for step in range(4):
            env._world.drive()
            env._ctrl[:] = QUADRUPED.action_centre
            env._batch.forward(None)
            share = force[0] / force[1]
            expected = np.ones(12)
            expected[limb] = 0.25 if step >= 2 else 1.0
            np.testing.assert_allclose(share, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["cripple", "locked", "weak"])
def test_damage_does_what_its_kind_does(kind):
    own = [[1.0, 4.0], [1.0, 4.0], [1.0, 4.0, 0.3]][kind]
    name = ("cripple", "locked", "weak")[kind]
    states = []
    for env_name, task in (("damage", [1.0, 4.0, kind, 0.3]), (name, own)):
        with closing(started(f"quadruped-{env_name}", 2, task=task)) as env:
            for step in range(30):
                env.step(np.full((2, JOINTS), 0.8 * np.sin(step)), np.ones(2, dtype=bool))
            states.append(env.snapshot())
    np.testing.assert_array_equal(*states)


def test_load_has_its_share_of_the_mass_of_the_robot():
    with closing(make("quadruped-load", threads=1)) as env:
        env.set_tasks(np.array([[0.0, 0.0, 0.0], [0.4, 0.1, -0.1]]), 1)
        mass = env._world.fields["body_mass"].sum(axis=1)
        assert mass == pytest.approx([12.7, 1.4 * 12.7])
        place = env._world.fields["body_pos"][1, env.model.body("load").id]
        assert place[:2] == pytest.approx([0.1, -0.1])
        assert env.spec.tasks.test.variables[0].low == env.spec.tasks.variables[0].high == 0.3


def test_failure_leaves_what_other_variations_wrote():
    weak = np.linspace(0.5, 1.5, 12)
    with closing(make("quadruped-cripple-actuator", threads=1)) as env:
        env.set_tasks(np.array([[1.0, 3.0, *weak, 0.0]]), 1)
        gains = env._world.fields["actuator_gainprm"][0, :, 0]
        for _ in range(2):
            env.reset(streams(1))
            np.testing.assert_allclose(gains, 40.0 * weak)
            for _ in range(5):
                env.step(np.zeros((1, JOINTS)), np.ones(1, dtype=bool))
            assert (gains[list(QUADRUPED.limbs[1])] == 0.0).all() and (gains != 0.0).sum() == 9


def test_box_of_gymnasium_reaches_the_ranges_of_the_joints():
    register()
    with closing(gymnasium.make("metarl/quadruped-dir")) as env:
        space = env.action_space
    ranges = bare_model(QUADRUPED).actuator_ctrlrange
    for bound, limit in ((space.low, ranges[:, 0]), (space.high, ranges[:, 1])):
        np.testing.assert_allclose(QUADRUPED.action_centre + 0.4 * bound, limit, rtol=1e-6)
