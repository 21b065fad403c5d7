"""Guesses a robot's file from its model, with the reason of every guess (`metarl new-robot`)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from metarl.core.env import Quantity
from metarl.core.errors import ConfigError, nearest
from metarl.envs.robots.arms.effector import pose_of, require_arm, terms_of_arm
from metarl.envs.robots.compiling import compile_own, refuse_unsupported, require_base
from metarl.envs.robots.copies import read_spec
from metarl.envs.robots.ground import box_of, can_carry, find_ground, height_of
from metarl.envs.robots.guessing.actuators import guess_actuators, joints_of
from metarl.envs.robots.guessing.guesses import Guess
from metarl.envs.robots.observation import EXTERNAL, OPTIONAL_TERMS, SENSOR, sensors_of, terms_of
from metarl.envs.robots.own import (
    MOST_STEPS,
    OPTIONAL,
    build_robot,
)
from metarl.envs.robots.quantities import controls, joint_name
from metarl.envs.robots.robot import (
    Observed,
    Physics,
    Robot,
    find_limits,
    find_outside,
    find_torso,
)

GROUNDS = ("floor", "ground", "metarl ground")
"""Names of a ground without one; the first that is free is taken."""

LOW_BASE = 0.25
"""Share of a robot's height below which the height of its base tells nothing of a fall."""

CONTROL_PERIOD = 0.02
"""Duration of a control step that is aimed at [s]."""

SAME_HEIGHT = 1e-3
"""Difference of height up to which shapes of a foot stand on the ground together [m]."""

MOST_LISTED = 6
"""Terms that are listed as further parts of the observation."""


def guess_robot(path: Path) -> list[Guess]:
    """Guesses the keys of a robot's file.

    Raises:
        ConfigError: The model cannot be compiled or is not supported; the message gives the reason.
    """
    ground, why_ground = _guess_ground(path)
    model = compile_own(path, ground, ConfigError)
    refuse_unsupported(model, path)
    base, reason = _guess_base(model, path)
    where = Guess("ground", ground, why_ground)
    if base == "fixed":
        return _guess_arm(model, path, reason, where)
    planar, level = base == "planar", height_of(model, model.geom(ground).id)
    home = _guess_home(model, planar, level)
    qpos = np.array(home.value)
    actuators, kinds = guess_actuators(model, qpos, path)
    return [
        *_guess_model(model, path, Guess("base", base, reason), where),
        home,
        Guess("reset_noise", 0.03, "half width of the uniform noise on home [rad or m]"),
        _guess_health(model, qpos, planar, level),
        _list_observation(model, terms_of(tuple(home.value), model, planar), OPTIONAL_TERMS),
        _guess_feet(model, find_torso(model, planar)),
        Guess(
            "contacts",
            "all",
            "all shapes collide; feet: only those above, which is faster; or a list of names",
        ),
        _guess_limbs(model, find_torso(model, planar)),
        Guess("actuators", actuators, kinds, _describe_actuators(model, actuators)),
        Guess("lowpass", 0.0, "time constant of a filter of the controls [s]; 0 is none"),
        Guess("delay", 0, "control steps by which the controls come late"),
        Guess("bonus", 0.5, "reward of a step after which the robot is healthy"),
        Guess("control_cost", 0.01, "weight of the sum of squares of the policy's outputs"),
        Guess("top_speed", 1.0, "largest speed of the goal vel [m/s]"),
    ]


def _guess_model(model: mujoco.MjModel, path: Path, base: Guess, ground: Guess) -> list[Guess]:
    """Returns the keys of the model and its simulation."""
    skip = min(max(1, round(CONTROL_PERIOD / model.opt.timestep)), MOST_STEPS)
    return [
        Guess("model", path.name, "relative to this file"),
        base,
        ground,
        Guess("physics", vars(Physics.of(model)), "those of the model; timestep in s"),
        Guess("frame_skip", skip, f"{skip} steps of {model.opt.timestep:g} s are a control step"),
    ]


