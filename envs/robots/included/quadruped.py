"""A four-legged robot of our own: 12.7 kg, 12 servos, primitive shapes, nothing to download."""

from __future__ import annotations

from pathlib import Path

from metarl.envs.robots.health import Standing
from metarl.envs.robots.observation import observe_base
from metarl.envs.robots.robot import Robot

HEIGHT = 0.285
"""Height of the trunk in the home pose [m]."""

LEG = (0.0, 0.8, -1.6)
"""Angles of hip, thigh and knee in the home pose [rad]; the feet are below the hips."""

_JOINTS = 4 * LEG
_HOME = (0.0, 0.0, HEIGHT, 1.0, 0.0, 0.0, 0.0, *_JOINTS)

QUADRUPED = Robot(
    "quadruped",
    str(Path(__file__).parents[1] / "assets" / "quadruped.xml"),
    frame_skip=5,
    skip_qpos=2,
    planar=False,
    healthy=Standing(0.12, 0.6, tilt=1.0),
    reset_noise=0.03,
    home=_HOME,
    action_centre=_JOINTS,
    action_scale=0.4,  # rad; the servos hold the home pose for an action of zero
    observation=observe_base(_HOME, 18),
    # front left, front right, rear left, rear right
    limbs=((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)),
)
