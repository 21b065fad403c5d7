"""A robot of the user: a YAML file beside its model, as `metarl new-robot` writes it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from metarl.core.errors import ConfigError, nearest
from metarl.core.machine.yaml_files import load_yaml
from metarl.envs.robots.arms.effector import find_effector, find_idle_joint, terms_of_arm
from metarl.envs.robots.arms.leaders import is_underactuated
from metarl.envs.robots.compiling import (
    compile_own,
    refuse_unsupported,
    require_base,
)
from metarl.envs.robots.copies import check_assets, read_spec
from metarl.envs.robots.ground import can_collide, find_ground
from metarl.envs.robots.health import Standing, Upright, refuse_fall
from metarl.envs.robots.observation import EXTERNAL, SENSOR, Term, sensors_of, terms_of
from metarl.envs.robots.quantities import joint_name
from metarl.envs.robots.robot import (
    CONES,
    INTEGRATORS,
    Observed,
    Physics,
    Robot,
    find_outside,
)

LARGEST_FILE = 100_000
"""Size of a robot's file beyond which it is not read [bytes]."""

MOST_STEPS = 1000
"""Largest number of physics steps in a control step."""

KEYS = (
    "model base ground physics frame_skip home reset_noise health observation feet contacts limbs "
    "actuators bonus control_cost top_speed"
).split()
"""Required keys of the file."""

OPTIONAL: dict[str, Any] = {"lowpass": 0.0, "delay": 0, "command": {}}
"""Other keys, with the value that they have if they are missing."""

WEIGHTS = ("bobbing", "rolling", "jerk", "torque", "limits", "air_time")
"""Weights of the goal `command` that the key `command` may have."""

MOST_DELAY = 50
"""Largest delay of the controls [control steps]."""

ONLY_MOVING = ("health", "feet", "bonus", "top_speed")
"""Those of them that a robot with a fixed base does not have; it has `effector` instead."""

BASES = ("free", "planar", "fixed")
"""The first joint is free, or the first are slides along x and z and a hinge around y [world]."""

COLUMNS = ("centre", "scale", "low", "high", "stiffness", "damping")
"""Numbers of an actuator in the file."""


def read_robot(path: Path) -> Robot:
    """Reads a robot's file; the path of its model is relative to it.

    Raises:
        ConfigError: The file or its model cannot be read, a key is unknown, missing or of another
            type, or the model does not fit; the message names it.
    """
    tree = _read_yaml(path)
    keys = keys_of("fixed" if tree.get("base") == "fixed" else "free")
    known = [*keys, *OPTIONAL]
    for key in tree:
        if key not in known:
            hint = "; a fixed base has none" if key in KEYS else nearest(str(key), known)
            raise ConfigError(f"{path}: unknown key {key}{hint}")
    missing = [key for key in keys if key not in tree]
    if missing:
        raise ConfigError(f"{path}: the key {missing[0]} is missing; metarl new-robot writes all")
    check_assets(path.absolute().parent)
    source = path.absolute().parent / _Reader(path, tree).text("model")
    return build_robot(path.stem, path, tree, source, path.read_bytes())


def keys_of(base: str) -> list[str]:
    """Returns the keys of the file of a robot with a base: free, planar or fixed."""
    if base != "fixed":
        return KEYS
    return [*(key for key in KEYS if key not in ONLY_MOVING), "effector"]


