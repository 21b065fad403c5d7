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

_SENSORS: dict[str, tuple[str, str]] = {
    "ACCELEROMETER": ("xyz", "m/s^2"),
    "VELOCIMETER": ("xyz", "m/s"),
    "GYRO": ("xyz", "rad/s"),
    "FORCE": ("xyz", "N"),
    "TORQUE": ("xyz", "N m"),
    "MAGNETOMETER": ("xyz", "T"),
    "CAMPROJECTION": ("xy", "pixel"),
    "TOUCH": ("", "N"),
    "BALLQUAT": ("wxyz", "1"),
    "BALLANGVEL": ("xyz", "rad/s"),
    "FRAMEPOS": ("xyz", "m"),
    "FRAMEQUAT": ("wxyz", "1"),
    "FRAMEXAXIS": ("xyz", "1"),
    "FRAMEYAXIS": ("xyz", "1"),
    "FRAMEZAXIS": ("xyz", "1"),
    "FRAMELINVEL": ("xyz", "m/s"),
    "FRAMEANGVEL": ("xyz", "rad/s"),
    "FRAMELINACC": ("xyz", "m/s^2"),
    "FRAMEANGACC": ("xyz", "rad/s^2"),
    "SUBTREECOM": ("xyz", "m"),
    "SUBTREELINVEL": ("xyz", "m/s"),
    "SUBTREEANGMOM": ("xyz", "kg m^2/s"),
    "INSIDESITE": ("", "1"),
    "GEOMDIST": ("", "m"),
    "GEOMNORMAL": ("xyz", "1"),
    "GEOMFROMTO": ("from x,from y,from z,to x,to y,to z", "m"),
    "E_POTENTIAL": ("", "J"),
    "E_KINETIC": ("", "J"),
    "CLOCK": ("", "s"),
}
"""Numbers of a sensor, a letter each or with commas, and their unit, by its type mjSENS_..."""

_ALONG = {"POS": ("rad", "m"), "VEL": ("rad/s", "m/s"), "FRC": ("N m", "N")}
"""Units for a hinge, and for a slide or tendon, of sensors whose type ends so."""

_CONTACT = [("found", "1"), ("force", "N"), ("torque", "N m"), ("distance", "m"), ("place", "m")]
_CONTACT += [("normal", "1"), ("tangent", "1"), ("velocity", "m/s"), ("turn", "rad/s")]
_RAY = [("distance", "m"), ("direction", "1"), ("origin", "m"), ("place", "m"), ("normal", "1")]
_RAY += [("depth", "m")]
_SCALARS = ("found", "distance", "depth")

_RECORDS = {"CONTACT": _CONTACT, "RANGEFINDER": _RAY}
"""Numbers that a sensor may have for each contact or ray; those not in _SCALARS have axes."""

LAST_OUTPUT = "last output for "
"""Beginning of the name of an observed output of the policy; the actuator's name follows."""


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


def joint_name(model: mujoco.MjModel, joint: int) -> str:
    """Returns the name of a joint, or that of its body, or its number."""
    name = model.joint(joint).name or model.body(int(model.jnt_bodyid[joint])).name
    return name or f"joint {joint}"


def _joint(model: mujoco.MjModel, joint: int) -> tuple[str, mujoco.mjtJoint]:
    return joint_name(model, joint), mujoco.mjtJoint(model.jnt_type[joint])


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


def has_units(model: mujoco.MjModel, sensor: str) -> bool:
    """Tells if the units of a sensor are known; those of users' code and plug-ins are not."""
    kind = _kind(model, model.sensor(sensor).id)
    return kind in _SENSORS or kind in _RECORDS or kind[-3:] in _ALONG


def of_sensor(model: mujoco.MjModel, sensor: str) -> list[Quantity]:
    """Returns the numbers of a sensor whose units are known."""
    index = model.sensor(sensor).id
    kind = _kind(model, index)
    if kind in _RECORDS:
        return _of_records(model, index, _RECORDS[kind])
    if kind not in _SENSORS:
        return [Quantity(sensor, _ALONG[kind[-3:]][0 if _is_of_hinge(model, index) else 1])]
    names, unit = _SENSORS[kind]
    parts = names.split(",") if "," in names else list(names)
    return [Quantity(f"{sensor} {part}", unit) for part in parts] or [Quantity(sensor, unit)]


def _kind(model: mujoco.MjModel, sensor: int) -> str:
    return mujoco.mjtSensor(model.sensor_type[sensor]).name.removeprefix("mjSENS_")


def _is_of_hinge(model: mujoco.MjModel, sensor: int) -> bool:
    """Tells if a sensor is of a hinge, or of an actuator of one."""
    kind, target = model.sensor_objtype[sensor], int(model.sensor_objid[sensor])
    if kind == mujoco.mjtObj.mjOBJ_ACTUATOR:
        return _drives_joint(model, target) and _is_hinge(model, model.actuator_trnid[target, 0])
    return kind == mujoco.mjtObj.mjOBJ_JOINT and _is_hinge(model, target)


def _of_records(
    model: mujoco.MjModel, sensor: int, fields: list[tuple[str, str]]
) -> list[Quantity]:
    """Returns the numbers of a sensor with a record for each contact or ray."""
    name, chosen = model.sensor(sensor).name, int(model.sensor_intprm[sensor, 0])
    record = []
    for bit, (field, unit) in enumerate(fields):
        if chosen >> bit & 1:
            axes = ("",) if field in _SCALARS else (" x", " y", " z")
            record += [(f"{field}{axis}", unit) for axis in axes]
    count = int(model.sensor_dim[sensor]) // len(record)
    numbers = [f" {number}" for number in range(1, count + 1)] if count > 1 else [""]
    return [Quantity(f"{name}{number} {part}", unit) for number in numbers for part, unit in record]


def _drives_joint(model: mujoco.MjModel, actuator: int) -> bool:
    kinds = (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)
    return model.actuator_trntype[actuator] in map(int, kinds)


def _is_hinge(model: mujoco.MjModel, joint: int) -> bool:
    return bool(model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE)


def controls(model: mujoco.MjModel) -> list[Quantity]:
    """Returns the controls: positions for servos, else in the unit of the actuator's model."""
    found = []
    for actuator in range(model.nu):
        unit = "1"
        if _drives_joint(model, actuator) and model.actuator_biasprm[actuator, 1] < 0.0:
            unit = "rad" if _is_hinge(model, model.actuator_trnid[actuator, 0]) else "m"
        found.append(Quantity(model.actuator(actuator).name or f"actuator {actuator}", unit))
    return found
