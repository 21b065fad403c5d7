"""Parts of the observation of a robot: of the simulator's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from metarl.core.env import Quantity
from metarl.envs.robots import quantities
from metarl.envs.robots.frames import rotation
from metarl.envs.robots.robot import Edit, Observed, Reader

OPTIONAL_TERMS = ("last action", "foot contacts")
"""Terms that `metarl new-robot` leaves out."""

COMMAND, HEIGHT_SCAN = EXTERNAL = "command", "height scan"
"""Terms that a goal or a terrain gives; they come last unless the robot lists them."""

SENSOR = "sensor "
"""Beginning of the term of a sensor of the model; its name follows."""


class StatePart:
    """Base of the parts that need no forward pass after a step and no edit of the model."""

    @property
    def stage(self) -> int:
        """That of a step without a forward pass after it."""
        return int(mujoco.mjtStage.mjSTAGE_NONE)

    def edits(self) -> Sequence[Edit]:
        """Returns no edits."""
        return ()


@dataclass(frozen=True)
class ObservationField(StatePart):
    """Rows of a field of MjData, as a part of the observation.

    Attributes:
        field: Name of the field.
        first: First observed row.
        shape: Shape of the observed rows of one robot.
        limit: Values are clipped to `[-limit, limit]` [units of the field].
    """

    field: str
    first: int
    shape: tuple[int, ...]
    limit: float

    @property
    def size(self) -> int:
        """Count of numbers in the observation."""
        return int(np.prod(self.shape))

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""
        return quantities.of_field(model, self.field, self.first, self.shape[0])

    def reader(self, batch: Any) -> Reader:
        """Returns a reader of its values in a `mujoco.batch.Batch`."""
        # bodies that a variation has added come last, and are not observed
        values = batch.bind(self.field)[:, self.first : self.first + self.shape[0]]

        def read(target: np.ndarray) -> None:
            target = target.reshape(values.shape)
            if np.isfinite(self.limit):
                np.clip(values, -self.limit, self.limit, out=target)
            else:
                target[...] = values

        return read


@dataclass(frozen=True)
class JointPositions(StatePart):
    """Positions of the joints, relative to the home pose.

    Attributes:
        home: Positions of the joints in the home pose [rad or m].
        first: Number of entries of qpos before them: those of a free base.
    """

    home: tuple[float, ...]
    first: int = 7

    @property
    def size(self) -> int:
        """Count of numbers in the observation."""
        return len(self.home)

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""
        own = quantities.positions(model)[self.first : self.first + self.size]
        return [Quantity(f"{each.name} relative to home", each.unit) for each in own]

    def reader(self, batch: Any) -> Reader:
        """Returns a reader of its values in a `mujoco.batch.Batch`."""
        values, home = batch.bind("qpos")[:, self.first :][:, : self.size], np.array(self.home)

        def read(target: np.ndarray) -> None:
            np.subtract(values, home, out=target)

        return read


@dataclass(frozen=True)
class BaseVelocity(StatePart):
    """Linear velocity (3,) of a free base, in its own axes [m/s]."""

    size: int = 3

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""
        return [Quantity(f"base velocity {axis}, own axes", "m/s") for axis in "xyz"]

    def reader(self, batch: Any) -> Reader:
        """Returns a reader of its values in a `mujoco.batch.Batch`."""
        quaternion, velocity = batch.bind("qpos")[:, 3:7], batch.bind("qvel")[:, :3]

        def read(target: np.ndarray) -> None:
            np.einsum("mij,mi->mj", rotation(quaternion), velocity, out=target)

        return read


@dataclass(frozen=True)
class Gravity(StatePart):
    """Direction (3,) of the world's vertical, downwards, in the axes of a free base.

    It is (0, 0, -1) when the base is level. It comes from the orientation alone, so the tilt of the
    variation `gravity` does not show in it, as it would in an accelerometer.
    """

    size: int = 3

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""
        return [Quantity(f"direction of gravity {axis}, own axes", "1") for axis in "xyz"]

    def reader(self, batch: Any) -> Reader:
        """Returns a reader of its values in a `mujoco.batch.Batch`."""
        quaternion = batch.bind("qpos")[:, 3:7]

        def read(target: np.ndarray) -> None:
            np.negative(rotation(quaternion)[:, 2], out=target)

        return read


class EnvironmentPart(StatePart):
    """Base of the parts that the environment knows, and not the simulation."""

    def reader(self, batch: Any) -> Reader:
        """Returns a reader of zeros, for use without an environment."""
        return lambda target: target.fill(0.0)


@dataclass(frozen=True)
class LastAction(EnvironmentPart):
    """The policy's previous outputs, clipped, [units of Robot.action_scale]; 0 at the start.

    Attributes:
        size: A.
    """

    size: int

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""
        return [
            Quantity(quantities.LAST_OUTPUT + each.name, "1") for each in quantities.controls(model)
        ]


@dataclass(frozen=True)
class ExternalPart(EnvironmentPart):
    """Numbers that a goal or a terrain gives.

    Attributes:
        name: A name of EXTERNAL.
        numbers: What they are; () for a robot, which has no goal and no terrain.
    """

    name: str
    numbers: tuple[Quantity, ...] = ()

    @property
    def size(self) -> int:
        """Count of numbers in the observation."""
        return len(self.numbers)

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""
        return list(self.numbers)


@dataclass(frozen=True)
class Sensor:
    """Values of a sensor of the model after the step.

    MuJoCo applies the sensor's `cutoff`, but not its `noise`: that is a matter of the Term.

    Attributes:
        name: Its name in the model.
        size: Count of numbers.
        stage: The mjtStage that computes it.
    """

    name: str
    size: int
    stage: int

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""
        return quantities.of_sensor(model, self.name)

    def edits(self) -> Sequence[Edit]:
        """Returns no edits."""
        return ()

    def reader(self, batch: Any) -> Reader:
        """Returns a reader of its values in a `mujoco.batch.Batch`."""
        start = int(batch.model.sensor(self.name).adr[0])
        values = batch.bind("sensordata")[:, start : start + self.size]

        def read(target: np.ndarray) -> None:
            target[...] = values

        return read


@dataclass(frozen=True)
class FootContacts:
    """1 for each foot that touches something after the step, with or without a force, else 0.

    The model gets a sensor for each foot that counts its contacts. MuJoCo evaluates it with the
    forces, so that a control step costs about one physics step more.

    Attributes:
        feet: Names of the geoms.
    """

    feet: tuple[str, ...]

    @property
    def size(self) -> int:
        """Count of numbers in the observation."""
        return len(self.feet)

    @property
    def stage(self) -> int:
        """The stage of forces."""
        return int(mujoco.mjtStage.mjSTAGE_ACC)

    def edits(self) -> Sequence[Edit]:
        """Returns an edit that adds the sensors."""

        def edit(spec: mujoco.MjSpec) -> None:
            for foot in self.feet:
                spec.add_sensor(
                    type=mujoco.mjtSensor.mjSENS_CONTACT,
                    objtype=mujoco.mjtObj.mjOBJ_GEOM,
                    objname=foot,
                    name=_counter(foot),
                    intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FOUND), 0, 1],
                )

        return (edit,)

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""
        return [Quantity(f"contact of {foot}", "1") for foot in self.feet]

    def reader(self, batch: Any) -> Reader:
        """Returns a reader of its values in a `mujoco.batch.Batch`."""
        places = [int(batch.model.sensor(_counter(foot)).adr[0]) for foot in self.feet]
        counts = batch.bind("sensordata")

        def read(target: np.ndarray) -> None:
            target[...] = counts[:, places] > 0.0

        return read


def _counter(foot: str) -> str:
    """Returns the name of the sensor that counts the contacts of a foot."""
    return f"contacts of {foot}"


@dataclass(frozen=True)
class Term:
    """A part of the observation as sensors give it: clip(scale * (value + noise)).

    Attributes:
        part: The part.
        scale: Factor.
        clip: Bound of the absolute value, after scaling.
        noise: Standard deviation of normal noise, new in every step [unit of the part].
    """

    part: Observed
    scale: float = 1.0
    clip: float = np.inf
    noise: float = 0.0

    @property
    def size(self) -> int:
        """Count of numbers in the observation."""
        return self.part.size

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""
        found = self.part.quantities(model)
        if self.scale == 1.0:
            return found
        factor = f"{self.scale:g} x "
        return [Quantity(factor + each.name, f"{factor}{each.unit}") for each in found]

    def reader(self, batch: Any) -> Reader:
        """Returns a reader of the part's values."""
        return self.part.reader(batch)

    @property
    def stage(self) -> int:
        """That of the part."""
        return self.part.stage

    def edits(self) -> Sequence[Edit]:
        """Returns those of the part."""
        return self.part.edits()

    @property
    def is_plain(self) -> bool:
        """The values are as they are read."""
        return self.scale == 1.0 and np.isinf(self.clip) and not self.noise

    @property
    def has_stream(self) -> bool:
        """Numbers are drawn for it where any term has noise; not for a plain external part."""
        return not (self.is_plain and isinstance(self.part, ExternalPart))

    def finish(self, values: np.ndarray, normal: np.ndarray | None) -> None:
        """Adds noise, scales and clips values (M, size) in place; normal is standard noise."""
        if normal is not None and self.noise:
            values += self.noise * normal
        if self.scale != 1.0:
            values *= self.scale
        if np.isfinite(self.clip):
            np.clip(values, -self.clip, self.clip, out=values)


