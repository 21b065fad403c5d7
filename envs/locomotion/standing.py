"""The ground of variations that change it: the only thing on which the robot stands."""

from __future__ import annotations

import copy

import mujoco

from metarl.core.errors import ConfigError
from metarl.envs.robots.ground import list_beside
from metarl.envs.robots.robot import Robot, bare_model

CONTACT_FIELDS = (
    "contype conaffinity condim priority friction solmix solref solimp margin gap group rgba "
    "material"
).split()
"""Fields of a geom that its copy keeps."""


def refuse_other_ground(variation: str, robot: Robot) -> None:
    """Refuses a variation of the ground if something else carries the robot at home, too.

    Raises:
        ConfigError: A geom besides the ground does; the message names it.
    """
    model = bare_model(robot)
    if others := list_beside(model, model.geom(robot.ground).id, robot.rest()):
        hint = "make it the ground (key ground), or switch its contacts off"
        found = f"stands on {others[0]} beside the ground {robot.ground}"
        raise ConfigError(f"{variation}: {robot.name} {found}; {hint}")


def move_to_world(spec: mujoco.MjSpec, name: str) -> mujoco.MjsGeom:
    """Returns a geom, or a copy in the axes of the world in place of one in a body or a frame."""
    geom = spec.geom(name)
    if geom.parent == spec.worldbody and geom.frame is None:
        return geom
    values = {field: copy.copy(getattr(geom, field)) for field in CONTACT_FIELDS}
    spec.delete(geom)
    geom = spec.worldbody.add_geom(name=name)
    for field, value in values.items():
        setattr(geom, field, value)
    return geom
