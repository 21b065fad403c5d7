"""Names and units of observed numbers and of controls."""

from __future__ import annotations

from collections.abc import Callable

import mujoco

from metarl.core.env import Quantity

_AXES = ("x", "y", "z")
_ROTATION = ("quaternion w", "quaternion x", "quaternion y", "quaternion z")

_INERTIA = [("inertia xx", "kg m^2"), ("inertia yy", "kg m^2"), ("inertia zz", "kg m^2")]
_INERTIA += [("inertia xy", "kg m^2"), ("inertia xz", "kg m^2"), ("inertia yz", "kg m^2")]
_INERTIA += [(f"mass x {axis}", "kg m") for axis in _AXES] + [("mass", "kg")]

_BODY_FIELDS = {
    "cfrc_ext": [(f"contact torque {axis}", "N m") for axis in _AXES]
    + [(f"contact force {axis}", "N") for axis in _AXES],
    "cvel": [(f"turn {axis}", "rad/s") for axis in _AXES]
    + [(f"velocity {axis}", "m/s") for axis in _AXES],
    "cinert": _INERTIA,
}
"""Numbers of a row of MjData's fields with a row for each body."""


def positions(model: mujoco.MjModel) -> list[Quantity]:
    """Returns the numbers of qpos."""
    found = []
    for joint in range(model.njnt):
        name, kind = _joint(model, joint)
        if kind == mujoco.mjtJoint.mjJNT_FREE:
            found += [Quantity(f"{name} position {axis}", "m") for axis in _AXES]
        if kind in (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL):
            found += [Quantity(f"{name} {part}", "1") for part in _ROTATION]
        elif kind in (mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE):
            is_hinge = kind == mujoco.mjtJoint.mjJNT_HINGE
            found.append(Quantity(f"{name} position", "rad" if is_hinge else "m"))
    return found


def speeds(model: mujoco.MjModel) -> list[Quantity]:
    """Returns the numbers of qvel."""
    return _of_dofs(model, "velocity", "turn", "speed", ("m/s", "rad/s"))


def forces(model: mujoco.MjModel) -> list[Quantity]:
    """Returns the numbers of the generalised forces qfrc_...."""
    return _of_dofs(model, "force", "torque", "force", ("N", "N m"))


def _of_dofs(
    model: mujoco.MjModel, linear: str, angular: str, single: str, units: tuple[str, str]
) -> list[Quantity]:
    found = []
    for joint in range(model.njnt):
        name, kind = _joint(model, joint)
        if kind == mujoco.mjtJoint.mjJNT_FREE:
            found += [Quantity(f"{name} {linear} {axis}", units[0]) for axis in _AXES]
        if kind in (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL):
            found += [Quantity(f"{name} {angular} {axis}", units[1]) for axis in _AXES]
        else:
            is_hinge = kind == mujoco.mjtJoint.mjJNT_HINGE
            found.append(Quantity(f"{name} {single}", units[1] if is_hinge else units[0]))
    return found


def _joint(model: mujoco.MjModel, joint: int) -> tuple[str, mujoco.mjtJoint]:
    name = model.joint(joint).name or model.body(int(model.jnt_bodyid[joint])).name
    return name or f"joint {joint}", mujoco.mjtJoint(model.jnt_type[joint])


_FIELDS: dict[str, Callable[[mujoco.MjModel], list[Quantity]]] = {
    "qpos": positions,
    "qvel": speeds,
    "qfrc_actuator": forces,
}


def of_field(model: mujoco.MjModel, field: str, first: int, count: int) -> list[Quantity]:
    """Returns the numbers of `count` rows of a field of MjData.

    Args:
        model: The model.
        field: qpos, qvel, qfrc_actuator, cfrc_ext, cvel or cinert.
        first: First row.
        count: Number of rows.
    """
    rows = range(first, first + count)
    if field in _FIELDS:
        return [_FIELDS[field](model)[row] for row in rows]
    bodies = [model.body(row).name or f"body {row}" for row in rows]
    return [
        Quantity(f"{body} {name}", unit) for body in bodies for name, unit in _BODY_FIELDS[field]
    ]


def controls(model: mujoco.MjModel) -> list[Quantity]:
    """Returns the controls: positions for servos, else in the unit of the actuator's model."""
    found, kinds = [], (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)
    for actuator in range(model.nu):
        has_joint = model.actuator_trntype[actuator] in map(int, kinds)
        unit = "1"
        if has_joint and model.actuator_biasprm[actuator, 1] < 0.0:
            joint = int(model.actuator_trnid[actuator, 0])
            unit = "rad" if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE else "m"
        found.append(Quantity(model.actuator(actuator).name or f"actuator {actuator}", unit))
    return found
