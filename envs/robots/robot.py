"""A robot: its model and the conventions of its control."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import mujoco
import numpy as np

from metarl.core.env import Quantity
from metarl.envs.robots.arms.couplings import Coupling, couple_state, find_couplings
from metarl.envs.robots.compiling import Edit, compile_own, compiler_warnings

HealthCheck = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Maps the torso's height (M,) [m, above the ground], qpos (M, nq), qvel (M, nv) to a mask (M,)."""

Reader = Callable[[np.ndarray], None]
"""Writes the present values of M robots to an array (M, size)."""


class Observed(Protocol):
    """A part of the observation."""

    @property
    def size(self) -> int:
        """Count of numbers."""

    def quantities(self, model: mujoco.MjModel) -> list[Quantity]:
        """Returns what its numbers are."""

    def reader(self, batch: Any) -> Reader:
        """Returns a reader of its values in a `mujoco.batch.Batch`."""

    @property
    def stage(self) -> int:
        """The mjtStage up to which its values need a forward pass after a step."""

    def edits(self) -> Sequence[Edit]:
        """Returns the edits of the model before it is compiled."""


CONES = {"pyramidal": mujoco.mjtCone.mjCONE_PYRAMIDAL, "elliptic": mujoco.mjtCone.mjCONE_ELLIPTIC}
"""Models of friction by name."""

INTEGRATORS = {
    "Euler": mujoco.mjtIntegrator.mjINT_EULER,
    "RK4": mujoco.mjtIntegrator.mjINT_RK4,
    "implicit": mujoco.mjtIntegrator.mjINT_IMPLICIT,
    "implicitfast": mujoco.mjtIntegrator.mjINT_IMPLICITFAST,
}
"""Integrators by name."""

ROUNDING = 1e-6
"""Distance from its range up to which a joint counts as inside [rad or m]."""


@dataclass(frozen=True)
class Physics:
    """Settings of the simulation.

    Attributes:
        timestep: Of a physics step [s].
        cone: A name of CONES.
        integrator: A name of INTEGRATORS.
    """

    timestep: float
    cone: str
    integrator: str

    @staticmethod
    def of(model: mujoco.MjModel) -> Physics:
        """Returns the settings of a model."""
        cone = next(name for name, value in CONES.items() if value == model.opt.cone)
        kind = model.opt.integrator
        integrator = next(name for name, value in INTEGRATORS.items() if value == kind)
        return Physics(float(model.opt.timestep), cone, integrator)

    def write(self, model: mujoco.MjModel) -> None:
        """Gives a model these settings."""
        model.opt.timestep = self.timestep
        model.opt.cone, model.opt.integrator = CONES[self.cone], INTEGRATORS[self.integrator]


