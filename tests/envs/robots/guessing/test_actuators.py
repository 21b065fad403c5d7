"""Guesses of controls: output zero keeps the home pose, and outputs reach the whole range."""

import mujoco
import numpy as np
import pytest

from metarl.core.errors import ConfigError
from metarl.envs.robots.guessing.guess import guess_robot, robot_from_mjcf
from metarl.envs.robots.guessing.guesses import to_yaml

MODEL = """<mujoco><worldbody><body pos="0 0 1"><freejoint/><geom size="0.1"/>
<body pos="0.2 0 0"><joint name="a" axis="0 1 0"/><geom size="0.05" pos="0.1 0 0"/>
<body pos="0.2 0 0"><joint name="b" axis="0 1 0"/><geom size="0.05" pos="0.1 0 0"/></body></body>
</body></worldbody>
<tendon><fixed name="t"><joint joint="a" coef="1"/><joint joint="b" coef="-0.5"/></fixed></tendon>
<actuator>{}<position name="last" joint="b" ctrlrange="-1 1"/></actuator>
<keyframe><key name="home" qpos="0 0 1 1 0 0 0 0.4 -0.4"/></keyframe></mujoco>"""
GRIPPER = (
    '<general name="x" tendon="t" biastype="affine" gainprm="0.4" biasprm="1 -100" '
    'ctrlrange="0 255"/>'
)


@pytest.fixture
def guess(tmp_path):
    def guess_actuator(actuator):
        path = tmp_path / "robot.xml"
        path.write_text(MODEL.format(actuator))
        found = {guess.key: guess for guess in guess_robot(path)}["actuators"]
        return path, next(iter(found.value.values())), found.reason

    return guess_actuator


@pytest.mark.parametrize(
    ("actuator", "centre", "scale"),
    [
        ('<motor name="x" joint="a" ctrlrange="0 10"/>', 0.0, 10.0),
        ('<motor name="x" joint="a" ctrlrange="-6 0"/>', 0.0, 6.0),
        ('<motor name="x" joint="a" ctrlrange="2 10"/>', 2.0, 8.0),
        ('<motor name="x" joint="a" ctrlrange="-5 3"/>', 0.0, 4.0),
        ('<velocity name="x" joint="a" kv="2" ctrlrange="0 3"/>', 0.0, 3.0),
        ('<position name="x" joint="a" kp="9" ctrlrange="0 0.4"/>', 0.4, 0.4),
        ('<position name="x" joint="a" kp="9" ctrlrange="-1 1"/>', 0.4, 0.4),
        ('<position name="x" joint="a" kp="9" gear="2" ctrlrange="-2 2"/>', 0.8, 0.8),
        ('<position name="x" tendon="t" kp="9" ctrlrange="-1 1"/>', 0.6, 1.0),
        (GRIPPER, 147.5, 127.5),  # (100 x 0.6 - 1) / 0.4
    ],
)
def test_control_reaches_its_range_from_its_centre(guess, actuator, centre, scale):
    _, row, reason = guess(actuator)
    assert (row["centre"], row["scale"]) == (pytest.approx(centre), pytest.approx(scale))
    is_at_an_end = row["centre"] in (row["low"], row["high"])
    assert is_at_an_end == ("output 1 or -1 is the other end" in reason)


@pytest.mark.parametrize(
    "actuator", ['<position name="x" tendon="t" kp="9" ctrlrange="-1 1"/>', GRIPPER]
)
def test_output_zero_of_a_tendon_servo_holds_home(guess, actuator):
    path, *_ = guess(actuator)
    robot = robot_from_mjcf(path)
    model = robot.model()
    data = mujoco.MjData(model)
    data.qpos[:], data.ctrl[:] = robot.rest(), robot.action_centre
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.actuator_force[0], 0.0, atol=1e-5)


def test_file_says_why_an_output_reaches_the_other_end(guess):
    path, *_ = guess('<motor name="x" joint="a" ctrlrange="0 10"/>')
    line = next(
        row for row in to_yaml(guess_robot(path), "robot.xml").splitlines() if "control =" in row
    )
    assert line.startswith("actuators: #") and "centre at one end of the range" in line


@pytest.mark.parametrize(
    ("actuator", "message"),
    [
        (
            '<position name="x" joint="a" ctrlrange="-1 1" delay="0.01" nsample="6"/>',
            "robot.xml: actuator x has a delay of its own.* use the key delay",
        ),
        ('<pid name="x" joint="a" kp="9"/>', "robot.xml: an actuator takes several controls"),
    ],
)
def test_actuator_that_a_reset_would_break_is_refused(guess, actuator, message):
    with pytest.raises(ConfigError, match=message):
        guess(actuator)
