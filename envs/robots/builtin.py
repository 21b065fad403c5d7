"""The robots that metarl brings along, by name."""

from __future__ import annotations

from metarl.envs.robots import gymnasium
from metarl.envs.robots.quadruped import QUADRUPED
from metarl.envs.robots.robot import Robot

ROBOTS: dict[str, Robot] = {**gymnasium.ROBOTS, QUADRUPED.name: QUADRUPED}