@dataclass(frozen=True)
class Robot:
    """A robot's model and conventions.

    Attributes:
        name: Identifier, for example "ant".
        model_file: Path of the model, or the name of a file in Gymnasium's MuJoCo assets.
        frame_skip: Physics steps per control step.
        skip_qpos: Number of leading entries of qpos (world position) that are not observed.
        planar: The robot moves in the x-z plane (qpos[0] = x, qpos[1] = z), not in space
            (qpos[:3] = x, y, z).
        fixed: The base does not move: an arm. Then qpos holds its joints only.
        effector: Name of the site or body that an arm moves to a place.
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
        limb_names: Name of each limb; () takes that of the joint of its first actuator.
        home: Rest position (nq,); () takes that of the model.
        action_centre: Control (A,) for a policy output of zero, for example the joint angles of the
            home pose where the actuators are servos; () is zero.
        action_scale: Change of the control for a policy output of one [units of the control], the
            same for all actuators or one for each.
        control_range: Smallest and largest control of each actuator; () takes those of the model.
        servos: Stiffness and damping [N m/rad and N m s/rad, or N/m and N s/m] with which each
            motor of the model becomes a servo of its joint, whose largest force is the motor's;
            0 and 0 leave an actuator as it is. () leaves all.
        observation: The parts of the observation; () takes qpos without the world position, qvel
            and `derived`.
        ground: Name of the ground's geom.
        feet: Names of the geoms with which it stands; () is not known.
        feet_only: No other geom of the robot collides.
        colliding: Names of the geoms of the robot that alone collide; () is all, or see feet_only.
        physics: What replaces the model's own settings, if anything.
        is_own: The model is the user's: see `compile_own`.
        definition: Number that changes with the user's files; see EnvSpec.version.
        bonus: Reward of every step after which a robot of the user is healthy.
        control_cost: Weight of the sum of squares of the policy's clipped outputs, likewise.
        top_speed: Largest speed of the tasks of the goal `vel` [m/s], likewise.
        command: Weights of the goal `command` that differ from its own, by name.
        lowpass: Time constant of a first-order filter of the controls [s]; 0 is none.
        delay: Control steps by which the controls come late.
    """

    name: str
    model_file: str
    frame_skip: int
    skip_qpos: int
    planar: bool
    fixed: bool = False
    effector: str = ""
    healthy: HealthCheck | None = None
    reset_noise: float = 0.1
    uniform_speeds: bool = False
    max_observed_speed: float = np.inf
    derived: tuple[tuple[str, int], ...] = ()
    by_mass_centre: bool = False
    limbs: tuple[tuple[int, ...], ...] = ()
    limb_names: tuple[str, ...] = ()
    home: tuple[float, ...] = ()
    action_centre: tuple[float, ...] = ()
    action_scale: float | tuple[float, ...] = 1.0
    control_range: tuple[tuple[float, float], ...] = ()
    servos: tuple[tuple[float, float], ...] = ()
    observation: tuple[Observed, ...] = ()
    ground: str = "floor"
    feet: tuple[str, ...] = ()
    feet_only: bool = False
    colliding: tuple[str, ...] = ()
    physics: Physics | None = None
    is_own: bool = False
    definition: int = 0
    bonus: float = 0.5
    control_cost: float = 0.01
    top_speed: float = 1.0
    command: tuple[tuple[str, float], ...] = ()
    lowpass: float = 0.0
    delay: int = 0

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
        assets = Path(str(files("gymnasium"))) / "envs" / "mujoco" / "assets"
        path = str(assets / self.model_file)  # an absolute path replaces the folder
        edits = [_add_accelerometer, *edits] if contact_forces else edits
        if self.feet_only or self.colliding:
            edits = [_let_collide(self.colliding or self.feet, self.ground), *edits]
        edits = [*(edit for part in self.observation for edit in part.edits()), *edits]
        with compiler_warnings():
            if self.is_own:
                model = compile_own(Path(path), self.ground, ValueError, edits)
            elif edits:
                model = _compile_with(path, edits)
            else:
                model = mujoco.MjModel.from_xml_path(path)
        for actuator, (stiffness, damping) in enumerate(self.servos):
            if stiffness:
                _make_servo(model, actuator, stiffness, damping)
        if self.physics:
            self.physics.write(model)
        if self.control_range:
            model.actuator_ctrlrange[:] = self.control_range
            model.actuator_ctrllimited[:] = 1
        bits = mujoco.mjtDisableBit
        model.opt.disableflags |= bits.mjDSBL_AUTORESET | bits.mjDSBL_ISLAND
        if self.stage:
            model.opt.disableflags &= ~int(bits.mjDSBL_SENSOR)
        return model

    @property
    def stage(self) -> int:
        """The mjtStage up to which its observation needs a forward pass after a step."""
        return max((part.stage for part in self.observation), default=0)

    @property
    def height_index(self) -> int:
        """Index of the torso's height in qpos."""
        return 1 if self.planar else 2

    @property
    def observes_own_axes(self) -> bool:
        """It has a free base and observes in its own axes, so it does not know its heading."""
        return bool(self.observation) and not self.planar and not self.fixed

    def rest(self) -> np.ndarray:
        """Returns the rest position (nq,); joints that follow others are where these put them."""
        rest = np.array(self.home) if self.home else bare_model(self).qpos0.copy()
        couple_state(bare_model(self), couplings_of(self), rest, np.zeros(bare_model(self).nv))
        return rest

    def torso(self) -> int:
        """Returns the body of the base, if that moves; of an arm, that of its first joint."""
        return find_torso(bare_model(self), self.planar)

    @property
    def has_clipped_starts(self) -> bool:
        """The noise on `home` would leave the range of a joint, so it is clipped."""
        home, noise = self.rest(), self.reset_noise
        low, high = limits_of(self)
        return self.is_own and bool(((home - noise < low) | (home + noise > high)).any())

    def initial_state(
        self, rng: np.random.Generator, rest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws an initial state as Gymnasium's v5 environments do.

        Joints that follow others have no noise of their own: the state keeps their constraints. The
        joints of a user's robot stay in their ranges.

        Args:
            rng: The stream of this episode.
            rest: The rest position (nq,).

        Returns:
            qpos (nq,) and qvel (nv,), both with noise.
        """
        noise = self.reset_noise
        model = bare_model(self)
        qpos = rest + rng.uniform(-noise, noise, len(rest))
        if self.uniform_speeds:
            qvel = rng.uniform(-noise, noise, model.nv)
        else:
            qvel = noise * rng.standard_normal(model.nv)
        if self.is_own:
            np.clip(qpos, *limits_of(self), out=qpos)
        couple_state(model, couplings_of(self), qpos, qvel)
        return qpos, qvel


@functools.cache
def bare_model(robot: Robot) -> mujoco.MjModel:
    """Returns the model as Gymnasium has it, without edits; it is shared, so do not change it."""
    return robot.model()


@functools.cache
def couplings_of(robot: Robot) -> tuple[Coupling, ...]:
    """Returns the couplings of the model of a robot, leaders before their followers."""
    return tuple(find_couplings(bare_model(robot)))


def find_limits(model: mujoco.MjModel) -> np.ndarray:
    """Returns the smallest and the largest position (2, nq) of the joints [rad or m].

    Those of a free base and of joints without a range are infinite.
    """
    limits = np.repeat([[-np.inf], [np.inf]], model.nq, axis=1)
    kinds = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
    joints = np.flatnonzero(model.jnt_limited.astype(bool) & np.isin(model.jnt_type, kinds))
    limits[:, model.jnt_qposadr[joints]] = model.jnt_range[joints].T
    return limits


def find_outside(model: mujoco.MjModel, qpos: np.ndarray) -> list[int]:
    """Returns the joints that a pose (nq,) has outside of their ranges."""
    low, high = find_limits(model)
    # numbers of a file have six digits
    is_outside = (qpos < low - ROUNDING) | (qpos > high + ROUNDING)
    return [joint for joint in range(model.njnt) if is_outside[model.jnt_qposadr[joint]]]


@functools.cache
def limits_of(robot: Robot) -> np.ndarray:
    """Returns the limits (2, nq) of the joints of a robot; see `find_limits`."""
    return find_limits(bare_model(robot))


def find_torso(model: mujoco.MjModel, planar: bool) -> int:
    """Returns the body of the first joint, or of the last of the three of a planar base."""
    return int(model.jnt_bodyid[:3][-1 if planar else 0])


def _make_servo(model: mujoco.MjModel, actuator: int, stiffness: float, damping: float) -> None:
    """Turns a motor into a servo of its joint.

    Its torque is stiffness (target - position) - damping speed, of which a gear makes the force of
    the actuator, and its length of the position.
    """
    if model.actuator_ctrllimited[actuator]:
        gain = model.actuator_gainprm[actuator, 0]
        low, high = sorted(model.actuator_ctrlrange[actuator] * gain)
        if model.actuator_forcelimited[actuator]:
            least, most = model.actuator_forcerange[actuator]
            low, high = np.clip([low, high], least, most)
        model.actuator_forcerange[actuator] = low, high
        model.actuator_forcelimited[actuator] = 1
    model.actuator_biastype[actuator] = mujoco.mjtBias.mjBIAS_AFFINE
    gear = model.actuator_gear[actuator, 0]
    model.actuator_gainprm[actuator, 0] = stiffness / gear
    model.actuator_biasprm[actuator, :3] = 0.0, -stiffness / gear**2, -damping / gear**2


def _let_collide(names: Sequence[str], ground: str) -> Edit:
    """Returns an edit that switches off the contacts of the robot's other geoms."""

    def edit(spec: mujoco.MjSpec) -> None:
        others = [
            g for body in spec.bodies[1:] for g in body.geoms if g.name not in (*names, ground)
        ]
        for geom in others:
            geom.contype = geom.conaffinity = 0
        off = {geom.name for geom in others}
        for pair in list(spec.pairs):
            if off & {pair.geomname1, pair.geomname2}:
                spec.delete(pair)

    return edit


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
