"""The warning about MuJoCo's solver, and the robot's line of check-env."""

import re
from dataclasses import replace

import mujoco
import pytest

from metarl.envs import env_checker
from metarl.envs.registry import make
from metarl.envs.robots.guessing.inspection import describe_solver, inspect_robot
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.envs.robots.robot import Physics


def model(joints, option=""):
    links = "".join(f'<body pos="{i} 0 0"><joint/><geom size="0.1"/></body>' for i in range(joints))
    text = f"<mujoco><option {option}/><worldbody>{links}</worldbody></mujoco>"
    return mujoco.MjModel.from_xml_string(text)


@pytest.mark.parametrize(
    ("joints", "option", "version", "is_wrong"),
    [
        (60, "", "4.0.0", True),
        (59, "", "4.0.0", False),
        (2, 'jacobian="sparse"', "4.0.0", True),
        (60, 'jacobian="dense"', "4.0.0", False),
        (60, 'solver="CG"', "4.0.0", False),
        (60, "", "4.0.1", False),
    ],
)
def test_wrong_solver_is_named(joints, option, version, is_wrong):
    warning = describe_solver(model(joints, option), version)
    assert bool(warning) == is_wrong and ("4.0.1" in warning) == is_wrong


def test_check_env_tells_what_the_robot_does():
    findings = env_checker.check(lambda threads: make("quadruped-dir", threads))
    (robot,) = (finding for finding in findings if finding.name == "robot")
    assert robot.note.startswith("stands 2 s without an action")
    assert "each of the 12 actuators moves a joint" in robot.note and not robot.violation


def test_inspection_tries_a_thousand_random_steps():
    speed = inspect_robot(QUADRUPED)[-1]
    assert speed.endswith("; no warning of MuJoCo in 1,000 random steps")
    # the servos diverge in steps of 0.1 s
    stiff = replace(QUADRUPED, physics=Physics(0.1, "elliptic", "Euler"), action_scale=40.0)
    speed = inspect_robot(stiff)[-1]
    assert re.match(r"warning: \d+ warnings of MuJoCo in 1,000 random steps", speed)