def terms_of(
    home: tuple[float, ...], model: mujoco.MjModel, planar: bool, feet: Sequence[str] = ()
) -> dict[str, Observed]:
    """Returns the parts that a robot can observe, by their name in its file, without sensors."""
    more: dict[str, Observed] = {"last action": LastAction(model.nu)}
    more |= {"foot contacts": FootContacts(tuple(feet))} if feet else {}
    if planar:
        positions = ObservationField("qpos", 1, (model.nq - 1,), np.inf)
        speeds = ObservationField("qvel", 0, (model.nv,), np.inf)
        scan = ExternalPart(HEIGHT_SCAN)
        return {"positions": positions, "speeds": speeds, **more, HEIGHT_SCAN: scan}
    names = "base velocity", "base turn", "gravity", "joint positions", "joint speeds"
    more |= {name: ExternalPart(name) for name in EXTERNAL}
    return {**dict(zip(names, observe_base(home, model.nv), strict=True)), **more}


def sensors_of(model: mujoco.MjModel) -> dict[str, Observed]:
    """Returns the sensors that a robot can observe, by their name; not those of unknown units."""
    found: dict[str, Observed] = {}
    for index in range(model.nsensor):
        name, size = model.sensor(index).name, int(model.sensor_dim[index])
        if name and quantities.has_units(model, name):
            found[name] = Sensor(name, size, int(model.sensor_needstage[index]))
    return found


def observe_base(home: tuple[float, ...], num_speeds: int) -> tuple[Observed, ...]:
    """Returns the observation of a robot with a free base, in the axes of the base."""
    return (
        BaseVelocity(),
        ObservationField("qvel", 3, (3,), np.inf),
        Gravity(),
        JointPositions(home[7:]),
        ObservationField("qvel", 6, (num_speeds - 6,), np.inf),
    )