def build_robot(
    name: str, path: Path, tree: Mapping[str, Any], source: Path, definition: bytes
) -> Robot:
    """Builds a robot from the values of its keys.

    Args:
        name: Its name.
        path: Where the values were read, for messages.
        tree: Key -> value; those of OPTIONAL may be missing.
        source: Its model.
        definition: What the values were read from.

    Raises:
        ConfigError: The model cannot be read, or a value has another type or does not fit it.
    """
    read = _Reader(path, {**OPTIONAL, **tree})
    model, ground = _compile(source, read.text("ground"))
    base = read.choice("base", BASES)
    planar, fixed = base == "planar", base == "fixed"
    refuse_unsupported(model, source)
    require_base(model, base, str(source))
    home, names = read.home(model), [model.actuator(i).name for i in range(model.nu)]
    actuators = read.table("actuators", names, COLUMNS)
    effector = read.effector(model, home) if fixed else ""
    feet = () if fixed else read.feet(model)
    terms = terms_of_arm(home, model, effector) if fixed else terms_of(home, model, planar, feet)
    contacts = read.contacts(model, "none" if fixed else "feet")
    numbers = [key for key in ("bonus", "control_cost", "top_speed") if key in keys_of(base)]
    robot = Robot(
        name,
        str(source),
        frame_skip=read.whole("frame_skip", 1, MOST_STEPS),
        skip_qpos=0 if fixed else 1 if planar else 2,
        planar=planar,
        fixed=fixed,
        effector=effector,
        healthy=None if fixed else read.health(planar),
        reset_noise=read.number("reset_noise", 0.0, 10.0),
        limbs=read.limbs(names),
        limb_names=tuple(str(name) for name in read.tree["limbs"]),
        home=home,
        action_centre=tuple(row[0] for row in actuators),
        action_scale=tuple(row[1] for row in actuators),
        control_range=tuple((row[2], row[3]) for row in actuators),
        servos=tuple((row[4], row[5]) for row in actuators),
        observation=read.observation(terms, model),
        ground=ground,
        feet=feet,
        feet_only=contacts in ("feet", "none"),
        colliding=contacts if isinstance(contacts, tuple) else (),
        physics=read.physics(),
        is_own=True,
        definition=_identify(definition, source, model),
        lowpass=read.number("lowpass", 0.0, 10.0),
        delay=read.whole("delay", 0, MOST_DELAY),
        command=read.weights(base == "free", bool(feet)),
        **{key: read.number(key, 0.0, 1e6) for key in numbers},
    )
    refuse_fall(robot, f"{path}: home")
    return robot


def _compile(source: Path, ground: str) -> tuple[mujoco.MjModel, str]:
    """Returns a robot's model and the name of its ground; one with a name of its own keeps it."""
    model = compile_own(source, ground, ConfigError)
    if ground not in [model.geom(i).name for i in range(model.ngeom)]:
        ground = model.geom(find_ground(model)).name
    return model, ground


def _identify(definition: bytes, source: Path, model: mujoco.MjModel) -> int:
    """Returns a number that changes with the file, its model and the shapes of its meshes."""
    # to_xml has the included files too, but not the shapes of meshes
    resolved = read_spec(source).to_xml()
    digest = hashlib.sha256(definition + resolved.encode())
    digest.update(model.mesh_vert.tobytes() + model.hfield_data.tobytes())
    return int.from_bytes(digest.digest()[:4], "big") // 2


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path.absolute()}: there is no such file")
    return load_yaml(path, LARGEST_FILE)


