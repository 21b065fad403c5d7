"""Arms whose joints follow others: targets on the curve of the constraint, and refusals."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from metarl.core.errors import ConfigError
from metarl.envs.locomotion.goals.reach import Reachable
from metarl.envs.registry import make
from metarl.envs.robots.arms.couplings import find_couplings
from metarl.envs.robots.guessing.guess import guess_robot, robot_from_mjcf
from metarl.envs.robots.guessing.guesses import to_yaml

COUPLED = """<mujoco><worldbody><body pos="0 0 1">
<joint name="one" axis="0 1 0" range="-90 90"/><geom size="0.01" mass="1"/>
<body name="b" pos="0.3 0 0"><joint name="two" axis="0 1 0" range="-60 90" {ref}/>
<geom size="0.01" mass="1"/><site name="gripper" pos="0.3 0 0"/></body></body>
<body pos="3 0 1"><joint name="far" axis="0 1 0" range="-30 30"/>
<geom size="0.01" mass="1"/></body>
</worldbody><tendon><fixed name="t"><joint joint="one" coef="1"/><joint joint="two" coef="1"/>
</fixed></tendon><equality>{equality}</equality><actuator>{actuators}</actuator></mujoco>"""
MIMIC = '<joint joint1="two" joint2="{}" polycoef="{} -1 0.5 0 0"/>'
POSITION = '<position joint="{}" kp="9" inheritrange="1"/>'
ALL = POSITION.format("one") + POSITION.format("far")
TENDON = '<position tendon="t" kp="9" ctrlrange="-1 1"/>'


@pytest.fixture
def write(tmp_path):
    def write_arm(equality="", actuators=ALL, ref=""):
        path = tmp_path / "arm.xml"
        text = COUPLED.format(equality=equality, actuators=actuators, ref=ref)
        path.write_text(text.replace("<worldbody>", '<option gravity="0 0 0"/><worldbody>'))
        return path

    return write_arm


def place(one, two):
    """Returns the place of the gripper, with y to the side of the arm's plane."""
    x = 0.3 * np.cos(one) + 0.3 * np.cos(one + two)
    z = 1.0 - 0.3 * np.sin(one) - 0.3 * np.sin(one + two)
    return np.stack([x, 0.0 * x, z], axis=-1)


@pytest.mark.parametrize("constant", [0.0, 0.2])
def test_targets_of_coupled_joints_can_be_reached(write, constant):
    robot = robot_from_mjcf(write(MIMIC.format("one", constant)), effector="gripper")
    points = Reachable(robot).sample(np.random.default_rng(1), 300)
    one = np.linspace(-np.pi / 2, np.pi / 2, 20_001)
    two = constant - one + 0.5 * one**2
    is_allowed = (two >= -np.pi / 3) & (two <= np.pi / 2)
    curve = place(one, two)[is_allowed]
    gaps = np.linalg.norm(points[:, None] - curve, axis=2).min(axis=1)
    assert gaps.max() < 1e-4
    # uniform in the angle of the leader: a quarter of the targets for a quarter of its range
    allowed = np.flatnonzero(is_allowed)
    nearest = np.linalg.norm(points[:, None] - curve[::20], axis=2).argmin(axis=1)
    assert np.mean(nearest < len(allowed) / 80) == pytest.approx(0.25, abs=0.08)


def test_targets_follow_a_leader_beside_the_way(write):
    both = write(MIMIC.format("far", 0.0), ALL)
    points = Reachable(robot_from_mjcf(both, effector="gripper")).sample(
        np.random.default_rng(1), 300
    )
    # |two| <= 30 degrees + 0.5 (30 degrees)^2, so the arm is never bent more
    largest = np.pi / 6 + 0.5 * (np.pi / 6) ** 2
    reach = np.linalg.norm(points - [0.0, 0.0, 1.0], axis=1)
    assert reach.min() >= np.linalg.norm(place(0.0, largest) - [0.0, 0.0, 1.0]) - 1e-9
    assert reach.min() < 0.6 - 0.01


