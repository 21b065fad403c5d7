"""Robots: the model, what the policy observes, when the robot counts as healthy, and how it starts.

Models are the XML files of the Gymnasium package, so that a robot here is the robot of Gymnasium's v5 environment.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files

import mujoco
import numpy as np

DEPRECATED = "settotalmass"
"""The word in MuJoCo's warning about half_cheetah.xml, which is Gymnasium's to change."""

HealthCheck = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Maps the torso's height above the ground (M,) [m], qpos (M, nq) and qvel (M, nv) to a mask (M,)."""

Edit = Callable[[mujoco.MjSpec], None]
"""Changes a model before it is compiled."""


@dataclass(frozen=True)
class Robot:
    """A robot model and its conventions; a row of a table, hence the number of columns.

    Attributes:
        name: Identifier, for example "ant".
        model_file: File in Gymnasium's MuJoCo assets.
        frame_skip: Physics steps per control step.
        skip_qpos: How many leading entries of qpos the observation leaves out (world position).
        planar: Whether the robot moves in the x-z plane (qpos[0] = x, qpos[1] = z) or in space (qpos[:3] = x, y, z).
        healthy: See HealthCheck; None means always healthy.
        reset_noise: Half width of the uniform noise on qpos and size of the noise on qvel [units of qpos, qvel].
        uniform_speeds: Whether the noise on qvel is uniform, of that half width, or normal, of that standard
            deviation.
        max_seen_speed: The observation clips qvel to this [m/s or rad/s].
        derived: Fields of MjData that the observation appends, each with its first row.
        by_mass_centre: Whether the robot's place is its centre of mass, or its root. As in Gymnasium the centre is
            that of the last stage of the integrator.
        limbs: Actuators by limb, for what happens to a limb as a whole; () makes every actuator a limb.
    """

    name: str
    model_file: str
    frame_skip: int
    skip_qpos: int
    planar: bool
    healthy: HealthCheck | None = None
    reset_noise: float = 0.1
    uniform_speeds: bool = False
    max_seen_speed: float = np.inf
    derived: tuple[tuple[str, int], ...] = ()
    by_mass_centre: bool = False
    limbs: tuple[tuple[int, ...], ...] = ()

    def model(self, *, contact_forces: bool = False, edits: Sequence[Edit] = ()) -> mujoco.MjModel:
        """Compiles the model for simulations in a batch.

        MuJoCo's silent reset of a diverged simulation is off, and so is its search for islands: a robot is one
        kinematic tree and so one island, whose constraints are solved to the same bits without it, 5 to 9 % sooner.

        Args:
            contact_forces: Add an accelerometer. A batch computes `cfrc_ext` only where a sensor of acceleration type
                asks for it, and leaves it zero otherwise.
            edits: Further changes to the model.

        Returns:
            The compiled model.
        """
        path = str(files("gymnasium") / "envs" / "mujoco" / "assets" / self.model_file)
        edits = [_add_accelerometer, *edits] if contact_forces else edits
        with _compiler_warnings():
            if edits:
                model = _edited(path, edits)
            else:
                model = mujoco.MjModel.from_xml_path(path)
        bits = mujoco.mjtDisableBit
        model.opt.disableflags |= bits.mjDSBL_AUTORESET | bits.mjDSBL_ISLAND
        return model

    @property
    def height_index(self) -> int:
        """Which entry of qpos is the torso's height."""
        return 1 if self.planar else 2

    def initial_state(
        self, rng: np.random.Generator, qpos0: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws a starting state as Gymnasium's v5 environments do.

        Args:
            rng: The stream of this episode.
            qpos0: The model's rest position (nq,).

        Returns:
            qpos (nq,) and qvel (nv,), both with noise; nv follows from the kind of robot.
        """
        noise = self.reset_noise
        num_velocities = len(qpos0) if self.planar else len(qpos0) - 1
        qpos = qpos0 + rng.uniform(-noise, noise, len(qpos0))
        if self.uniform_speeds:
            return qpos, rng.uniform(-noise, noise, num_velocities)
        return qpos, noise * rng.standard_normal(num_velocities)


@functools.cache
def bare_model(robot: Robot) -> mujoco.MjModel:
    """The robot's model as Gymnasium has it; shared, so not to be changed."""
    return robot.model()


@dataclass(frozen=True)
class Seen:
    """A part of the observation: rows of a field of MjData.

    Attributes:
        field: Name of the field.
        first: First row seen.
        shape: Of what is seen of one robot.
        limit: Values are clipped to [-limit, limit] [units of the field].
    """

    field: str
    first: int
    shape: tuple[int, ...]
    limit: float

    @property
    def size(self) -> int:
        """How many numbers of the observation it makes."""
        return int(np.prod(self.shape))

    def view(self, field: np.ndarray) -> np.ndarray:
        """What is seen of the field (M, ...) of M robots; bodies that are not the robot's own come last."""
        return field[:, self.first : self.first + self.shape[0]]


def seen_of(robot: Robot, model: mujoco.MjModel, *, contacts: bool) -> list[Seen]:
    """The parts of a robot's observation, in order.

    Args:
        robot: The robot.
        model: Its model, with no other bodies.
        contacts: Whether contact forces, clipped to [-1, 1], come last.

    Returns:
        qpos without the place, qvel, derived fields, contact forces.
    """
    data = mujoco.MjData(model)
    fields = [("qpos", robot.skip_qpos, np.inf), ("qvel", 0, robot.max_seen_speed)]
    fields += [(name, first, np.inf) for name, first in robot.derived]
    fields += [("cfrc_ext", 0, 1.0)] if contacts else []
    return [
        Seen(name, first, getattr(data, name)[first:].shape, limit) for name, first, limit in fields
    ]


@contextmanager
def _compiler_warnings() -> Generator[None]:
    """Turns the compiler's messages into Python warnings, as MuJoCo logs to MUJOCO_LOG.TXT."""
    messages: list[str] = []
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f".*{DEPRECATED}")
            yield
    finally:
        mujoco.set_mju_user_warning(before)
    for message in messages:
        if DEPRECATED not in message:
            warnings.warn(message, stacklevel=4)


