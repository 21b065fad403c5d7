"""Robots: model, observation, health and initial states.

The models are the XML files of the Gymnasium package, so a robot is that of Gymnasium's v5
environment.
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
"""Part of MuJoCo's warning about half_cheetah.xml, a file of Gymnasium's."""

HealthCheck = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Maps the torso's height (M,) [m, above the ground], qpos (M, nq), qvel (M, nv) to a mask (M,)."""

Edit = Callable[[mujoco.MjSpec], None]
"""Changes a model before it is compiled."""


@dataclass(frozen=True)
class Robot:
    """A robot's model and conventions.

    Attributes:
        name: Identifier, for example "ant".
        model_file: File in Gymnasium's MuJoCo assets.
        frame_skip: Physics steps per control step.
        skip_qpos: Number of leading entries of qpos (world position) that are not observed.
        planar: The robot moves in the x-z plane (qpos[0] = x, qpos[1] = z), not in space
            (qpos[:3] = x, y, z).
        healthy: See HealthCheck; None is always healthy.
        reset_noise: Half width of the uniform noise on qpos, and size of the noise on qvel [units
            of qpos and qvel].
        uniform_speeds: The noise on qvel is uniform with half width reset_noise, not normal with
            this standard deviation.
        max_observed_speed: The observation clips qvel to this [m/s or rad/s].
        derived: Further observed fields of MjData, each with its first row.
        by_mass_centre: The robot's position is its centre of mass, not its root. As in Gymnasium,
            the centre is that of the last stage of the integrator.
        limbs: Actuators of each limb; () makes every actuator a limb.
    """

    name: str
    model_file: str
    frame_skip: int
    skip_qpos: int
    planar: bool
    healthy: HealthCheck | None = None
    reset_noise: float = 0.1
    uniform_speeds: bool = False
    max_observed_speed: float = np.inf
    derived: tuple[tuple[str, int], ...] = ()
    by_mass_centre: bool = False
    limbs: tuple[tuple[int, ...], ...] = ()

    def model(self, *, contact_forces: bool = False, edits: Sequence[Edit] = ()) -> mujoco.MjModel:
        """Compiles the model for simulations in a batch.

        Two features of MuJoCo are off: the silent reset of a diverged simulation, and the search
        for islands. A robot is one kinematic tree and so one island; without the search, its
        constraints are solved to the same bits in 5 to 9 % less time.

        Args:
            contact_forces: Compute `cfrc_ext`. A batch does so only in models with a sensor of
                acceleration type, so this adds an accelerometer.
            edits: Further changes to the model.
        """
        path = str(files("gymnasium") / "envs" / "mujoco" / "assets" / self.model_file)
        edits = [_add_accelerometer, *edits] if contact_forces else edits
        with _compiler_warnings():
            if edits:
                model = _compile_with(path, edits)
            else:
                model = mujoco.MjModel.from_xml_path(path)
        bits = mujoco.mjtDisableBit
        model.opt.disableflags |= bits.mjDSBL_AUTORESET | bits.mjDSBL_ISLAND
        return model

    @property
    def height_index(self) -> int:
        """Index of the torso's height in qpos."""
        return 1 if self.planar else 2

    def initial_state(
        self, rng: np.random.Generator, qpos0: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws an initial state as Gymnasium's v5 environments do.

        Args:
            rng: The stream of this episode.
            qpos0: The model's rest position (nq,).

        Returns:
            qpos (nq,) and qvel (nv,), both with noise.
        """
        noise = self.reset_noise
        num_velocities = len(qpos0) if self.planar else len(qpos0) - 1
        qpos = qpos0 + rng.uniform(-noise, noise, len(qpos0))
        if self.uniform_speeds:
            return qpos, rng.uniform(-noise, noise, num_velocities)
        return qpos, noise * rng.standard_normal(num_velocities)


@functools.cache
def bare_model(robot: Robot) -> mujoco.MjModel:
    """Returns the model as Gymnasium has it, without edits; it is shared, so do not change it."""
    return robot.model()


@dataclass(frozen=True)
class ObservationField:
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

    def view(self, field: np.ndarray) -> np.ndarray:
        """Returns the observed rows of the field (M, ...) of M robots."""
        # bodies that a variation has added come last, and are not observed
        return field[:, self.first : self.first + self.shape[0]]


def list_observation_fields(
    robot: Robot, model: mujoco.MjModel, *, contacts: bool
) -> list[ObservationField]:
    """Returns the fields of a robot's observation, in order.

    Args:
        robot: The robot.
        model: Its model, without other bodies.
        contacts: Append the contact forces, clipped to [-1, 1].

    Returns:
        qpos without the world position, qvel, derived fields, contact forces.
    """
    data = mujoco.MjData(model)
    fields = [("qpos", robot.skip_qpos, np.inf), ("qvel", 0, robot.max_observed_speed)]
    fields += [(name, first, np.inf) for name, first in robot.derived]
    fields += [("cfrc_ext", 0, 1.0)] if contacts else []
    return [
        ObservationField(name, first, getattr(data, name)[first:].shape, limit)
        for name, first, limit in fields
    ]


@contextmanager
def _compiler_warnings() -> Generator[None]:
    """Turns the compiler's messages into Python warnings; MuJoCo writes them to MUJOCO_LOG.TXT."""
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


def _compile_with(path: str, edits: Sequence[Edit]) -> mujoco.MjModel:
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
    """Healthy while the torso's height is in a closed interval.

    Attributes:
        low: Smallest healthy height [m, above the ground].
        high: Largest healthy height [m, above the ground].
    """

    low: float
    high: float

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
        return (height >= self.low) & (height <= self.high)


@dataclass(frozen=True)
class OpenBand:
    """Healthy while the torso's height is in an open interval.

    Attributes:
        low: Lower end [m, above the ground].
        high: Upper end [m, above the ground].
    """

    low: float
    high: float

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
        return (height > self.low) & (height < self.high)


@dataclass(frozen=True)
class Upright:
    """Healthy while a planar robot's torso is high and upright; all bounds are exclusive.

    Attributes:
        low: Lower bound of the torso's height [m, above the ground].
        high: Upper bound of the torso's height [m, above the ground].
        angle: Bound of the pitch to either side [rad].
        limit: Bound of the entries of qvel, and of qpos from the pitch on [units of qpos, qvel].
    """

    low: float
    high: float
    angle: float
    limit: float = np.inf

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
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
    max_observed_speed=10.0,
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
    max_observed_speed=10.0,
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
    # Gymnasium's rows, without those of the world and the free joint. All are Gymnasium's bit for
    # bit but cfrc_ext, which a batch computes at the start of the last substep and Gymnasium in the
    # last stage of the integrator. cinert contains the masses, so with the variation params a
    # Humanoid observes part of its task.
    derived=(("cinert", 1), ("cvel", 1), ("qfrc_actuator", 6), ("cfrc_ext", 1)),
    by_mass_centre=True,
)
ROBOTS = {robot.name: robot for robot in (ANT, HALF_CHEETAH, WALKER2D, HOPPER, HUMANOID)}
