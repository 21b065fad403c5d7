"""A picture of a robot in its home pose."""

from __future__ import annotations

import io

from PIL import Image

from metarl.envs.rendering.marker import Marker
from metarl.envs.rendering.render import render_mujoco
from metarl.envs.robots.robot import Robot, bare_model

SIZE = (640, 480)
"""Width and height of the picture [pixels]."""


def draw_robot(robot: Robot) -> bytes:
    """Returns a picture of a robot in its home pose as PNG, drawn as films are."""
    width, height = SIZE
    nothing = Marker("none", (0.0, 0.0))
    frames = render_mujoco(
        bare_model(robot), robot.rest()[None], nothing, width=width, height=height
    )
    content = io.BytesIO()
    Image.fromarray(next(iter(frames))).save(content, format="PNG")
    return content.getvalue()
