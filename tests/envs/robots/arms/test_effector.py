"""Arms of users: their end effector, guessed, read and refused, and the environment of it."""

from contextlib import closing

import mujoco
import numpy as np
import pytest
import yaml

from metarl.config.presets import preset_names
from metarl.core.errors import ConfigError
from metarl.envs.registry import UnknownEnvironment, make
from metarl.envs.robots.arms.effector import find_effector, find_idle_joint, guess_effector
from metarl.envs.robots.guessing.guess import guess_robot, robot_from_mjcf
from metarl.envs.robots.guessing.guesses import to_yaml
from metarl.envs.robots.own import read_robot

ARM = """
<mujoco>
  <worldbody>
    <body name="base" pos="0 0 0.1">
      <geom size="0.05"/>
      <body name="upper">
        <joint name="shoulder" axis="0 1 0" range="-90 90"/>
        <geom type="capsule" size="0.02" fromto="0 0 0.1 0 0 0.3"/>
        <body name="{last}" pos="0 0 0.4">
          <joint name="elbow" axis="0 1 0" range="10 120"/>
          <geom type="capsule" size="0.02" fromto="0 0 0.05 0 0 0.2"/>
          {site}
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>{actuators}</actuator>
</mujoco>
"""
BOTH = """<motor name="a" joint="shoulder" ctrlrange="-6 6"/>
<position name="b" joint="elbow" kp="30" ctrlrange="0 2"/>"""
MOTORS = """<motor name="a" joint="shoulder" ctrlrange="-6 6"/>
<motor name="b" joint="elbow" ctrlrange="-3 3"/>"""


@pytest.fixture
def write_arm(tmp_path):
    def write(last="lower", site="", actuators=BOTH):
        path = tmp_path / "robot.xml"
        path.write_text(ARM.format(last=last, site=site, actuators=actuators))
        return path

    return write


@pytest.fixture
def arm_file(write_arm):
    def write(**changes):
        path = write_arm().with_suffix(".yaml")
        tree = yaml.safe_load(to_yaml(guess_robot(path.with_suffix(".xml")), "robot.xml"))
        path.write_text(yaml.safe_dump(tree | changes, sort_keys=False))
        return path

    return write


def guessed(path):
    return {guess.key: guess.value for guess in guess_robot(path)}


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({}, "lower", "the end of the longest chain"),
        ({"last": "Left_Hand"}, "Left_Hand", "the body whose name"),
        ({"last": "knee"}, "knee", "the end of the longest chain"),  # not an ee
        ({"site": '<site name="attachment_site"/>'}, "attachment_site", "the site whose name"),
        ({"last": "hand", "site": '<site name="ee"/>'}, "ee", "the site whose name"),
        ({"last": "hand", "site": '<site name="lamp"/>'}, "hand", "the body whose name"),
    ],
)
def test_effector_is_guessed_by_name_then_by_chain(write_arm, changes, name, reason):
    model = mujoco.MjModel.from_xml_path(str(write_arm(**changes)))
    found = guess_effector(model)
    assert found[0] == name and found[1].startswith(reason)


def test_guess_of_an_arm_has_no_feet_and_no_health(write_arm):
    tree = guessed(write_arm())
    assert tree["base"] == "fixed" and tree["limbs"] == {"a": ["a"], "b": ["b"]}
    # the model's pose of 0 rad is outside the elbow's range
    np.testing.assert_allclose(tree["home"], [0.0, np.radians(10.0)], atol=1e-6)
    assert not {"health", "feet", "bonus", "top_speed"} & set(tree)
    assert tree["actuators"]["b"]["scale"] == 1.0


def test_motors_of_an_arm_become_servos(write_arm):
    table = guessed(write_arm(actuators=MOTORS))["actuators"]
    assert (table["a"]["stiffness"], table["b"]["stiffness"]) == (10.0, 5.0)
    assert table["b"]["low"] == pytest.approx(np.radians(10.0), abs=1e-6)


