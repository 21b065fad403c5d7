"""Compiles models, those of users with names and a ground, and refuses those of no use."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mujoco
import numpy as np

from metarl.core.errors import ConfigError
from metarl.envs.robots.copies import read_spec
from metarl.envs.robots.ground import add_plane, find_ground

DEPRECATED = "settotalmass"
"""Part of MuJoCo's warning about half_cheetah.xml, a file of Gymnasium's."""

Edit = Callable[[mujoco.MjSpec], None]
"""Changes a model before it is compiled."""


@contextmanager
def collect_warnings() -> Generator[list[str]]:
    """Collects MuJoCo's warnings, which it writes to MUJOCO_LOG.TXT and the screen otherwise."""
    messages: list[str] = []
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        yield messages
    finally:
        mujoco.set_mju_user_warning(before)


@contextmanager
def compiler_warnings() -> Generator[None]:
    """Turns the compiler's messages into Python warnings."""
    with collect_warnings() as messages, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*{DEPRECATED}")
        yield
    for message in messages:
        if DEPRECATED not in message:
            warnings.warn(message, stacklevel=4)


def compile_own(
    path: Path, ground: str, failure: type[Exception], edits: Sequence[Edit] = ()
) -> mujoco.MjModel:
    """Compiles a model of the user.

    A ground is added where the model has none (see `find_ground`); one without a name gets that of
    the ground, an actuator that of its joint, and a geom that of its body.

    Args:
        path: The model.
        ground: Name of the ground's geom; where the model has no such geom, that for one without.
        failure: Raised if the model cannot be read or compiled, with MuJoCo's message in one line.
        edits: Changes before the compilation.
    """
    if not path.is_file():
        raise failure(f"{path}: there is no such model")
    try:
        spec = read_spec(path)
        spec.compiler.fusestatic = False  # bodies keep their names and their order
        if spec.geom(ground) is None:
            floor = _find_plane(spec) or add_plane(spec)
            floor.name = floor.name or ground
        _name_actuators(spec)
        _name_geoms(spec)
        for edit in edits:
            edit(spec)
        with compiler_warnings():
            return spec.compile()
    except ValueError as error:
        raise failure(f"{path}: {' '.join(str(error).split())}") from error


def _find_plane(spec: mujoco.MjSpec) -> mujoco.MjsGeom | None:
    """Returns the plane that is the ground, or None."""
    if all(geom.type != mujoco.mjtGeom.mjGEOM_PLANE for geom in spec.geoms):
        return None
    with compiler_warnings():
        found = find_ground(spec.compile())
    return next((geom for geom in spec.geoms if geom.id == found), None)


def _name_actuators(spec: mujoco.MjSpec) -> None:
    """Gives actuators without a name that of their target, with a number if it is taken."""
    taken = {actuator.name for actuator in spec.actuators}
    for actuator in spec.actuators:
        number = 1
        while not actuator.name:
            name = f"{actuator.target} {number}" if number > 1 else actuator.target
            actuator.name = "" if name in taken else name
            number += 1
        taken.add(actuator.name)


def _name_geoms(spec: mujoco.MjSpec) -> None:
    """Gives geoms of bodies without a name that of the body, with a number."""
    taken = {geom.name for geom in spec.geoms}
    for body in spec.bodies[1:]:
        for number, geom in enumerate(body.geoms, start=1):
            name = f"{body.name} {number}"
            if not geom.name and body.name and name not in taken:
                geom.name = name


def refuse_unsupported(model: mujoco.MjModel, path: Path) -> None:
    """Refuses models that no environment can use.

    Raises:
        ConfigError: The model is such; the message has the reason.
    """
    reason = None
    if model.njnt == 0:
        reason = "it has no joint"
    elif model.nu == 0:
        reason = "it has no actuator"
        if path.suffix.lower() == ".urdf":
            reason += "; MuJoCo reads none from URDF: save it as MJCF and add them"
    elif (model.jnt_type == mujoco.mjtJoint.mjJNT_BALL).any():
        reason = "ball joints are not supported; take three hinges"
    elif model.nmocap:
        reason = "a mocap body is moved by hand and not by physics"
    elif model.na:
        reason = "an actuator has a state of its own (muscle, filter), which a reset would lose"
    elif model.nu != model.nactuator:
        reason = "an actuator takes several controls (pid); take position, velocity or motor"
    elif (model.actuator_delay > 0.0).any():
        late = model.actuator(int(np.argmax(model.actuator_delay > 0.0))).name
        reason = f"actuator {late} has a delay of its own, which starts with a control of 0; "
        reason += "leave it out and use the key delay of the robot's file"
    if reason:
        raise ConfigError(f"{path}: {reason}")


def require_base(model: mujoco.MjModel, base: str, where: str) -> None:
    """Requires that the first joints move the base as BASES says.

    Raises:
        ConfigError: They do not, and the message says what is there.
    """
    kinds = [mujoco.mjtJoint(kind) for kind in model.jnt_type]
    free, slide = mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE
    hinge = mujoco.mjtJoint.mjJNT_HINGE
    if base == "planar":
        if kinds[:3] != [slide, slide, hinge] or not _is_plane(model):
            hint = "a planar base has slides along x and z and a hinge around y, as first joints"
            raise ConfigError(f"{where}: base: planar: {hint}, in axes of the world")
        return
    if base == "fixed":
        if free in kinds:
            hint = "a fixed base has none; an object beside an arm is not supported"
            raise ConfigError(f"{where}: base: fixed: the model has a free joint; {hint}")
        return
    if kinds[0] != free:
        found = f"the {kinds[0].name[6:].lower()} joint first"
        hint = "an arm has base: fixed"
        raise ConfigError(f"{where}: base: free: the model has {found}, not a free joint; {hint}")
    if kinds.count(free) > 1:
        raise ConfigError(f"{where}: the model has {kinds.count(free)} free bodies; must be one")


def _is_plane(model: mujoco.MjModel) -> bool:
    """Returns whether the first three joints move one chain along x and z and around y [world]."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    x, z, turn = data.xaxis[:3]
    axes = [x, z, np.abs(turn)]
    is_chain = model.dof_parentid[:3].tolist() == [-1, 0, 1]
    return is_chain and np.allclose(axes, [[1, 0, 0], [0, 0, 1], [0, 1, 0]], rtol=0.0, atol=1e-6)
