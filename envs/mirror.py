"""Trial of a robot's left-right symmetry: mirrored actions should move it in the mirrored way.

The mirror is the plane y = 0 of the home pose. It maps a position (x, y, z) to (x, -y, z), an
angular velocity to (-x, y, -z), and the angle of a joint to that of its partner, with the sign that
follows from their axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from metarl.envs.robots.compiling import collect_warnings
from metarl.envs.robots.robot import Robot

NEAR = 0.02
"""Largest distance between a place and the mirrored one, as a share of the robot's size."""

ALIKE = 0.02
"""Largest difference between a motion and the mirrored one, as a share of the motion."""

UNEVEN = 0.1
"""Largest difference of masses, their centres and inertias that is not named, as a share."""

STEPS = 20
"""Control steps of the trial on the ground."""

NOTHING = "not symmetric: nothing to test"

_POLAR, _AXIAL = np.array([1.0, -1.0, 1.0]), np.array([-1.0, 1.0, -1.0])
_QUATERNION = np.array([1.0, -1.0, 1.0, -1.0])
_HINGE, _SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)


@dataclass(frozen=True)
class Mirror:
    """The mirror image of a robot's joints and actuators.

    Attributes:
        body: Index (nbody,) of each body's partner.
        dof: Index (nv,) of each degree of freedom's partner.
        dof_sign: Sign (nv,) of its mirrored speed.
        qpos: Index (nq,) of each position's partner.
        qpos_sign: Sign (nq,) of its mirrored deviation from the home pose; of the base's position
            and quaternion, that of the value itself.
        actuator: Index (A,) of each actuator's partner.
        actuator_sign: Sign (A,) of its mirrored policy output.
        tilted: Actuators whose joint's axis is not the mirrored one of their partner.
    """

    body: np.ndarray
    dof: np.ndarray
    dof_sign: np.ndarray
    qpos: np.ndarray
    qpos_sign: np.ndarray
    actuator: np.ndarray
    actuator_sign: np.ndarray
    tilted: tuple[int, ...]


def describe_mirror(robot: Robot) -> str:
    """Returns the finding about the symmetry in one line; a warning names the actuators."""
    model = robot.model()
    with collect_warnings():  # MuJoCo would print them, and write a file
        mirror = None if robot.planar else find_mirror(robot, model)
        if mirror is None:
            return NOTHING
        differing = sorted({*mirror.tilted, *_find_differing(robot, model, mirror)})
        if differing:
            return _describe_actuators(model, mirror, differing)
        error = _ground_error(robot, model, mirror)
    text = f"mirrored actions move the base in the mirrored way, within {error:.1%}"
    if error <= ALIKE:
        return f"{text} of its path over {STEPS} control steps"
    causes = _find_uneven_bodies(robot, model, mirror), _find_uneven_joints(model, mirror)
    kinds = ("masses of ", "damping, armature or friction of ")
    texts = [kind + ", ".join(names) for kind, names in zip(kinds, causes, strict=True) if names]
    reason = "; ".join(texts) or "shapes"
    return f"warning: {text} only: the actuators are mirror images, but not {reason}"


def _describe_actuators(model: mujoco.MjModel, mirror: Mirror, differing: list[int]) -> str:
    names = {
        _join(model.actuator(i).name, model.actuator(int(mirror.actuator[i])).name): None
        for i in differing
    }
    hint = "compare gears, gains, limits and axes"
    return f"warning: not mirror images: {'; '.join(names)} ({hint})"


def _join(*names: str) -> str:
    """Returns the names of a pair, or one if they are the same."""
    return " and ".join(sorted(set(names)))


# --- pairs ----------------------------------------------------------------------------------------


def find_mirror(robot: Robot, model: mujoco.MjModel) -> Mirror | None:
    """Finds the mirror image of each joint and actuator, None for a robot without two sides."""
    data = _start(robot, model)
    mujoco.mj_forward(model, data)
    bodies = _pair_bodies(model, data, robot.torso())
    if bodies is None or model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE:
        return None
    joints = _pair_joints(model, data, bodies)
    driven = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
    if joints is None or not driven.all() or not (bodies != np.arange(model.nbody)).any():
        return None
    joint, sign, is_tilted = joints
    partner = _pair_actuators(model.actuator_trnid[:, 0], joint)
    if partner is None:
        return None
    own = model.actuator_trnid[:, 0]
    # the base's free joint is the first, all others have one degree of freedom
    return Mirror(
        body=bodies,
        dof=np.concatenate([np.arange(6), model.jnt_dofadr[joint[1:]]]),
        dof_sign=np.concatenate([_POLAR, _AXIAL, sign[1:]]),
        qpos=np.concatenate([np.arange(7), model.jnt_qposadr[joint[1:]]]),
        qpos_sign=np.concatenate([_POLAR, _QUATERNION, sign[1:]]),
        actuator=partner,
        actuator_sign=sign[own],
        tilted=tuple(np.flatnonzero(is_tilted[own]).tolist()),
    )


