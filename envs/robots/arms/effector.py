"""The end effector of an arm: its place, the joints that move it, and what an arm observes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from metarl.core.env import Quantity
from metarl.core.errors import ConfigError
from metarl.envs.robots.observation import (
    JointPositions,
    LastAction,
    ObservationField,
    StatePart,
)
from metarl.envs.robots.robot import Observed, Reader, find_limits

_WORDS = r"attachment|(end)?effector|gripper|grasp|pinch|hand|tool|fingertip|tcp|eef?"
_NAME = re.compile(rf"(?<![a-z])({_WORDS})(?![a-z])", re.IGNORECASE)
"""Names of end effectors."""


@dataclass(frozen=True)
class Effector:
    """A site or a body whose origin is the place of the end effector.

    Attributes:
        field: Its positions in MjData: site_xpos or xpos.
        row: Its row there.
        body: The body that carries it, or itself.
        offset: Its place in the axes of that body (3,) [m].
    """

    field: str
    row: int
    body: int
    offset: tuple[float, float, float]

    def position(self, data: mujoco.MjData) -> np.ndarray:
        """Returns a copy of its position (3,) [m, world]."""
        return (data.site_xpos if self.field == "site_xpos" else data.xpos)[self.row].copy()

    def joints(self, model: mujoco.MjModel) -> list[int]:
        """Returns the joints that move it, from the base on."""
        body, found = self.body, []
        while body:
            first = int(model.body_jntadr[body])
            own = range(first, first + int(model.body_jntnum[body]))
            found += [joint for joint in reversed(own) if first >= 0]
            body = int(model.body_parentid[body])
        return found[::-1]


def find_effector(model: mujoco.MjModel, name: str) -> Effector | None:
    """Returns the site of a name, else the body; None if there is neither, or no name."""
    if not name:
        return None  # a body may have no name either
    for site in range(model.nsite):
        if model.site(site).name == name:
            offset = tuple(model.site_pos[site].tolist())
            return Effector("site_xpos", site, int(model.site_bodyid[site]), offset)
    for body in range(1, model.nbody):
        if model.body(body).name == name:
            return Effector("xpos", body, body, (0.0, 0.0, 0.0))
    return None


def guess_effector(model: mujoco.MjModel) -> tuple[str, str]:
    """Returns the name of an arm's end effector, and the reason; "" if no body has a name.

    It is a site with a name like gripper or attachment, else such a body, else the last body of the
    longest chain of joints.
    """
    sites = [model.site(i).name for i in range(model.nsite)]
    bodies = [model.body(i).name for i in range(1, model.nbody)]
    for kind, names in (("site", sites), ("body", bodies)):
        for name in names:
            place = find_effector(model, name) if _NAME.search(name) else None
            if place and place.joints(model):
                return name, f"the {kind} whose name is that of an end effector"
    chains = {name: find_effector(model, name) for name in bodies if name}
    if not chains:
        return "", "no body has a name"
    length = {name: len(place.joints(model)) for name, place in chains.items() if place}
    last = max(length.values())
    return [name for name in length if length[name] == last][-1], "the end of the longest chain"


def require_arm(model: mujoco.MjModel, start: str) -> tuple[str, str]:
    """Returns the name of an arm's end effector and the reason, see `guess_effector`.

    Raises:
        ConfigError: No body has a name, or a joint on the way has no actuator; the message begins
            with `start`.
    """
    name, reason = guess_effector(model)
    place = find_effector(model, name)
    if place is None:
        raise ConfigError(f"{start}, and {reason}: name that of the end effector")
    if joint := find_idle_joint(model, place):
        raise ConfigError(f"{start}, and no arm, because its joint {joint} has no actuator")
    return name, reason


def pose_of(model: mujoco.MjModel) -> list[float]:
    """Returns the pose of an arm's model, inside the ranges of its joints, [rad or m]."""
    return np.clip(model.qpos0, *find_limits(model)).round(6).tolist()


def find_idle_joint(model: mujoco.MjModel, effector: Effector) -> str:
    """Returns the name of a joint that moves the effector and that nothing drives, else ""."""
    driven: set[int] = set()
    kinds = mujoco.mjtTrn
    for kind, target in zip(model.actuator_trntype, model.actuator_trnid[:, 0], strict=True):
        if kind in (int(kinds.mjTRN_JOINT), int(kinds.mjTRN_JOINTINPARENT)):
            driven.add(int(target))
        elif kind == int(kinds.mjTRN_TENDON):
            driven |= _joints_of_tendon(model, int(target))
    for kind, *ends in zip(model.eq_type, model.eq_obj1id, model.eq_obj2id, strict=True):
        if kind == int(mujoco.mjtEq.mjEQ_JOINT) and driven & set(map(int, ends)):
            driven |= set(map(int, ends))
    idle = [joint for joint in effector.joints(model) if joint not in driven]
    return (model.joint(idle[0]).name or f"joint {idle[0]}") if idle else ""


def _joints_of_tendon(model: mujoco.MjModel, tendon: int) -> set[int]:
    """Returns the joints that a fixed tendon combines; of one through space, all."""
    wraps = range(model.tendon_adr[tendon], model.tendon_adr[tendon] + model.tendon_num[tendon])
    if any(model.wrap_type[i] != int(mujoco.mjtWrap.mjWRAP_JOINT) for i in wraps):
        return set(range(model.njnt))
    return {int(model.wrap_objid[i]) for i in wraps}


@dataclass(frozen=True)
class EffectorPosition(StatePart):
    """Position (3,) of the end effector [m], in the axes of the world that holds the base.

    Attributes:
        effector: Name of its site or body.
    """

    effector: str
    size: int = 3

    @property
    def stage(self) -> int:
        """The stage of positions: it is the place after the step, not before its last substep."""
        return int(mujoco.mjtStage.mjSTAGE_POS)

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""
        return [Quantity(f"{self.effector} position {axis}, world", "m") for axis in "xyz"]

    def reader(self, batch: Any) -> Reader:
        """Returns a reader of its values in a `mujoco.batch.Batch`."""
        place = find_effector(batch.model, self.effector)
        assert place is not None, self.effector  # the robot was built with it
        values = batch.bind(place.field)[:, place.row]

        def read(target: np.ndarray) -> None:
            target[...] = values

        return read


def observe_arm(home: tuple[float, ...], num_speeds: int, effector: str) -> tuple[Observed, ...]:
    """Returns the observation of an arm: joints, their speeds and the end effector."""
    return (
        JointPositions(home, first=0),
        ObservationField("qvel", 0, (num_speeds,), np.inf),
        EffectorPosition(effector),
    )


def terms_of_arm(
    home: tuple[float, ...], model: mujoco.MjModel, effector: str
) -> dict[str, Observed]:
    """Returns the parts that an arm can observe, by their name in its file."""
    names = "joint positions", "joint speeds", "effector position"
    own = dict(zip(names, observe_arm(home, model.nv, effector), strict=True))
    return {**own, "last action": LastAction(model.nu)}