def test_coupling_is_that_which_the_physics_holds(write):
    model = mujoco.MjModel.from_xml_path(str(write(MIMIC.format("one", 0.2), ref='ref="20"')))
    data = mujoco.MjData(model)
    data.qpos[0] = 0.4
    for each in find_couplings(model):
        each.apply(model, data.qpos)
    mujoco.mj_forward(model, data)
    is_equality = data.efc_type == int(mujoco.mjtConstraint.mjCNSTR_EQUALITY)
    np.testing.assert_allclose(data.efc_pos[is_equality], 0.0, atol=1e-12)


def test_start_keeps_the_coupling_in_place_and_speed(write):
    """At one = 0.3 + noise, two = 0.2 - one + one^2 / 2 moves by one - 1 as fast."""
    robot = robot_from_mjcf(write(MIMIC.format("one", 0.2)), effector="gripper")
    robot = replace(robot, home=(0.3, 0.0, 0.1), reset_noise=0.2)
    rest = robot.rest()
    np.testing.assert_allclose(rest, [0.3, 0.2 - 0.3 + 0.045, 0.1], atol=1e-15)
    draws = [robot.initial_state(np.random.default_rng(i), rest) for i in range(20)]
    qpos, qvel = (np.array(each) for each in zip(*draws, strict=True))
    one = qpos[:, 0]
    assert np.ptp(one) > 0.2
    np.testing.assert_allclose(qpos[:, 1], 0.2 - one + 0.5 * one**2, atol=1e-15)
    np.testing.assert_allclose(qvel[:, 1], (one - 1.0) * qvel[:, 0], atol=1e-15)
    free = replace(robot, model_file=str(write().rename(write().with_name("free.xml"))))
    plain = [free.initial_state(np.random.default_rng(i), rest) for i in range(20)]
    for own, other in zip(draws, plain, strict=True):  # of the other joints, the same draws
        for coupled, uncoupled in zip(own, other, strict=True):
            np.testing.assert_array_equal(coupled[[0, 2]], uncoupled[[0, 2]])


def test_joint_that_is_held_starts_at_its_place(write):
    held = '<joint joint1="far" polycoef="0.1 0 0 0 0"/>'
    path = write(held, ALL + POSITION.format("two"))
    robot = replace(robot_from_mjcf(path, effector="gripper"), reset_noise=0.2)
    qpos, qvel = robot.initial_state(np.random.default_rng(0), robot.rest())
    assert qpos[2] == 0.1 and qvel[2] == 0.0


def test_arm_of_fewer_actuators_than_joints_is_refused(write):
    path = write(actuators=TENDON + POSITION.format("far"))
    hint = "as many actuators as joints that do not follow others"
    with pytest.raises(ConfigError, match=hint) as error:
        robot_from_mjcf(path, effector="gripper")
    assert "\n" not in str(error.value)


def test_two_actuators_of_a_tendon_and_a_joint_are_enough(write):
    path = write(actuators=TENDON + ALL)
    assert robot_from_mjcf(path, effector="gripper").effector == "gripper"


def test_coupled_arm_raises_the_versions_of_start_and_reach(write):
    versions = []
    for equality, actuators in ((MIMIC.format("one", 0), ALL), ("", ALL + POSITION.format("two"))):
        path = write(equality, actuators).with_suffix(".yaml")
        path.write_text(to_yaml(guess_robot(path.with_suffix(".xml")), "arm.xml"))
        env = make(f"{path}:reach", 1)
        versions.append(env.spec.version - env.robot.definition)
    assert versions == [3, 1]


def test_loop_that_random_poses_open_is_refused_by_name(write):
    loop = '<connect body1="b" anchor="0.3 0 0" body2="world"/>'
    robot = robot_from_mjcf(write(loop, ALL + POSITION.format("two")), effector="gripper")
    with pytest.raises(ConfigError, match="arm: nearly all random poses break its equality"):
        Reachable(robot).sample(np.random.default_rng(1), 3)