def _pair_bodies(model: mujoco.MjModel, data: mujoco.MjData, torso: int) -> np.ndarray | None:
    """Returns the index (nbody,) of each body's mirror image, None if a body has none.

    Its origin is at the mirrored place. Where several are, the centres of mass decide: its own, and
    that of all bodies on it.
    """
    places = np.concatenate([data.xpos, data.xipos, data.subtree_com], axis=1)
    places -= np.tile(data.xpos[torso], 3)
    size = np.abs(places[torso:]).max()
    images = places * np.tile(_POLAR, 3)
    partner = np.full(model.nbody, -1)
    partner[: torso + 1] = np.arange(torso + 1)
    for body in range(torso + 1, model.nbody):
        if partner[body] >= 0:
            continue
        parent = partner[model.body_parentid[body]]
        others = np.flatnonzero((model.body_parentid == parent) & (partner < 0))
        others = others[model.body_jntnum[others] == model.body_jntnum[body]]
        if not len(others):
            return None
        # the legs of the Ant all have their origin in the torso; their masses tell them apart
        distance = np.abs(places[others] - images[body])
        other = others[distance.sum(axis=1).argmin()]
        if np.abs(places[other] - images[body])[:3].max() > NEAR * size:
            return None
        partner[body], partner[other] = other, body
    return partner


