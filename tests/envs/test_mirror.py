"""The left-right symmetry of a robot: what mirrors passes, what does not is named."""

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from metarl.envs import env_checker
from metarl.envs.mirror import NOTHING, describe_mirror, find_mirror
from metarl.envs.registry import make
from metarl.envs.robots.included.gymnasium import ANT, HALF_CHEETAH, HUMANOID
from metarl.envs.robots.included.quadruped import QUADRUPED

MODEL = Path(QUADRUPED.model_file).read_text(encoding="utf-8")


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """Returns a function that makes the quadruped with other text in its model."""
    monkeypatch.chdir(tmp_path)

    def change(old, new):
        assert MODEL.count(old) == 1, old
        path = tmp_path / "changed.xml"
        path.write_text(MODEL.replace(old, new), encoding="utf-8")
        return replace(QUADRUPED, name="changed", model_file=str(path))

    return change


@pytest.mark.parametrize("robot", [ANT, HUMANOID, QUADRUPED], ids=lambda robot: robot.name)
def test_symmetric_robot_passes(robot):
    text = describe_mirror(robot)
    assert text.startswith("mirrored actions move the base in the mirrored way, within ")
    assert "warning" not in text


def test_planar_robot_has_nothing_to_mirror():
    assert describe_mirror(HALF_CHEETAH) == NOTHING


def test_partners_and_signs_of_the_quadruped():
    model = QUADRUPED.model()
    mirror = find_mirror(QUADRUPED, model)
    # front left, front right, rear left, rear right; hips turn about x, the others about y
    assert mirror.actuator.tolist() == [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]
    assert mirror.actuator_sign.tolist() == 4 * [-1.0, 1.0, 1.0]
    assert mirror.dof[6:].tolist() == [6 + i for i in mirror.actuator]
    np.testing.assert_array_equal(mirror.dof_sign[:6], [1, -1, 1, -1, 1, -1])
    sides = {"FL": "FR", "FR": "FL", "RL": "RR", "RR": "RL"}
    for body, other in enumerate(mirror.body):
        leg, _, rest = model.body(body).name.partition("_")
        assert model.body(int(other)).name == (f"{sides[leg]}_{rest}" if leg in sides else leg)


FL_THIGH = '<position class="thigh" name="FL_thigh" joint="FL_thigh"'


@pytest.mark.parametrize(
    ("addition", "is_named"),
    [
        ("", False),
        (' gear="1.2"', True),
        (' gear="-1"', True),
        (' kp="45"', True),
        (' kv="1.3"', True),
        (' forcerange="-6 6"', True),
    ],
)
def test_altered_actuator_is_named(addition, is_named, changed):
    text = describe_mirror(changed(FL_THIGH, FL_THIGH + addition))
    assert text.startswith("warning: not mirror images: FL_thigh and FR_thigh (") == is_named


def test_tilted_axis_is_named(changed):
    joint = '<joint class="hip" name="RR_hip"'
    text = describe_mirror(changed(joint, joint + ' axis="1 0 0.2"'))
    assert text.startswith("warning: not mirror images: RL_hip and RR_hip (")


def test_heavier_leg_and_stiffer_joint_are_named(changed):
    joint = '<joint class="knee" name="FL_knee"'
    text = describe_mirror(changed(joint, joint + ' damping="4"'))
    assert "the actuators are mirror images" in text
    assert text.endswith("but not damping, armature or friction of FL_knee and FR_knee")
    hip = '<joint class="hip" name="FL_hip"/>\n        <inertial pos="0 0.04 0" mass="0.6"'
    text = describe_mirror(changed(hip, hip.replace('"0.6"', '"3"')))
    assert text.endswith("but not masses of FL_hip and FR_hip")


def test_leg_without_partner_leaves_nothing_to_test(changed):
    body = '<body name="FL_hip" pos="0.19 0.05 0">'
    assert describe_mirror(changed(body, body.replace("0.19", "0.1"))) == NOTHING


def test_mirrored_state_has_the_mirrored_acceleration():
    model = QUADRUPED.model()
    mirror, rng = find_mirror(QUADRUPED, model), np.random.default_rng(0)
    data, image = mujoco.MjData(model), mujoco.MjData(model)
    for each in (data, image):
        each.qpos[:] = QUADRUPED.rest()
    shift = 0.1 * rng.normal(size=model.nq - 7)
    data.qpos[7:] += shift
    # a left turn with a roll to the right becomes a right turn with a roll to the left
    quaternion = np.array([0.9, 0.1, 0.2, 0.3])
    data.qpos[3:7] = quaternion / np.linalg.norm(quaternion)
    data.qvel[:] = rng.normal(size=model.nv)
    image.qpos[mirror.qpos[7:]] += mirror.qpos_sign[7:] * shift
    image.qpos[:7] = mirror.qpos_sign[:7] * data.qpos[:7]
    image.qvel[mirror.dof] = mirror.dof_sign * data.qvel
    for each in (data, image):
        each.qpos[2] += 1.0
        mujoco.mj_forward(model, each)
    expected = np.empty(model.nv)
    expected[mirror.dof] = mirror.dof_sign * data.qacc_smooth
    np.testing.assert_allclose(image.qacc_smooth, expected, rtol=1e-6, atol=1e-8)


def test_check_env_has_a_line_about_the_mirror():
    findings = env_checker.check(lambda threads: make("quadruped-vel", threads))
    (mirror,) = (finding for finding in findings if finding.name == "mirror")
    assert mirror.note == describe_mirror(QUADRUPED) and not mirror.violation
