"""The robots of Gymnasium's v5 environments, with the models of its package."""

from __future__ import annotations

import numpy as np

from metarl.envs.robots.health import HeightBand, OpenBand, Upright
from metarl.envs.robots.robot import Robot

ANT = Robot(
    "ant",
    "ant.xml",
    frame_skip=5,
    skip_qpos=2,
    planar=False,
    healthy=HeightBand(0.2, 1.0),
    # hip and ankle of the legs hip_1 to hip_4: front left, front right, back left, back right
    limbs=((2, 3), (4, 5), (6, 7), (0, 1)),
)
HALF_CHEETAH = Robot("half-cheetah", "half_cheetah.xml", frame_skip=5, skip_qpos=1, planar=True)
WALKER2D = Robot(
    "walker2d",
    "walker2d_v5.xml",
    frame_skip=4,
    skip_qpos=1,
    planar=True,
    healthy=Upright(0.8, 2.0, 1.0),
    reset_noise=5e-3,
    uniform_speeds=True,
    max_observed_speed=10.0,
)
HOPPER = Robot(
    "hopper",
    "hopper.xml",
    frame_skip=4,
    skip_qpos=1,
    planar=True,
    healthy=Upright(0.7, np.inf, 0.2, limit=100.0),
    reset_noise=5e-3,
    uniform_speeds=True,
    max_observed_speed=10.0,
)
HUMANOID = Robot(
    "humanoid",
    "humanoid.xml",
    frame_skip=5,
    skip_qpos=2,
    planar=False,
    healthy=OpenBand(1.0, 2.0),
    reset_noise=1e-2,
    uniform_speeds=True,
    # Gymnasium's rows, without those of the world and the free joint. All are Gymnasium's bit for
    # bit but cfrc_ext, which a batch computes at the start of the last substep and Gymnasium in the
    # last stage of the integrator. cinert contains the masses, so with the variation params a
    # Humanoid observes part of its task.
    derived=(("cinert", 1), ("cvel", 1), ("qfrc_actuator", 6), ("cfrc_ext", 1)),
    by_mass_centre=True,
)
ROBOTS = {robot.name: robot for robot in (ANT, HALF_CHEETAH, WALKER2D, HOPPER, HUMANOID)}
