"""Centre of mass, gains of servos and resistance of joints, measured in the simulation."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
from mujoco_runs import streams

from metarl.core.errors import ConfigError
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.goals.hidden import Forward, RewardTerms
from metarl.envs.locomotion.mechanics import Com, Joint, Servo
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.locomotion.variations import Params
from metarl.envs.registry import make
from metarl.envs.robots.bodies import extent
from metarl.envs.robots.included.gymnasium import ANT, HALF_CHEETAH, HUMANOID
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.envs.robots.robot import bare_model


def build(robot, *variations):
    return MujocoBatchEnv("test", Recipe(robot, Forward(), RewardTerms(), variations), 1)


def model_of(env, task):
    """Returns the model and data of row 0 in the home pose, after another task was written."""
    other = env.spec.tasks.test.sample(np.random.default_rng(5), 1)
    env.set_tasks(np.vstack([other, other]), 1)
    env.set_tasks(np.vstack([task, other[0]]), 1)
    model = env._batch.get_model(0)
    data = mujoco.MjData(model)
    data.qpos[:] = env.robot.rest()
    return model, data


# --- centre of mass


@pytest.mark.parametrize("robot", [ANT, HUMANOID, QUADRUPED], ids=lambda robot: robot.name)
def test_com_moves_the_mass_centre_by_the_torsos_share(robot):
    shift = np.array([0.03, -0.02, 0.01])
    env = build(robot, Com())
    model, data = model_of(env, shift)
    mujoco.mj_forward(model, data)
    bare = bare_model(robot)
    nominal = mujoco.MjData(bare)
    nominal.qpos[:] = robot.rest()
    mujoco.mj_forward(bare, nominal)
    torso = robot.torso()
    axes = nominal.xmat[torso].reshape(3, 3)
    share = bare.body_mass[torso] / bare.body_mass.sum()
    moved = data.subtree_com[0] - nominal.subtree_com[0]
    np.testing.assert_allclose(moved, share * axes @ shift, atol=1e-12)
    # shapes and sites stay where they are, and so does the mass
    np.testing.assert_allclose(data.geom_xpos, nominal.geom_xpos, atol=1e-12)
    np.testing.assert_allclose(data.site_xpos[: bare.nsite], nominal.site_xpos, atol=1e-12)
    np.testing.assert_array_equal(model.body_mass, bare.body_mass)


OFF_CENTRE = """<mujoco><worldbody><geom name="floor" type="plane" size="1 1 1"/><body pos="0 0 1">
<freejoint/><geom name="box" pos="0.1 0 0" type="box" size="0.1 0.1 0.1"/><site pos="0.1 0 0"/>
<body pos="0 0 -0.2"><joint name="j"/><geom size="0.05"/></body></body></worldbody>
<actuator><motor joint="j"/></actuator></mujoco>"""


def shift_centre(folder, text, task):
    """Returns the environment of a model whose mass centre is shifted, and its data in a pose."""
    path = folder / "box.xml"
    path.write_text(text)
    env = build(replace(ANT, name="box", model_file=str(path), healthy=None), Com())
    model, data = model_of(env, task)
    mujoco.mj_forward(model, data)
    return env, data


def test_com_leaves_a_shape_at_the_mass_centre_in_place(tmp_path):
    _, data = shift_centre(tmp_path, OFF_CENTRE, [0.03, 0.0, 0.0])
    np.testing.assert_allclose(data.geom("box").xpos, [0.1, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(data.site_xpos[0], [0.1, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(data.xipos[1], [0.13, 0.0, 1.0], atol=1e-12)


def test_com_tilts_the_held_robot_by_its_static_torque():
    # the torque of gravity about the base that holds the robot still: r x m g
    env = build(QUADRUPED, Com())
    torques = []
    for shift in ([0.0, 0.0, 0.0], [0.02, 0.0, 0.0]):
        model, data = model_of(env, shift)
        data.qpos[2] += 1.0  # no contacts
        mujoco.mj_inverse(model, data)
        torques.append(data.qfrc_inverse[3:6].copy())
    mass = bare_model(QUADRUPED).body_mass[QUADRUPED.torso()]
    # a weight ahead of the base needs a torque that lifts its nose: negative about y
    np.testing.assert_allclose(torques[1] - torques[0], [0.0, -0.02 * mass * 9.81, 0.0], atol=1e-9)


def test_com_is_in_proportion_to_the_robot():
    for robot in (ANT, QUADRUPED, HALF_CHEETAH):
        tasks = Com(train=0.05, test=0.1).tasks(robot)
        size = extent(robot)[[0, 2] if robot.planar else [0, 1, 2]]
        high = [v.high for v in tasks.variables]
        np.testing.assert_allclose(high, 0.05 * size, rtol=0.01)
        test = np.abs(tasks.test.sample(np.random.default_rng(0), 200))
        assert (test >= high).all() and (test <= 0.101 * size).all()
        assert [v.unit for v in tasks.variables] == ["m"] * len(size)


def test_extent_is_that_of_the_standing_quadruped():
    # from the back of the rear feet's bodies to the nose, over both hips, from floor to back
    length, width, height = extent(QUADRUPED)
    assert 0.55 < length < 0.7 and 0.3 < width < 0.35 and 0.33 < height < 0.4


# --- gains


def test_servo_gains_are_those_of_the_measured_torque():
    env = build(QUADRUPED, Servo())
    model, data = model_of(env, [1.25, 0.6])
    offset, speed = 0.1, 0.5
    data.qpos[7:] += offset
    data.qvel[6:] = speed
    data.ctrl[:] = QUADRUPED.action_centre
    mujoco.mj_forward(model, data)
    # kp 40 N m/rad and kv 1 N m s/rad in the model's file
    expected = -1.25 * 40.0 * offset - 0.6 * 1.0 * speed
    np.testing.assert_allclose(data.actuator_force, np.full(12, expected), rtol=1e-9)


VELOCITY = '<velocity name="v" joint="j" kv="2"/>'
MIXED = VELOCITY + '<motor name="m" joint="j" gear="3"/><position name="p" joint="j" kp="5"/>'
ARM = """<mujoco><worldbody><geom name="floor" type="plane" size="1 1 1"/><body>
<joint name="j" axis="0 1 0"/><geom size="0.1" mass="1"/></body></worldbody>
<actuator>{}</actuator></mujoco>"""


@pytest.mark.parametrize(
    ("actuators", "names", "forces"),
    [
        (VELOCITY, ["servo_damping"], [0.5 * 2.0 * (1.0 - 0.2)]),
        (
            MIXED,
            ["servo_stiffness", "servo_damping"],
            [0.5 * 2.0 * (1.0 - 0.2), 1.0, 0.8 * 5.0 * (1.0 - 0.1)],
        ),
    ],
)
def test_servo_of_speed_has_no_stiffness_and_motors_stay(actuators, names, forces, tmp_path):
    path = tmp_path / "arm.xml"
    path.write_text(ARM.format(actuators))
    robot = replace(HALF_CHEETAH, name="arm", model_file=str(path), action_centre=())
    env = build(robot, Servo())
    assert [v.name for v in env.spec.tasks.variables] == names
    model, data = model_of(env, [0.8, 0.5][-len(names) :])
    data.qpos[:], data.qvel[:], data.ctrl[:] = 0.1, 0.2, 1.0
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.actuator_force, forces, rtol=1e-12)


def test_servo_refuses_motors_with_the_reason():
    with pytest.raises(ConfigError, match=r"servo: ant has no servos: its actuators are motors"):
        make("ant-servo", 1)


# --- joints


@pytest.mark.parametrize("robot", [HALF_CHEETAH, QUADRUPED], ids=lambda robot: robot.name)
def test_joint_factors_multiply_passive_torque_and_inertia(robot):
    damping, armature = 3.0, 0.4
    model, data = model_of(build(robot, Joint()), [damping, armature])
    bare = bare_model(robot)
    nominal = mujoco.MjData(bare)
    nominal.qpos[:] = robot.rest()
    joints = slice(3 if robot.planar else 6, None)
    for each in (data, nominal):
        each.qvel[joints] = 0.3
    for each, its in ((model, data), (bare, nominal)):
        mujoco.mj_forward(each, its)
    np.testing.assert_allclose(data.qfrc_damper, damping * nominal.qfrc_damper, rtol=1e-12)
    assert np.abs(nominal.qfrc_damper[joints]).min() > 0.0
    inertia, plain = (np.zeros((model.nv, model.nv)) for _ in range(2))
    mujoco.mj_fullM(model, data, inertia)
    mujoco.mj_fullM(bare, nominal, plain)
    added = np.diag((armature - 1.0) * bare.dof_armature)
    np.testing.assert_allclose(inertia - plain, added, atol=1e-12)


def test_joint_leaves_out_what_the_robot_lacks(tmp_path):
    path = tmp_path / "arm.xml"
    path.write_text(ARM.format(VELOCITY))
    robot = replace(HALF_CHEETAH, name="arm", model_file=str(path))
    with pytest.raises(ConfigError, match="joint: no joint of arm has damping or armature"):
        Joint().tasks(robot)
    path.write_text(ARM.format(VELOCITY).replace('axis="0 1 0"', 'axis="0 1 0" armature="1"'))
    robot = replace(robot, name="heavy arm")
    assert [v.name for v in Joint().tasks(robot).variables] == ["joint_armature"]


# --- all


@pytest.mark.parametrize("variation", [Com(), Servo(), Joint()], ids=lambda each: each.name)
def test_mechanics_are_undone_by_a_task_without_change(variation):
    env, plain = build(QUADRUPED, variation), build(QUADRUPED, Joint())
    neutral = 0.0 if variation.name == "com" else 1.0
    size = len(env.spec.tasks.variables)
    env.set_tasks(env.spec.tasks.test.sample(np.random.default_rng(0), 2), 1)
    env.reset(streams(2))
    for each, count in ((env, size), (plain, 2)):
        each.set_tasks(np.full((2, count), neutral if each is env else 1.0), 1)
        each.reset(streams(2))
        for _ in range(20):
            each.step(np.full((2, 12), 0.3), np.ones(2, dtype=bool))
    # the marks of frames that coincide change roundings
    np.testing.assert_allclose(env.snapshot(), plain.snapshot(), rtol=0.0, atol=1e-9)


def test_mechanics_multiply_with_params():
    env = build(QUADRUPED, Joint(), Params())
    tasks = env.spec.tasks.sample(np.random.default_rng(0), 1)
    env.set_tasks(tasks, 1)
    names = [v.name for v in env.spec.tasks.variables]
    dof = bare_model(QUADRUPED).joint("FL_knee").dofadr[0]
    x = tasks[0, names.index("damping FL_knee")]
    expected = 0.4 * tasks[0, names.index("joint_damping")] * 1.3**x
    assert env._batch.get_model(0).dof_damping[dof] == pytest.approx(expected, rel=1e-12)


BOX = """<mujoco><worldbody><geom name="floor" type="plane" size="1 1 1"/><body pos="0 0 1">
<freejoint/><geom type="box" size="0.2 0.1 0.1" mass="2"/><site name="s"/></body></worldbody>
<actuator><motor site="s" gear="0 0 1 0 0 0"/></actuator></mujoco>"""


def test_com_moves_the_centre_of_a_robot_of_one_body(tmp_path):
    env, data = shift_centre(tmp_path, BOX, [0.02, 0.0, 0.01])
    np.testing.assert_allclose(data.xipos[1], [0.02, 0.0, 1.01], atol=1e-12)
    env.reset(streams(2))
    assert not env.step(np.zeros((2, 1)), np.ones(2, dtype=bool)).fault.any()


def test_joint_factors_scale_what_belongs_to_the_actuator(tmp_path):
    path = tmp_path / "arm.xml"
    servo = '<position name="p" joint="j" kp="5" armature="0.3" damping="1.5" gear="2"/>'
    path.write_text(ARM.format(servo))
    robot = replace(HALF_CHEETAH, name="arm", model_file=str(path), action_centre=())
    env = build(robot, Joint())
    model, data = model_of(env, [3.0, 0.5])
    bare, nominal = bare_model(robot), mujoco.MjData(bare_model(robot))
    for each, its in ((model, data), (bare, nominal)):
        its.qvel[:] = 0.4
        mujoco.mj_forward(each, its)
    plain, inertia = np.zeros((1, 1)), np.zeros((1, 1))
    mujoco.mj_fullM(bare, nominal, plain)
    mujoco.mj_fullM(model, data, inertia)
    assert plain[0, 0] - inertia[0, 0] == pytest.approx(0.5 * 0.3 * 2**2)
    assert (nominal.qfrc_damper != 0.0).all()
    np.testing.assert_allclose(data.qfrc_damper, 3.0 * nominal.qfrc_damper)
    assert env.spec.version == 2