@dataclass(frozen=True)
class _Reader:
    """Reads the values of a tree by their types; errors name file and key."""

    path: Path
    tree: Mapping[str, Any]

    def _refuse(self, key: str, value: Any, hint: str) -> ConfigError:
        return ConfigError(f"{self.path}: {key} = {value!r}: must be {hint}")

    def text(self, key: str) -> str:
        value = self.tree[key]
        if not isinstance(value, str) or not value:
            raise self._refuse(key, value, "a text")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        if self.tree[key] not in choices:
            raise self._refuse(key, self.tree[key], " or ".join(choices))
        return self.tree[key]

    def number(self, key: str, low: float, high: float) -> float:
        return self._number(key, self.tree[key], low, high)

    def _number(self, key: str, value: Any, low: float, high: float) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise self._refuse(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, key: str, low: int, high: int) -> int:
        value = self.number(key, low, high)
        if not value.is_integer():
            raise self._refuse(key, self.tree[key], "a whole number")
        return int(value)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        value = self.tree[key]
        if not isinstance(value, list) or len(value) != count:
            raise self._refuse(key, value, f"a list of {count} numbers, like qpos of the model")
        return tuple(self._number(f"{key}[{i}]", x, -1e6, 1e6) for i, x in enumerate(value))

    def home(self, model: mujoco.MjModel) -> tuple[float, ...]:
        home = self.numbers("home", model.nq)
        if model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE and not any(home[3:7]):
            text = "the quaternion of the base, home[3:7], is zero"
            raise ConfigError(f"{self.path}: home: {text}")
        for joint in find_outside(model, np.array(home)):
            place, name = int(model.jnt_qposadr[joint]), joint_name(model, joint)
            low, high = model.jnt_range[joint]
            hint = f"in the range of its joint {name}, {low:.6g} to {high:.6g}"
            raise self._refuse(f"home[{place}]", home[place], hint)
        return home

    def health(self, planar: bool) -> Callable[..., np.ndarray]:
        value = self.tree["health"]
        if not isinstance(value, dict) or set(value) != {"low", "high", "tilt"}:
            raise self._refuse("health", value, "a mapping with low, high [m] and tilt [rad]")
        names = ("low", "high", "tilt")
        low, high, tilt = (self._number(f"health.{n}", value[n], -1e6, 1e6) for n in names)
        if not low < high or tilt <= 0.0:
            raise self._refuse("health", value, "low < high and tilt > 0")
        return Upright(low, high, tilt) if planar else Standing(low, high, tilt)

    def physics(self) -> Physics:
        value, names = self.tree["physics"], ("timestep", "cone", "integrator")
        if not isinstance(value, dict) or set(value) != set(names):
            raise self._refuse("physics", value, "a mapping with timestep [s], cone, integrator")
        for key, known in (("cone", CONES), ("integrator", INTEGRATORS)):
            if value[key] not in tuple(known):  # a list has no hash
                raise self._refuse(f"physics.{key}", value[key], f"one of {', '.join(known)}")
        timestep = self._number("physics.timestep", value["timestep"], 1e-5, 0.1)
        return Physics(timestep, value["cone"], value["integrator"])

    def weights(self, has_command: bool, has_feet: bool) -> tuple[tuple[str, float], ...]:
        value = self.tree["command"]
        if not isinstance(value, dict) or (value and not has_command):
            hint = "a mapping of weights to numbers, of a robot with a free base"
            raise self._refuse("command", value, hint)
        for name in value:
            if name not in WEIGHTS:
                hint = f"with {', '.join(WEIGHTS)} alone{nearest(str(name), WEIGHTS)}"
                raise self._refuse("command", value, hint)
        found = tuple((k, self._number(f"command.{k}", v, 0.0, 1e6)) for k, v in value.items())
        if dict(found).get("air_time") and not has_feet:
            raise self._refuse("command.air_time", value["air_time"], "0 for a robot without feet")
        return found

    def effector(self, model: mujoco.MjModel, home: tuple[float, ...]) -> str:
        name = self.text("effector")
        place = find_effector(model, name)
        if place is None:
            names = [model.site(i).name for i in range(model.nsite)]
            names += [model.body(i).name for i in range(1, model.nbody)]
            hint = f"a site or a body of the model{nearest(name, names)}"
            raise self._refuse("effector", name, hint)
        if not place.joints(model):
            raise self._refuse("effector", name, "moved by a joint")
        if joint := find_idle_joint(model, place):
            raise self._refuse("effector", name, f"moved by actuators only, but {joint} has none")
        if is_underactuated(model, np.array(home), place):
            hint = "moved by at least as many actuators as joints that do not follow others"
            raise self._refuse("effector", name, hint)
        return name

    def feet(self, model: mujoco.MjModel) -> tuple[str, ...]:
        value, names = self.tree["feet"], [model.geom(i).name for i in range(model.ngeom)]
        if not isinstance(value, list):
            raise self._refuse("feet", value, "a list of geoms")
        for name in value:
            if name not in names:
                hint = f"geoms of the model{nearest(str(name), names)}"
                raise self._refuse("feet", value, hint)
        if self.tree["contacts"] == "feet" and not value:
            raise self._refuse("feet", value, "the geoms that collide, because contacts: feet")
        return tuple(value)

    def contacts(self, model: mujoco.MjModel, other: str) -> str | tuple[str, ...]:
        value, hint = self.tree["contacts"], f"all or {other}, or a list of geoms"
        if not isinstance(value, list):
            if value in ("all", other):
                return value
            raise self._refuse("contacts", value, hint)
        names = {model.geom(i).name: i for i in range(model.ngeom)}
        own = [n for n, i in names.items() if n and model.geom_bodyid[i] and can_collide(model, i)]
        for name in value:
            if name not in own:
                near = " is no such geom" if str(name) in names else nearest(str(name), own)
                hint += f" of the robot that can collide: {name!r}{near}"
                raise self._refuse("contacts", value, hint)
        if not value:
            raise self._refuse("contacts", value, f"{hint} that is not empty")
        return tuple(value)

    def observation(
        self, terms: Mapping[str, Observed], model: mujoco.MjModel
    ) -> tuple[Observed, ...]:
        value = self.tree["observation"]
        if not isinstance(value, dict) or not {*value} - {*EXTERNAL}:
            hint = "a mapping of terms to scale, clip and noise"
            raise self._refuse("observation", value, f"{hint}, not of {', '.join(EXTERNAL)} alone")
        found = []
        for name, own in value.items():
            part = self._part(str(name), terms, model)
            if not isinstance(own, dict) or set(own) != {"scale", "clip", "noise"}:
                hint = "a mapping with scale, clip and noise"
                raise self._refuse(f"observation.{name}", own, hint)
            scale, clip, noise = (
                self._number(f"observation.{name}.{key}", own[key], low, 1e6)
                for key, low in (("scale", 1e-6), ("clip", 0.0), ("noise", 0.0))
            )
            term = Term(part, scale, clip or np.inf, noise)
            found.append(term.part if term.is_plain else term)
        return tuple(found)

    def _part(self, name: str, terms: Mapping[str, Observed], model: mujoco.MjModel) -> Observed:
        if name in terms:
            return terms[name]
        if name == "foot contacts":
            raise self._refuse("observation", name, "with feet, but the key feet is empty")
        sensors = {SENSOR + own: part for own, part in sensors_of(model).items()}
        if not name.startswith(SENSOR):
            known = f"{', '.join(terms)} or sensor NAME{nearest(name, [*terms, *sensors])}"
            raise self._refuse("observation", name, f"one of {known}")
        if name in sensors:
            return sensors[name]
        others = [model.sensor(i).name for i in range(model.nsensor)]
        if name.removeprefix(SENSOR) in others:
            raise self._refuse("observation", name, "a sensor that MuJoCo computes by itself")
        hint = nearest(name, sensors) if sensors else ", which has none"
        raise self._refuse("observation", name, f"a sensor of the model{hint}")

    def limbs(self, names: list[str]) -> tuple[tuple[int, ...], ...]:
        value = self.tree["limbs"]
        if not isinstance(value, dict) or not value:
            raise self._refuse("limbs", value, "a mapping of limbs to lists of actuators")
        seen: set[Any] = set()
        for limb, own in value.items():
            if not isinstance(own, list) or not own:
                raise self._refuse(f"limbs.{limb}", own, "a list of actuators, as in [hip, knee]")
            for name in own:
                if name not in names:
                    hint = f"actuators of the model{nearest(str(name), names)}"
                    raise self._refuse(f"limbs.{limb}", own, hint)
                if name in seen:
                    raise self._refuse(f"limbs.{limb}", own, f"without {name}, which comes twice")
                seen.add(name)
        return tuple(tuple(names.index(name) for name in own) for own in value.values())

    def table(self, key: str, rows: list[str], columns: tuple[str, ...]) -> list[tuple[float, ...]]:
        value = self.tree[key]
        if not isinstance(value, dict) or list(value) != rows:
            known = value if isinstance(value, dict) else ()
            other = [row for row in rows if row not in known] or list(known)
            hint = f"a mapping with all actuators of the model in their order: see {other[:1]}"
            raise self._refuse(key, list(known) or value, hint)
        for row, own in value.items():
            if not isinstance(own, dict) or set(own) != set(columns):
                raise self._refuse(f"{key}.{row}", own, "a mapping with " + ", ".join(columns))
        table = [
            tuple(self._number(f"{key}.{row}.{c}", value[row][c], -1e9, 1e9) for c in columns)
            for row in rows
        ]
        for row, (centre, scale, low, high, *gains) in zip(rows, table, strict=True):
            is_ordered = low <= centre <= high and low < high
            if not is_ordered or scale <= 0 or min(gains) < 0:
                hint = "low <= centre <= high, low < high, scale > 0, stiffness and damping >= 0"
                raise self._refuse(f"{key}.{row}", value[row], hint)
        return table