def test_joint_without_an_actuator_is_refused_by_name(write_arm):
    path = write_arm(actuators='<motor joint="elbow" ctrlrange="-1 1"/>')
    with pytest.raises(ConfigError, match="no arm, because its joint shoulder has no actuator"):
        guess_robot(path)


def test_joints_that_a_tendon_or_a_constraint_moves_are_driven(write_arm):
    text = write_arm(actuators='<position tendon="t" kp="1" ctrlrange="0 1"/>').read_text()
    ends = '<joint joint="shoulder" coef="1"/>', '<joint joint="elbow" coef="1"/>'
    constraint = '<equality><joint joint1="elbow" joint2="shoulder"/></equality></mujoco>'
    for own, extra, idle in (
        (ends[0] + ends[1], "</mujoco>", ""),
        (ends[0], "</mujoco>", "elbow"),
        (ends[0], constraint, ""),
    ):
        tendon = f'<tendon><fixed name="t">{own}</fixed></tendon>{extra}'
        model = mujoco.MjModel.from_xml_string(text.replace("</mujoco>", tendon))
        assert find_idle_joint(model, find_effector(model, "lower")) == idle


def test_free_body_beside_an_arm_is_refused(arm_file):
    file = arm_file()
    model = file.with_suffix(".xml")
    ball = '<body pos="1 0 1"><freejoint/><geom size="0.1"/></body></worldbody>'
    model.write_text(model.read_text().replace("</worldbody>", ball))
    with pytest.raises(ConfigError, match="base: fixed: the model has a free joint"):
        read_robot(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"effector": "lowr"}, "effector = 'lowr': must be a site or a body of the model; did you"),
        ({"effector": "base"}, "effector = 'base': must be moved by a joint"),
        ({"feet": []}, "unknown key feet; a fixed base has none"),
        ({"contacts": "feet"}, "contacts = 'feet': must be all or none"),
        ({"base": "free"}, "unknown key effector"),
        ({"base": "arm"}, "unknown key effector"),
    ],
)
def test_file_of_an_arm_with_a_wrong_value_is_refused(arm_file, changes, message):
    with pytest.raises(ConfigError) as error:
        read_robot(arm_file(**changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_arm_of_a_file_reaches(arm_file):
    file = arm_file(contacts="none", control_cost=0.5)
    with closing(make(f"{file}:reach-payload", threads=1)) as env:
        assert (env.model.geom_contype == 0).sum() == env.model.ngeom - 1  # but the floor
        assert [each.name for each in env.spec.tasks.variables] == [
            *("target_x", "target_y", "target_z", "payload"),
        ]
        env.set_tasks(np.array([[0.1, 0.0, 0.3, 0.0]]), 1)
        env.reset([np.random.default_rng(0)])
        step = env.step(np.array([[0.2, -0.1]]), np.ones(1, dtype=bool))
        distance = np.linalg.norm(step.obs[0, -3:] - [0.1, 0.0, 0.3])
        assert step.reward[0] == pytest.approx(-distance - 0.5 * 0.05)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ("dir", "no goal-variation of this robot: its base is fixed, so its goal is reach"),
        ("payload", "no goal-variation of this robot: its base is fixed"),
        ("raech", r"of this robot; did you mean reach\? \(reach, params, payload"),
        ("reach-terrain", "terrain is not for robot"),
    ],
)
def test_goal_that_an_arm_cannot_have_is_refused(arm_file, parts, reason):
    with pytest.raises(UnknownEnvironment, match=reason):
        make(f"{arm_file()}:{parts}", threads=1)


def test_arm_from_python_takes_other_keys(write_arm):
    robot = robot_from_mjcf(write_arm(), effector="upper", contacts="none")
    assert robot.effector == "upper" and robot.fixed and robot.feet_only


def test_arms_have_the_presets_of_the_arm():
    assert "arm-reach" in preset_names("robot.yaml:reach-payload")
    assert "arm-reach" in preset_names("panda-reach-weak")
    assert preset_names("robot.yaml:dir") == ["robot"]