def _guess_base(model: mujoco.MjModel, path: Path) -> tuple[str, str]:
    """Returns the base, and the reason.

    Raises:
        ConfigError: The model has a free joint that is not the only one or not the first.
    """
    kinds = model.jnt_type.tolist()
    if int(mujoco.mjtJoint.mjJNT_FREE) in kinds:
        require_base(model, "free", str(path))
        return "free", "the first joints are a free joint"
    with contextlib.suppress(ConfigError):
        require_base(model, "planar", str(path))
        return "planar", "the first joints are slides along x and z and a hinge around y"
    return "fixed", "no free joint, and no slides along x and z with a hinge around y"


def _guess_arm(model: mujoco.MjModel, path: Path, reason: str, ground: Guess) -> list[Guess]:
    """Returns the keys of the file of a robot with a fixed base.

    Raises:
        ConfigError: A joint on the way to its end effector has no actuator.
    """
    effector = Guess("effector", *require_arm(model, f"{path}: {reason}"))
    why = "no keyframe: the model's pose, in the ranges of its joints"
    home = _guess_home(model, False, 0.0) if model.nkey else Guess("home", pose_of(model), why)
    actuators, kinds = guess_actuators(model, np.array(home.value), path, is_arm=True)
    return [
        *_guess_model(model, path, Guess("base", "fixed", reason), ground),
        home,
        Guess("reset_noise", 0.03, "half width of the uniform noise on home [rad or m]"),
        effector,
        _list_observation(
            model, terms_of_arm(tuple(home.value), model, effector.value), ("last action",)
        ),
        Guess(
            "contacts",
            "all",
            "all shapes collide; none: no shape of the arm, which is faster; or a list",
        ),
        _name_limbs({each: [each] for each in actuators}, "each actuator is a limb"),
        Guess("actuators", actuators, kinds, _describe_actuators(model, actuators)),
        Guess("control_cost", 0.001, "weight of the sum of squares of the policy's outputs"),
    ]


def robot_from_mjcf(path: str | Path, name: str = "", **keys: Any) -> Robot:
    """Makes a robot from a model, with a definition guessed as by `metarl new-robot`.

    Args:
        path: The MJCF file.
        name: Of the robot; by default that of the file.
        **keys: Keys of a robot's file (docs/own-robot.md) with values other than the guess; a list
            may be a tuple or an array.

    Raises:
        ConfigError: The model is not supported, or a key is unknown or does not fit it.
    """
    path = Path(path)
    tree = {guess.key: guess.value for guess in guess_robot(path)}
    for key in keys:
        if key not in (known := {**tree, **OPTIONAL}):
            raise ConfigError(f"{path}: unknown key {key}{nearest(key, known)}")
    tree |= {key: _plain(value) for key, value in keys.items()}
    if "frame_skip" not in keys and isinstance(keys.get("physics"), dict):
        timestep = keys["physics"].get("timestep")
        # another value is refused below
        if isinstance(timestep, int | float) and timestep > 0.0:
            tree["frame_skip"] = max(1, round(CONTROL_PERIOD / timestep))
    # values that a file may leave out are no part, so that a new key changes no version
    given = {key: value for key, value in tree.items() if OPTIONAL.get(key, None) != value}
    definition = repr(sorted(given.items())).encode()
    return build_robot(name or path.stem, path, tree, path.absolute(), definition)


