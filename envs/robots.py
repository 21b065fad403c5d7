"""Robots: the model, what the policy observes, when the robot counts as healthy, and how it starts.

Models are the XML files of the Gymnasium package, so that a robot here is the robot of Gymnasium's v5 environment.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files

import mujoco
import numpy as np

DEPRECATED = "settotalmass"
"""The word in MuJoCo's warning about half_cheetah.xml, which is Gymnasium's to change."""

HealthCheck = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Robot:
    """A robot model and its conventions.

    Attributes:
        name: Identifier, for example "ant".
        model_file: File in Gymnasium's MuJoCo assets.
        frame_skip: Physics steps per control step.
        skip_qpos: How many leading entries of qpos the observation leaves out (world position).
        planar: Whether the robot moves in the x-z plane (qpos[0] = x) or in space (qpos[:2] = x, y).
        healthy: Maps qpos (M, nq), qvel (M, nv) to a mask (M,); None means always healthy.
        reset_noise: Half width of the uniform noise on qpos and standard deviation of the noise on qvel
            [units of qpos, qvel].
    """

    name: str
    model_file: str
    frame_skip: int
    skip_qpos: int
    planar: bool
    healthy: HealthCheck | None = None
    reset_noise: float = 0.1

    def model(self, *, contact_forces: bool = False) -> mujoco.MjModel:
        """Compiles the model, with MuJoCo's silent reset of a diverged simulation switched off.

        Args:
            contact_forces: Add an accelerometer. A batch computes `cfrc_ext` only where a sensor of acceleration type
                asks for it, and leaves it zero otherwise.

        Returns:
            The compiled model.
        """
        path = str(files("gymnasium") / "envs" / "mujoco" / "assets" / self.model_file)
        with _compiler_warnings():
            if contact_forces:
                model = _with_accelerometer(path)
            else:
                model = mujoco.MjModel.from_xml_path(path)
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        return model

    def initial_state(
        self, rng: np.random.Generator, qpos0: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws a starting state as Gymnasium's v5 environments do.

        Args:
            rng: The stream of this episode.
            qpos0: The model's rest position (nq,).

        Returns:
            qpos (nq,) with uniform noise and qvel (nv,) with normal noise; nv follows from the kind of robot.
        """
        num_velocities = len(qpos0) if self.planar else len(qpos0) - 1
        qpos = qpos0 + rng.uniform(-self.reset_noise, self.reset_noise, len(qpos0))
        qvel = self.reset_noise * rng.standard_normal(num_velocities)
        return qpos, qvel


@contextmanager
def _compiler_warnings() -> Generator[None]:
    """Turns the compiler's messages into Python warnings, as MuJoCo logs to MUJOCO_LOG.TXT."""
    messages: list[str] = []
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
    for message in messages:
        if DEPRECATED not in message:
            warnings.warn(message, stacklevel=4)


def _with_accelerometer(path: str) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(path)
    spec.worldbody.first_body().add_site(name="imu")
    spec.add_sensor(
        type=mujoco.mjtSensor.mjSENS_ACCELEROMETER,
        objtype=mujoco.mjtObj.mjOBJ_SITE,
        objname="imu",
        name="imu",
    )
    return spec.compile()


@dataclass(frozen=True)
class HeightBand:
    """Healthy while the torso's height lies in a band.

    Attributes:
        low: Smallest healthy height [m, world].
        high: Largest healthy height [m, world].
    """

    low: float
    high: float

    def __call__(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Maps qpos (M, nq), qvel (M, nv) to a mask (M,)."""
        return (qpos[:, 2] >= self.low) & (qpos[:, 2] <= self.high)


ANT = Robot("ant", "ant.xml", frame_skip=5, skip_qpos=2, planar=False, healthy=HeightBand(0.2, 1.0))
HALF_CHEETAH = Robot("half-cheetah", "half_cheetah.xml", frame_skip=5, skip_qpos=1, planar=True)