def _edited(path: str, edits: Sequence[Edit]) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(path)
    for edit in edits:
        edit(spec)
    return spec.compile()


def _add_accelerometer(spec: mujoco.MjSpec) -> None:
    spec.worldbody.first_body().add_site(name="imu")
    spec.add_sensor(
        type=mujoco.mjtSensor.mjSENS_ACCELEROMETER,
        objtype=mujoco.mjtObj.mjOBJ_SITE,
        objname="imu",
        name="imu",
    )


@dataclass(frozen=True)
class HeightBand:
    """Healthy while the torso's height lies in a band, ends included.

    Attributes:
        low: Smallest healthy height [m, above the ground].
        high: Largest healthy height [m, above the ground].
    """

    low: float
    high: float

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """See HealthCheck."""
        return (height >= self.low) & (height <= self.high)


@dataclass(frozen=True)
class OpenBand:
    """Healthy while the torso's height lies in a band, ends left out."""

    low: float
    high: float

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """See HealthCheck."""
        return (height > self.low) & (height < self.high)


@dataclass(frozen=True)
class Upright:
    """Healthy while a planar robot's torso is high enough and upright; every bound is left out.

    Attributes:
        low: Height below which the robot has fallen [m, above the ground].
        high: Height above which it cannot have come [m, above the ground].
        angle: Largest pitch to either side [rad].
        limit: Of every entry of qvel and of qpos from the pitch on [units of qpos, qvel].
    """

    low: float
    high: float
    angle: float
    limit: float = np.inf

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """See HealthCheck."""
        upright = (height > self.low) & (height < self.high) & (np.abs(qpos[:, 2]) < self.angle)
        if np.isinf(self.limit):
            return upright
        slow = (np.abs(qvel) < self.limit).all(axis=1)
        return upright & slow & (np.abs(qpos[:, 2:]) < self.limit).all(axis=1)


ANT = Robot(
    "ant",
    "ant.xml",
    frame_skip=5,
    skip_qpos=2,
    planar=False,
    healthy=HeightBand(0.2, 1.0),
    # hip and ankle of the legs hip_1 to hip_4: front left, front right, back left, back right
    limbs=((2, 3), (4, 5), (6, 7), (0, 1)),
)
HALF_CHEETAH = Robot("half-cheetah", "half_cheetah.xml", frame_skip=5, skip_qpos=1, planar=True)
WALKER2D = Robot(
    "walker2d",
    "walker2d_v5.xml",
    frame_skip=4,
    skip_qpos=1,
    planar=True,
    healthy=Upright(0.8, 2.0, 1.0),
    reset_noise=5e-3,
    uniform_speeds=True,
    max_seen_speed=10.0,
)
HOPPER = Robot(
    "hopper",
    "hopper.xml",
    frame_skip=4,
    skip_qpos=1,
    planar=True,
    healthy=Upright(0.7, np.inf, 0.2, limit=100.0),
    reset_noise=5e-3,
    uniform_speeds=True,
    max_seen_speed=10.0,
)
HUMANOID = Robot(
    "humanoid",
    "humanoid.xml",
    frame_skip=5,
    skip_qpos=2,
    planar=False,
    healthy=OpenBand(1.0, 2.0),
    reset_noise=1e-2,
    uniform_speeds=True,
    # Gymnasium's rows, without those of the world and of the free joint. All are Gymnasium's bit for bit but the contact
    # forces cfrc_ext, which a batch takes at the start of the last substep, not in the last stage of its integrator.
    # cinert tells the masses: with the variation params a Humanoid sees part of its task.
    derived=(("cinert", 1), ("cvel", 1), ("qfrc_actuator", 6), ("cfrc_ext", 1)),
    by_mass_centre=True,
)
ROBOTS = {robot.name: robot for robot in (ANT, HALF_CHEETAH, WALKER2D, HOPPER, HUMANOID)}