def _pair_joints(
    model: mujoco.MjModel, data: mujoco.MjData, bodies: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns each joint's partner, the sign of its mirrored angle, and whether the axes differ.

    The joints of two bodies correspond in their order. None if kinds of joints cannot be paired.
    """
    first = model.body_jntadr[model.jnt_bodyid]
    partner = model.body_jntadr[bodies[model.jnt_bodyid]] + np.arange(model.njnt) - first
    kinds = model.jnt_type
    known = (kinds[1:] == _HINGE) | (kinds[1:] == _SLIDE)
    if not known.all() or (kinds[partner] != kinds).any():
        return None
    image = data.xaxis * np.where(kinds[:, None] == _SLIDE, _POLAR, _AXIAL)
    along = (image * data.xaxis[partner]).sum(axis=1)
    is_tilted = np.abs(along) < 1.0 - ALIKE**2  # about 1.6 degrees
    is_tilted[0] = False  # the base has no axis
    return partner, np.where(along < 0.0, -1.0, 1.0), is_tilted


def _pair_actuators(joints: np.ndarray, partner: np.ndarray) -> np.ndarray | None:
    """Returns each actuator's mirror image (A,), in their order on a joint; None if one has none.

    Args:
        joints: Joint (A,) of each actuator.
        partner: Index (njnt,) of each joint's partner.
    """
    images = []
    for actuator, joint in enumerate(joints):
        number = int((joints[:actuator] == joint).sum())
        others = np.flatnonzero(joints == partner[joint])
        if number >= len(others):
            return None
        images.append(others[number])
    return np.array(images)


# --- trials ---------------------------------------------------------------------------------------


def _start(robot: Robot, model: mujoco.MjModel) -> mujoco.MjData:
    data = mujoco.MjData(model)
    data.qpos[:] = robot.rest()
    return data


def _set_ctrl(robot: Robot, model: mujoco.MjModel, data: mujoco.MjData, output: np.ndarray) -> None:
    """Sets the controls for a policy output (A,)."""
    ctrl = np.array(robot.action_centre or 0.0) + np.array(robot.action_scale) * output
    data.ctrl[:] = np.clip(ctrl, *model.actuator_ctrlrange.T)


def _reflect_action(mirror: Mirror, output: np.ndarray) -> np.ndarray:
    reflected = np.empty_like(output)
    reflected[mirror.actuator] = mirror.actuator_sign * output
    return reflected


def _reflect_speed(mirror: Mirror, qvel: np.ndarray) -> np.ndarray:
    reflected = np.empty_like(qvel)
    reflected[mirror.dof] = mirror.dof_sign * qvel
    return reflected


def reflect_state(
    mirror: Mirror, rest: np.ndarray, qpos: np.ndarray, qvel: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mirror image of a state qpos (nq,), qvel (nv,), given the rest position."""
    values = qpos - rest
    values[:7] = qpos[:7]
    reflected = np.empty_like(values)
    reflected[mirror.qpos] = mirror.qpos_sign * values
    reflected[7:] += rest[7:]
    return reflected, _reflect_speed(mirror, qvel)


def _find_differing(robot: Robot, model: mujoco.MjModel, mirror: Mirror) -> list[int]:
    """Returns the actuators whose forces on the joints are not the mirrored ones of their partners.

    Each has an output of 1 and of -1 in a moving state, and in its mirror image. Masses do not
    matter.
    """
    states = _start(robot, model), _start(robot, model)
    rng = np.random.default_rng(0)
    qpos, qvel = 0.1 * rng.uniform(-1.0, 1.0, model.nq), rng.uniform(-1.0, 1.0, model.nv)
    qpos[:7] = 0.0
    states[0].qpos[:] += qpos
    states[0].qvel[:] = qvel
    states[1].qpos[mirror.qpos] += mirror.qpos_sign * qpos
    states[1].qvel[:] = _reflect_speed(mirror, qvel)
    found = []
    for actuator in range(model.nu):
        for size in (1.0, -1.0):
            output = np.zeros(model.nu)
            output[actuator] = size
            forces = [_forces(robot, model, states[0], output, actuator)]
            partner, reflected = int(mirror.actuator[actuator]), _reflect_action(mirror, output)
            forces.append(_forces(robot, model, states[1], reflected, partner))
            expected = _reflect_speed(mirror, forces[0])
            scale = np.abs(forces).max()
            if not np.abs(forces[1] - expected).max() <= ALIKE * scale:
                found.append(actuator)
                break
    return found


def _forces(
    robot: Robot, model: mujoco.MjModel, data: mujoco.MjData, output: np.ndarray, actuator: int
) -> np.ndarray:
    """Returns an actuator's forces (nv,) on the joints for a policy output (A,)."""
    _set_ctrl(robot, model, data, output)
    mujoco.mj_forward(model, data)
    moment = np.zeros(model.nv)
    first, count = data.moment_rowadr[actuator], data.moment_rownnz[actuator]
    entries = slice(first, first + count)
    moment[data.moment_colind[entries]] = data.actuator_moment[entries]
    return moment * data.actuator_force[actuator]


def _find_uneven_bodies(robot: Robot, model: mujoco.MjModel, mirror: Mirror) -> list[str]:
    """Returns the bodies whose mass, centre of mass or inertia is not that of the mirror image."""
    data = _start(robot, model)
    mujoco.mj_kinematics(model, data)
    axes = data.ximat.reshape(-1, 3, 3)
    inertia = np.einsum("bij,bj,bkj->bik", axes, model.body_inertia, axes)
    centre = model.body_mass[:, None] * (data.xipos - data.xpos)
    found = []
    for body, other in enumerate(mirror.body):
        if other < body:
            continue
        pairs = (
            (model.body_mass[body], model.body_mass[other]),
            (_POLAR * centre[body], centre[other]),
            (np.outer(_POLAR, _POLAR) * inertia[body], inertia[other]),
        )
        if not all(np.abs(a - b).max() <= UNEVEN * np.abs([a, b]).max() for a, b in pairs):
            found.append(_join(model.body(body).name, model.body(other).name))
    return found


def _find_uneven_joints(model: mujoco.MjModel, mirror: Mirror) -> list[str]:
    """Returns the joints whose damping, armature or dry friction is not that of their partners."""
    values = np.array([model.dof_damping, model.dof_armature, model.dof_frictionloss])
    images = values[:, mirror.dof]
    is_even = np.abs(values - images) <= UNEVEN * np.maximum(values, images)
    uneven = np.flatnonzero(~is_even.all(axis=0) & (mirror.dof >= np.arange(model.nv)))
    names = [model.joint(int(joint)).name for joint in model.dof_jntid]
    return [_join(names[dof], names[mirror.dof[dof]]) for dof in uneven]


def _ground_error(robot: Robot, model: mujoco.MjModel, mirror: Mirror) -> float:
    """Returns the largest difference of the base's two paths, as a share of the longer one.

    Both start in the home pose, with random actions and the mirrored ones.
    """
    rng = np.random.default_rng(0)
    outputs = 0.5 * rng.uniform(-1.0, 1.0, (STEPS, model.nu))
    one, other = _start(robot, model), _start(robot, model)
    start, error, longest = one.qpos[:3].copy(), 0.0, 1e-9
    for output in outputs:
        _set_ctrl(robot, model, one, output)
        _set_ctrl(robot, model, other, _reflect_action(mirror, output))
        for data in (one, other):
            mujoco.mj_step(model, data, robot.frame_skip)
        paths = _POLAR * (one.qpos[:3] - start), other.qpos[:3] - start
        error = max(error, float(np.abs(paths[0] - paths[1]).max()))
        longest = max(longest, *(float(np.abs(path).max()) for path in paths))
    return error / longest