def _plain(value: Any) -> Any:
    """Returns a key's value as a file has it: a tuple or an array is a list."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _guess_ground(path: Path) -> tuple[str, str]:
    """Returns the name of the ground's geom, and the reason.

    Raises:
        ConfigError: The model cannot be compiled.
    """
    plane, last = int(mujoco.mjtGeom.mjGEOM_PLANE), GROUNDS[-1]
    # under a name that no geom has, so that a ground without a name differs from one with it
    model = compile_own(path, last, ConfigError)
    names = [model.geom(i).name for i in range(model.ngeom)]
    if GROUNDS[0] in names and can_carry(model, names.index(GROUNDS[0])):
        return GROUNDS[0], "the geom of this name"
    if last not in names:
        return names[find_ground(model)], "the plane of the model"
    free = next(each for each in GROUNDS if each == last or each not in names)
    planes = [geom for geom in read_spec(path).geoms if geom.type == plane]
    if len(planes) < (model.geom_type == plane).sum():
        return free, "the model has none: one is added"
    return free, "the plane of the model gets this name"


def _guess_home(model: mujoco.MjModel, planar: bool, level: float) -> Guess:
    """Returns the keyframe `home`, the first keyframe, or the model's pose put on the ground.

    Joints outside their ranges are put at the nearer end.

    Args:
        model: The model.
        planar: It has a planar base.
        level: Height of the ground [m].
    """
    names = [model.key(i).name for i in range(model.nkey)]
    name = "home" if "home" in names else next(iter(names), "")
    if names:
        pose, reason = model.key(name).qpos if name else model.key_qpos[0], f"{name or 0}"
        reason = f"qpos [m, rad; a free base has a quaternion] of the keyframe {reason}"
    else:
        pose, reason = model.qpos0, "no keyframe: the model's pose [m, rad]"
    qpos = np.clip(pose, *find_limits(model))
    if outside := find_outside(model, pose):
        reason += f"; inside the ranges of {', '.join(joint_name(model, j) for j in outside)}"
    if not names:
        data = mujoco.MjData(model)
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        lowest = min((_lowest(model, data, geom) for geom in _own_geoms(model)), default=level)
        qpos[1 if planar else 2] -= lowest - level
        reason += ", with its lowest shape on the ground"
    return Guess("home", qpos.round(6).tolist(), reason)


def _own_geoms(model: mujoco.MjModel) -> list[int]:
    """Returns the robot's geoms that can collide, or all if none can."""
    root = model.body_rootid[model.jnt_bodyid[0]]
    is_own = model.body_rootid[model.geom_bodyid] == root
    own = np.flatnonzero(is_own & (model.body_weldid[model.geom_bodyid] > 0))
    can_collide = (model.geom_contype[own] | model.geom_conaffinity[own]) > 0
    return (own[can_collide] if can_collide.any() else own).tolist()


