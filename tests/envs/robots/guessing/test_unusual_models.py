"""Models of users with joints, shapes and actuators that are not the usual ones."""

from contextlib import closing

import mujoco
import numpy as np
import pytest
import yaml
from own_robots import MOTORS, edit_model, values

from metarl.core.errors import ConfigError
from metarl.envs.registry import make, own_recipe
from metarl.envs.robots.guessing.guess import guess_robot
from metarl.envs.robots.own import read_robot


def test_ball_joint_is_refused(write):
    path = write()
    path.write_text(path.read_text().replace('axis="0 1 0" range="-60 60"', 'type="ball"', 1))
    with pytest.raises(ConfigError, match="ball joints are not supported"):
        guess_robot(path)


def test_thing_beside_the_robot_does_not_lift_it(write):
    path = write()
    ball = '<body pos="3 0 0"><geom size="0.5"/></body></worldbody>'
    path.write_text(path.read_text().replace("</worldbody>", ball))
    assert values(path)["home"][2] == pytest.approx(0.33)


def test_two_actuators_of_a_joint_have_two_names(write):
    pair = '<position joint="left_hip" kp="9"/><velocity joint="left_hip" ctrlrange="-1 1"/>'
    assert list(values(write(actuators=pair))["actuators"]) == ["left_hip", "left_hip 2"]


def test_geared_servo_is_centred_on_its_length_at_home(write):
    servo = '<position joint="left_hip" kp="20" gear="5"/><position joint="right_hip" kp="20"/>'
    key = '<keyframe><key name="home" qpos="0 0 0.4 1 0 0 0 0.5 0"/></keyframe>'
    row = values(write(actuators=servo, more=key))["actuators"]["left_hip"]
    assert row["centre"] == 2.5 and row["scale"] == 2.0
    assert row["high"] == pytest.approx(5 * np.pi / 3, abs=1e-5)


def test_stiffness_of_a_geared_motor_is_that_of_the_joint(write, robot_file):
    gains = {"scale": 0.4, "low": -1, "high": 1, "stiffness": 10, "damping": 0.5}
    file = robot_file(actuators={name: {"centre": 0, **gains} for name in ("left_hip", "two")})
    motors = MOTORS.format(range='ctrlrange="-4 4"').replace("<motor ", '<motor gear="50" ')
    write(actuators=motors)
    model = read_robot(file).model()
    data = mujoco.MjData(model)
    data.qpos[:] = [0, 0, 5, 1, 0, 0, 0, 0.1, 0.0]
    data.qvel[6] = 0.2
    data.ctrl[:] = [0.3, 0.0]
    mujoco.mj_forward(model, data)
    assert data.qfrc_actuator[6] == pytest.approx(10 * (0.3 - 0.1) - 0.5 * 0.2)


def test_limbs_have_the_names_of_the_file(robot_file):
    recipe = own_recipe(f"{robot_file(limbs={'a': ['two'], 'b': ['left_hip']})}:cripple")
    assert recipe.spec("x").tasks.variables[0].labels == ("a", "b")


def test_one_limb_cannot_be_crippled(robot_file):
    recipe = own_recipe(f"{robot_file(limbs={'all': ['left_hip', 'two']})}:cripple")
    with pytest.raises(ConfigError, match="robot has one limb"):
        recipe.spec("x")


def test_robot_whose_base_has_no_shape_carries_a_payload(write, robot_file):
    file = robot_file()
    inertia = '<inertial mass="3" pos="0 0 0" diaginertia="0.1 0.1 0.1"/>'
    edit_model(file, '<geom type="box" size="0.3 0.15 0.05"/>', inertia)
    with closing(make(f"{file}:payload", threads=1)) as env:
        env.set_tasks(np.array([[0.5, 0.1, 0.0]]), 1)
        env.reset([np.random.default_rng(0)])
        position = env._world.fields["body_pos"][0, env.model.body("payload").id]
        np.testing.assert_allclose(position, [0.1, 0.0, 0.06])


def test_actuator_without_a_joint_cannot_be_locked(write, robot_file):
    site = '<motor name="left_hip" site="push" ctrlrange="-5 3"/>'
    site += '<motor name="two" joint="right_hip" ctrlrange="-4 4"/>'
    file = robot_file()
    model = write(actuators=site)
    model.write_text(model.read_text().replace("<freejoint/>", '<freejoint/><site name="push"/>'))
    with pytest.raises(ConfigError, match="locked: an actuator of robot drives no joint"):
        own_recipe(f"{file}:locked").spec("x")
    assert own_recipe(f"{file}:cripple").spec("x").tasks.variables[0].name == "limb"


def test_payload_is_on_the_robot_and_not_on_a_thing_before_it(write, robot_file):
    file = robot_file()
    thing = '<worldbody><body pos="9 0 0"><geom size="0.1"/><body><geom size="0.1"/></body></body>'
    edit_model(file, "<worldbody>", thing)
    with closing(make(f"{file}:payload", threads=1)) as env:
        parent = env.model.body_parentid[env.model.body("payload").id]
        assert env.model.body(parent).name == "base"


def test_joints_without_a_name_are_numbered(write, robot_file):
    file = robot_file()
    door = '<body pos="{} 0 1"><joint damping="0.1"/><geom size="0.1"/></body>'
    doors = door.format(3) + door.format(4)
    edit_model(file, "</worldbody>", f"{doors}</worldbody>")
    names = [v.name for v in own_recipe(f"{write_home(file, 2)}:params").spec("x").tasks.variables]
    assert [name for name in names if name.startswith("damping")] == [
        "damping joint 3",
        "damping joint 4",
    ]


def write_home(file, count):
    """Adds positions of further joints to the home pose of a file; returns its path."""
    tree = yaml.safe_load(file.read_text())
    tree["home"] += [0.0] * count
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return file
