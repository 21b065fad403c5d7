"""An arm of our own: 5 kg, 4 servos, three links, primitive shapes, nothing to download."""

from __future__ import annotations

from pathlib import Path

from metarl.envs.robots.arms.effector import observe_arm
from metarl.envs.robots.robot import Robot

_HOME = (0.0, 0.2, 1.4, 0.5)  # yaw, shoulder, elbow, wrist [rad]: the hand points down and forward

ARM = Robot(
    "arm",
    str(Path(__file__).parents[1] / "assets" / "arm.xml"),
    frame_skip=5,
    skip_qpos=0,
    planar=False,
    fixed=True,
    effector="gripper",
    reset_noise=0.03,
    home=_HOME,
    action_centre=_HOME,
    action_scale=1.0,  # rad; the servos hold the home pose for an action of zero
    observation=observe_arm(_HOME, 4, "gripper"),
)