def _lowest(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> float:
    """Returns the height of the lowest point of a geom's bounding box [m]."""
    return float(box_of(model, data, geom)[0, 2])


def _guess_health(model: mujoco.MjModel, home: np.ndarray, planar: bool, level: float) -> Guess:
    """Takes half and twice the base's height at home, as numbers of the coordinate of height.

    A base near the ground takes the robot's height in place of its own.
    """
    data = mujoco.MjData(model)
    data.qpos[:] = home
    mujoco.mj_kinematics(model, data)
    coordinate = home[1 if planar else 2]
    height = data.xpos[find_torso(model, planar), 2] - level
    why = "half and twice the height at home"
    ends = [box_of(model, data, geom)[:, 2] for geom in _own_geoms(model)]
    size = float(np.ptp(ends)) if ends else 0.0
    if height <= LOW_BASE * size:
        height, why = size or 1.0, "half the robot's height below its base, and that above"
    low, high = coordinate - 0.5 * height, coordinate + height
    value = {"low": round(float(low), 4), "high": round(float(high), 4), "tilt": 1.0}
    return Guess("health", value, f"{why} [m]; tilt in rad")


def _list_observation(
    model: mujoco.MjModel, known: Mapping[str, Observed], optional: Sequence[str]
) -> Guess:
    """Takes all terms but the optional ones, those of goal and terrain, and sensors."""
    names = [name for name in known if name not in (*optional, *EXTERNAL)]
    terms = {name: {"scale": 1.0, "clip": 0.0, "noise": 0.0} for name in names}
    more = [*optional, *(SENSOR + name for name in sensors_of(model))]
    listed = ", ".join(more[:MOST_LISTED]) + (", ..." if len(more) > MOST_LISTED else "")
    reason = f"clip(scale x (value + noise)), clip 0 is none; may be added: {listed}"
    external = ", ".join(name for name in EXTERNAL if name in known)
    reason += f"; also {external}, which else come last" if external else ""
    comments = {name: _list_quantities(known[name].quantities(model)) for name in names}
    return Guess("observation", terms, reason, comments)


def _list_quantities(found: Sequence[Quantity]) -> str:
    """Returns the count, the names and the units of observed numbers, in one line."""
    units = ", ".join(dict.fromkeys(each.unit for each in found))
    names = [each.name for each in found]
    listed = "; ".join(names if len(names) < 4 else [*names[:2], "...", names[-1]])
    return f"{len(found)} numbers [{units}]: {listed}"


def _guess_feet(model: mujoco.MjModel, base: int) -> Guess:
    """Takes the lowest geoms that can collide of each body without further bodies below it.

    Bodies that end higher than half the height of the base above the lowest one are no feet: hands.
    """
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    can_collide = (model.geom_contype | model.geom_conaffinity) > 0
    leaves = set(range(model.nbody)) - set(model.body_parentid.tolist())
    low: dict[int, float] = {}
    for body in sorted(leaves):
        own = np.flatnonzero((model.geom_bodyid == body) & can_collide)
        if model.body_rootid[body] == model.body_rootid[base] and len(own) and body != base:
            heights = {int(geom): _lowest(model, data, int(geom)) for geom in own}
            end = min(heights.values()) + SAME_HEIGHT
            low |= {geom: height for geom, height in heights.items() if height <= end}
    ground = min(low.values(), default=0.0)
    reach = ground + 0.5 * (data.xpos[base, 2] - ground)
    named = [model.geom(geom).name for geom, height in low.items() if height < reach]
    reason = "the lowest shapes of the last body of each branch"
    return Guess("feet", [name for name in named if name], reason)


def _guess_limbs(model: mujoco.MjModel, base: int) -> Guess:
    """Groups actuators by the branch of the base that their joint is in."""
    names = [model.actuator(i).name for i in range(model.nu)]
    joints = joints_of(model)
    if any(joint is None for joint in joints):
        alone = {name: [name] for name in names}
        return _name_limbs(alone, "an actuator drives no single joint: each is a limb")
    limbs: dict[str, list[str]] = {}
    for name, joint in zip(names, joints, strict=True):
        body = int(model.jnt_bodyid[joint])
        while body not in (base, 0) and model.body_parentid[body] != base:
            body = int(model.body_parentid[body])
        limbs.setdefault(model.body(body).name or f"body {body}", []).append(name)
    if len(limbs) < 2:
        return _name_limbs({name: [name] for name in names}, "one branch: each is a limb")
    return _name_limbs(limbs, "the actuators of each branch of the base")


def _name_limbs(limbs: dict[str, list[str]], reason: str) -> Guess:
    last = list(limbs)[-1]
    kinds = {name: ", held out for the test" if name == last else "" for name in limbs}
    comments = {name: f"actuators that fail together{kind}" for name, kind in kinds.items()}
    return Guess("limbs", limbs, reason, comments)


def _describe_actuators(
    model: mujoco.MjModel, table: Mapping[str, Mapping[str, float]]
) -> dict[str, str]:
    """Returns what the control of each actuator is, and its unit."""
    comments = {}
    for joint, own, row in zip(joints_of(model), controls(model), table.values(), strict=True):
        is_made = row["stiffness"] > 0.0
        unit = "rad" if is_made else own.unit
        target = joint_name(model, joint) if joint is not None else "a tendon or site"
        kind = "a target" if unit != "1" else "the control of a motor or speed servo"
        gains = "; stiffness in N m/rad, damping in N m s/rad" if is_made else ""
        comments[own.name] = f"{kind} of {target} [{unit}]{gains}"
    return comments
